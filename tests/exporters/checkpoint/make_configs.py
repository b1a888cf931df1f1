"""Writes config.json of every family as the installed transformers saves it, usual settings and unusual ones.

    python -m tests.exporters.checkpoint.make_configs

Run it under each version of transformers; each adds its part to `data/configs.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bertonnx.exporters.checkpoint.config_tables import read_tables
from bertonnx.exporters.quiet import quiet
from bertonnx.models.families import FAMILIES

__all__ = ["CONFIGS", "configs"]

CONFIGS = Path(__file__).with_name("data") / "configs.json"

_UNUSUAL: tuple[dict[str, Any], ...] = (
    {
        "activation": "relu",
        "hidden_act": "relu",
        "hidden_activation": "relu",
        "layer_norm_eps": 1e-3,
        "norm_eps": 1e-3,
        "pad_token_id": 7,
        "rms_norm_eps": 1e-3,
        "tie_word_embeddings": False,
        "type_vocab_size": 1,
    },
    {
        "attention_type": "original_full",
        "causal": False,
        "classifier_pooling": "mean",
        "embedding_size": 32,
        "emb_layer_norm_before": True,
        "global_attn_every_n_layers": 4,
        "global_rope_theta": 90.0,
        "layer_types": [("full_attention", "sliding_attention")[layer % 4 > 0] for layer in range(22)],
        "local_attention": 64,
        "local_rope_theta": 80.0,
        "position_biased_input": False,
        "position_embedding_type": "relative_key",
        "pre_norm": True,
        "relative_attention": True,
        "rope_parameters": {"rope_theta": 500.0, "rope_type": "default"},
        "rope_theta": 500.0,
        "rotary_value": True,
        "sinusoidal_embeddings": True,
        "sinusoidal_pos_embds": True,
        "trigram_input": False,
        "use_task_id": True,
    },
)
_MODERN = {
    "full_attention": {"rope_theta": 90.0, "rope_type": "default"},
    "sliding_attention": {"rope_theta": 80.0, "rope_type": "default"},
}


def configs(version: str) -> Iterator[dict[str, Any]]:
    """Yield what a version saved: for each family its usual config.json, then the unusual ones."""
    for usual, *changes in json.loads(CONFIGS.read_text(encoding="utf-8"))[version].values():
        yield usual
        yield from ({**usual, **change} for change in changes)


def _saved(family: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what the installed transformers writes for those of the settings that the family has."""
    import transformers

    version = str(transformers.__version__)
    fields = read_tables().of(family)[version].known | {*read_tables().shared[version]}
    own = {key: value for key, value in settings.items() if key in fields}
    # The one family with parameters for each kind of layer, and a number of layers that the list above has.
    if "rope_parameters" in own and "global_rope_theta" in fields:
        own["rope_parameters"] = _MODERN
    elif "layer_types" in own:
        del own["layer_types"]
    with quiet():
        made: dict[str, Any] = transformers.CONFIG_MAPPING[family](**own).to_diff_dict()
    return json.loads(json.dumps(made, default=str))  # type: ignore[no-any-return]


def _with_changes(usual: dict[str, Any], *others: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        usual,
        *({key: value for key, value in other.items() if usual.get(key) != value} for other in others),
    ]


def main() -> None:
    """Add the installed version's part."""
    import transformers

    found = json.loads(CONFIGS.read_text(encoding="utf-8")) if CONFIGS.is_file() else {}
    found[str(transformers.__version__)] = {
        row.name: _with_changes(*(_saved(row.name, settings) for settings in ({}, *_UNUSUAL)))
        for row in FAMILIES
        if row.name in transformers.CONFIG_MAPPING
    }
    lines = [
        f"{json.dumps(version)}: {{\n"
        + ",\n".join(
            f"  {json.dumps(name)}: {json.dumps(part[name], sort_keys=True)}" for name in sorted(part)
        )
        + "\n}"
        for version, part in sorted(found.items())
    ]
    CONFIGS.parent.mkdir(exist_ok=True)
    CONFIGS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
