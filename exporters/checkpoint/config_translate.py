"""What one version of transformers writes into config.json, in the words of another.

A family's row names its function (`models.families.Family.translate`), which returns config.json as the
installed transformers reads it, or refuses what that version cannot be told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bertonnx.errors import CheckpointError
from bertonnx.exporters.checkpoint.config_account import other_version
from bertonnx.exporters.checkpoint.config_reads import Reads
from bertonnx.exporters.checkpoint.keys import Account, shown
from bertonnx.wording import Message

__all__ = ["modernbert_keys"]

_FULL, _SLIDING = "full_attention", "sliding_attention"
# Of ModernBERT in both versions (configuration_modernbert.py).
_EVERY, _GLOBAL, _LOCAL = 3, 160_000.0, 10_000.0


def modernbert_keys(raw: Mapping[str, Any], live: Reads, account: Account) -> dict[str, Any]:
    """Translate a ModernBERT's kinds of layers and rotary positions.

    Version 4 has `global_attn_every_n_layers`, `global_rope_theta` and `local_rope_theta`; version 5
    `layer_types` and `rope_parameters`, and it takes the older keys where those are missing.

    Raises:
        CheckpointError: keys contradict each other, or the installed version cannot be told what they say.
    """
    found = dict(raw)
    _require_one_pattern(raw)
    _require_one_window(raw)
    _require_nested(raw)
    # Another name that version 4 gave this key, which version 5 does not know.
    if "rope_theta" in found:
        found.setdefault("global_rope_theta", found.pop("rope_theta"))
    if "rope_parameters" in live.reads:
        # Version 4 then takes the global one; version 5 would compute with null.
        if found.get("local_rope_theta", _LOCAL) is None:
            found["local_rope_theta"] = found.get("global_rope_theta", _GLOBAL)
        return found
    types = found.pop("layer_types", None)
    if types is not None:
        found["global_attn_every_n_layers"] = _period(types)
    window = found.pop("sliding_window", None)
    if window is not None:
        found["local_attention"] = 2 * window
    rotary = found.pop("rope_parameters", None)
    if rotary is not None:
        found["global_rope_theta"] = _theta(rotary, _FULL, found.get("global_rope_theta", _GLOBAL))
        found["local_rope_theta"] = _theta(rotary, _SLIDING, found.get("local_rope_theta", _LOCAL))
    changed = [
        key for key in ("layer_types", "sliding_window", "rope_parameters") if raw.get(key) is not None
    ]
    if changed:
        account.note(
            Message(
                "config.json is in the words of transformers 5, and was read in those of 4: {keys}",
                keys=", ".join(changed),
            )
        )
    return found


def _require_one_pattern(raw: Mapping[str, Any]) -> None:
    types, layers = raw.get("layer_types"), raw.get("num_hidden_layers", 22)
    if types is None:
        return
    strange = sorted({str(kind) for kind in types} - {_FULL, _SLIDING})
    if strange or len(types) != layers:
        raise CheckpointError(
            "config.json has layer_types {types}, and num_hidden_layers {layers}: it must say {full} or "
            "{sliding} for each layer; correct config.json",
            types=shown(types),
            layers=layers,
            full=_FULL,
            sliding=_SLIDING,
        )
    every = raw.get("global_attn_every_n_layers")
    if every is not None and list(types) != _pattern(every, len(types)):
        raise CheckpointError(
            "config.json has layer_types {types} and global_attn_every_n_layers {every}, which contradict "
            "each other; take out the one that is wrong",
            types=shown(types),
            every=every,
        )


def _require_one_window(raw: Mapping[str, Any]) -> None:
    # Version 5 believes the first of the two, and 4 the second.
    half, whole = raw.get("sliding_window"), raw.get("local_attention")
    if half is not None and whole is not None and half != whole // 2:
        raise CheckpointError(
            "config.json has sliding_window {half} and local_attention {whole}, which contradict each other: "
            "the first is half of the second; take out the one that is wrong",
            half=half,
            whole=whole,
        )


def _period(types: Sequence[str]) -> int:
    """Return every how many layers attention is full, from the first on."""
    for every in range(1, len(types) + 1):
        if list(types) == _pattern(every, len(types)):
            return every
    raise other_version("layer_types", list(types), "modernbert")


def _pattern(every: int, layers: int) -> list[str]:
    return [_SLIDING if layer % every else _FULL for layer in range(layers)]


def _require_nested(raw: Mapping[str, Any]) -> None:
    rotary = raw.get("rope_parameters") or {}
    unknown = sorted({*rotary} - {_FULL, _SLIDING})
    if unknown:
        raise CheckpointError(
            "config.json has rope_parameters {value}, where {unknown} is not read: ModernBERT's parameters "
            "stand under {full} and {sliding}; correct config.json",
            value=shown(rotary),
            unknown=unknown[0],
            full=_FULL,
            sliding=_SLIDING,
        )


def _theta(rotary: Mapping[str, Any], kind: str, default: float) -> float:
    """Return the base of one kind of layer's rotary positions."""
    values = rotary.get(kind) or {}
    others = {key: value for key, value in values.items() if key not in ("rope_theta", "rope_type", "type")}
    if values.get("rope_type", values.get("type", "default")) != "default" or any(others.values()):
        raise other_version(f"rope_parameters.{kind}", values, "modernbert")
    return float(values.get("rope_theta", default))
