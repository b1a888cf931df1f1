"""config.json of gte as its own code on the Hub has it (`model_type` new), in the words of transformers 5.

That code (configuration.py and modeling.py of Alibaba's new-impl) can do more than transformers' class; what
that class does not do is refused by name. A key that is not there has the default of that code, not of
transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bertonnx.errors import CheckpointError
from bertonnx.exporters.checkpoint.config_reads import Reads
from bertonnx.exporters.checkpoint.keys import Account, shown
from bertonnx.wording import Message

__all__ = ["gte_keys"]

_DEFAULTS: Mapping[str, Any] = {
    "hidden_act": "gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 2048,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "type_vocab_size": 1,
    "vocab_size": 30528,
}

_FIXED: Mapping[str, tuple[Any, Any]] = {
    "layer_norm_type": ("layer_norm", "layer_norm"),
    "logn_attention_clip1": (False, False),
    "logn_attention_scale": (False, False),
    "pack_qkv": (True, True),
    "position_embedding_type": ("rope", "rope"),
}
"""What transformers' class does in one way only: key -> the default of that code, and that way."""

_IDLE = frozenset({"unpad_inputs", "use_memory_efficient_attention"})
"""Keys of how fast it is."""

_MARKS = _IDLE | {*_FIXED}


def gte_keys(raw: Mapping[str, Any], live: Reads, account: Account) -> dict[str, Any]:
    """Translate what the family's own code on the Hub writes.

    Raises:
        CheckpointError: transformers' class does not compute what a key says.
    """
    # Version 4 has no class of the family, which is said elsewhere.
    if not {*raw} & _MARKS or "rope_parameters" not in live.reads:
        return dict(raw)
    for key, (default, wanted) in _FIXED.items():
        if raw.get(key, default) != wanted:
            raise _unlike(key, raw[key], shown(wanted))
    # Its head of words has the activation of the encoder, and transformers' always GELU.
    heads = [str(name) for name in raw.get("architectures") or ()]
    if raw.get("hidden_act", "gelu") != "gelu" and any(name.endswith("ForMaskedLM") for name in heads):
        raise _unlike("hidden_act", raw["hidden_act"], '"gelu" in the head of words')
    own = {"rope_scaling", "rope_theta"} | _MARKS
    found = {**_DEFAULTS, **{key: value for key, value in raw.items() if key not in own}}
    found["rope_parameters"] = _rotary(float(raw.get("rope_theta", 10000.0)), raw.get("rope_scaling"))
    account.note(
        Message("config.json is in the words of gte's own code, and was read in those of transformers")
    )
    size = found["hidden_size"] // found["num_attention_heads"]
    factor = found["rope_parameters"].get("factor")
    if factor is not None:
        found["rope_parameters"]["factor"] = float(factor ** (2 / size))
    return found


def _rotary(base: float, scaling: Any) -> dict[str, Any]:
    """Return the rotary positions; of scaled ones the factor as it stands there.

    Its own scaling ("ntk") multiplies the base by a factor, and divides all frequencies by one: what
    transformers calls linear does the latter.
    """
    if scaling is None:
        return {"rope_type": "default", "rope_theta": base}
    if not isinstance(scaling, Mapping) or scaling.get("type") != "ntk":
        raise _unlike("rope_scaling", scaling, 'the type "ntk"')
    if scaling.get("mixed_b") is not None or {*scaling} - {"factor", "mixed_b", "type"}:
        raise _unlike("rope_scaling", scaling, "a factor")
    factor = scaling.get("factor")
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or factor <= 0:
        raise _unlike("rope_scaling", scaling, "a factor")
    # Up to 1 its longest input stays what it was, and so do its frequencies.
    if factor <= 1:
        return {"rope_type": "default", "rope_theta": base}
    return {"rope_type": "linear", "rope_theta": base * factor, "factor": factor}


def _unlike(key: str, value: object, wanted: str) -> CheckpointError:
    return CheckpointError(
        "config.json has {key} {value} in the words of gte's own code, and transformers' gte computes with "
        "{wanted} alone, so its results would be others",
        key=key,
        value=shown(value),
        wanted=wanted,
    )
