"""config.json of nomic_bert as its own code on the Hub has it, in the words of transformers 5.

That code (configuration_hf_nomic_bert.py, modeling_hf_nomic_bert.py of contrastors) extends GPT-2's
configuration, and can do more than transformers' class; what that class does not do is refused by name. A key
that is not there has the default of that code, not of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bertonnx.errors import CheckpointError
from bertonnx.exporters.checkpoint.config_reads import Reads
from bertonnx.exporters.checkpoint.keys import Account, shown
from bertonnx.wording import Message

__all__ = ["nomic_keys"]

_NAMES: Mapping[str, tuple[str, Any]] = {
    "n_embd": ("hidden_size", 768),
    "n_head": ("num_attention_heads", 12),
    "n_inner": ("intermediate_size", None),
    "n_layer": ("num_hidden_layers", 12),
    "n_positions": ("max_position_embeddings", 1024),
    "layer_norm_epsilon": ("layer_norm_eps", 1e-5),
}
"""Its name of a key -> the name in transformers, and its default."""

_GATES: Mapping[str, str] = {"swiglu": "silu", "geglu": "gelu", "glu": "sigmoid"}
"""`activation_function` -> the activation behind the gate; without a gate there is one projection less."""

_FIXED: Mapping[str, tuple[Any, Any]] = {
    "causal": (False, False),
    "mlp_fc1_bias": (True, False),
    "mlp_fc2_bias": (True, False),
    "num_experts": (0, 0),
    "parallel_block": (False, False),
    "prenorm": (False, False),
    "qkv_proj_bias": (True, False),
    "rotary_emb_fraction": (0.0, 1.0),
    "rotary_emb_interleaved": (False, False),
    "rotary_emb_scale_base": (None, None),
    "rotary_scaling_factor": (None, None),
    "scale_attn_by_inverse_layer_idx": (False, False),
    "scale_attn_weights": (True, True),
    "use_rms_norm": (False, False),
}
"""What transformers' class does in one way only: key -> the default of that code, and that way."""

_IDLE = frozenset(
    {"attn_pdrop", "dense_seq_output", "embd_pdrop", "fused_bias_fc", "fused_dropout_add_ln", "resid_pdrop"}
    | {"max_trained_positions", "parallel_block_tied_norm", "reorder_and_upcast_attn", "use_flash_attn"}
    | {"expert_choice_router", "ffn_div", "moe_every_n_layers", "moe_impl", "moe_normalize_expert_weights"}
    | {"moe_resid_pdrop", "moe_top_k", "num_shared_experts", "router_aux_loss_coef", "use_xentropy"}
    | {"summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type"}
    | {"summary_use_proj", "last_layer_subset"}
)
"""Keys of training, of how fast it is, and of experts where there are none."""

_OTHERS = frozenset({"activation_function", "pad_vocab_size_multiple", "rotary_emb_base"})


def nomic_keys(raw: Mapping[str, Any], live: Reads, account: Account) -> dict[str, Any]:
    """Translate what the family's own code on the Hub writes.

    Raises:
        CheckpointError: transformers' class does not compute what a key says.
    """
    # Version 4 has no class of the family, which is said elsewhere.
    if not {*raw} & {*_NAMES} or "rope_parameters" not in live.reads:
        return dict(raw)
    for key, (default, wanted) in _FIXED.items():
        value = raw.get(key, default)
        # null, false and 0 all say that there is none.
        if value != wanted and not (not value and not wanted):
            raise _unlike(key, value, wanted)
    activation = raw.get("activation_function", "gelu_new")
    if activation not in _GATES:
        raise _unlike("activation_function", activation, " or ".join(_GATES))
    own = {*_NAMES, *_FIXED, *_IDLE, *_OTHERS}
    found = {key: value for key, value in raw.items() if key not in own}
    for key, (name, default) in _NAMES.items():
        value = raw.get(key, default)
        # Of the inner size alone null has a meaning, that of GPT-2.
        found[name] = value if value is not None else 4 * raw.get("n_embd", _NAMES["n_embd"][1])
        if raw.get(name, found[name]) != found[name]:
            raise CheckpointError(
                "config.json has {key} {value} and {name} {other}, which are two names of one thing; take "
                "out the one that is wrong",
                key=key,
                value=shown(value),
                name=name,
                other=shown(raw[name]),
            )
    # The table of words has rows that no word uses.
    multiple = raw.get("pad_vocab_size_multiple") or 1
    found["vocab_size"] = -(-raw.get("vocab_size", 50257) // multiple) * multiple
    found["hidden_act"] = _GATES[activation]
    found["rope_parameters"] = {"rope_type": "default", "rope_theta": float(raw.get("rotary_emb_base", 1e4))}
    account.note(
        Message("config.json is in the words of nomic's own code, and was read in those of transformers")
    )
    return found


def _unlike(key: str, value: object, wanted: object) -> CheckpointError:
    return CheckpointError(
        "config.json has {key} {value} in the words of nomic's own code, and transformers' nomic_bert "
        "computes with {wanted} alone, so its results would be others",
        key=key,
        value=shown(value),
        wanted=wanted if isinstance(wanted, str) else shown(wanted),
    )
