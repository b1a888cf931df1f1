"""The account of config.json: each key is read by the installed transformers, translated, refused or private.

A configuration class keeps any key, whether or not its model reads it. So a key that a version of
transformers reads and the installed one does not would silently change what the model computes, for us as
for the PyTorch model that we compare with. Which version reads what is in a table
(`exporters.checkpoint.config_tables`), and for the installed one it is looked up in its code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bertonnx.errors import CheckpointError
from bertonnx.exporters.checkpoint.config_reads import Reads, installed_reads, shared_keys
from bertonnx.exporters.checkpoint.config_tables import read_tables
from bertonnx.exporters.checkpoint.keys import Account, shown
from bertonnx.exporters.quiet import quiet
from bertonnx.models.families import family as family_named
from bertonnx.models.registry import resolve
from bertonnx.wording import Install, Message

__all__ = ["CONFIG", "other_version", "settled"]

CONFIG = "config.json"

_OURS = frozenset(
    {"auto_map", "model_type", "sbert_ce_default_activation_function", "sentence_transformers"}
    | {"_name_or_path", "_num_labels", "transformers.js_config"}
    | {"reference_compile", "repad_logits_with_grad"}
)
"""Keys that are read elsewhere, or say nothing of what the model computes."""

_TOKEN_ID = "_token_id"
"""How keys end whose ids the tokenizer has, and which a model that reads them has as keys of its own."""

_SET_HERE = ("_attn_implementation", "_attn_implementation_autoset", "attn_implementation", "use_return_dict")
"""Keys that the export sets itself, and that some classes will not be given."""

_NO_ENCODER: Mapping[str, Message] = {
    "add_cross_attention": Message("so that it reads another model's output, as decoders do"),
    # Version 5 hides later tokens by it in any family, and only where nothing is padded.
    "is_causal": Message("so that tokens read only those before them, as in decoders"),
    "per_layer_config": Message("so that its layers differ from each other, which cannot be exported"),
    "quantization_config": Message(
        "so its weights are quantized already; export the checkpoint that it was made from"
    ),
    # transformers then reads that file, whatever else lies beside it.
    "transformers_weights": Message(
        "so its weights lie in that file, and bertonnx reads model.safetensors; give it that name, and take "
        "the key out"
    ),
}
"""Keys that no option can lift: with them, the model is another one, or cannot be exported."""

_SCALED: Mapping[str, frozenset[str]] = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "dynamic": frozenset({"factor"}),
    "llama3": frozenset(
        {"factor", "high_freq_factor", "low_freq_factor", "original_max_position_embeddings"}
    ),
    "yarn": frozenset(
        {"attention_factor", "beta_fast", "beta_slow", "factor", "mscale", "mscale_all_dim", "truncate"}
        | {"original_max_position_embeddings"}
    ),
}
"""Kind of rotary positions -> the keys of `rope_parameters` that transformers reads for it."""

_ALWAYS = frozenset({"rope_theta", "rope_type", "type"})


def settled(raw: Mapping[str, Any], account: Account) -> dict[str, Any]:
    """Return config.json as the installed transformers reads it, having accounted for every key.

    Args:
        raw: config.json as it lies in the folder, of an encoder (`encoders.require_encoder`).
        account: takes down what is private or ignored.

    Raises:
        CheckpointError: a key means something that the installed transformers would leave out, or that no
            encoder of ours can be.
    """
    for key, why in _NO_ENCODER.items():
        if raw.get(key):
            raise CheckpointError(
                "config.json has {key} {value}, {why}", key=key, value=shown(raw[key]), why=why
            )
    if not raw.get("quantization_config", True) and raw["quantization_config"] is not None:
        raise CheckpointError(
            "config.json has quantization_config {value}, which names no method, and on which transformers "
            "fails; take the key out",
            value=shown(raw["quantization_config"]),
        )
    # Version 4 fails on a null too, which version 5 passes over.
    raw = {key: value for key, value in raw.items() if key != "quantization_config"}
    name = str(raw["model_type"])
    # The checkpoint's own code reads what it likes, and no table knows it.
    if raw.get("auto_map"):
        return dict(raw)
    # Looked up in its code only where the table has not done so already, which takes a while.
    live = read_tables().of(name).get(_installed()) or installed_reads(name)
    row = family_named(name)
    known = {key: value for key, value in raw.items() if key not in _SET_HERE}
    # Code on the Hub has kinds of rotary positions of its own, which are translated first.
    coded = row is not None and row.stands_for_code
    if not coded:
        _account_for_rotary(known, name, live)
    known |= _left_out(known, name, live)
    if row is not None and row.translate:
        known = resolve(row.translate)(known, live, account)
    if coded:
        _account_for_rotary(known, name, live)
    _account_for(known, name, live, account)
    return known


def _left_out(raw: Mapping[str, Any], name: str, live: Reads) -> dict[str, Any]:
    """Return the keys that are not there since they held the default of the version that saved them.

    Only those that the installed version reads, and whose default is another there.
    """
    tables = read_tables()
    saver = _saver(raw, tables.versions)
    reads = tables.of(name).get(saver)
    if reads is None:
        return {}
    there = {*raw, *(key for alias, key in live.aliases.items() if alias in raw)}
    then = {**tables.shared[saver], **reads.reads, **reads.kept}
    now = {**_shared(), **live.reads, **live.kept}
    return {
        key: value
        for key, value in then.items()
        if key not in there and value is not None and now.get(key) is not None and now[key] != value
    }


def _saver(raw: Mapping[str, Any], versions: Sequence[str]) -> str:
    """Return the version of the table that stands for the one that saved config.json."""
    # Version 3 and those before it did not write the key, and had the defaults of 4.
    major = str(raw.get("transformers_version") or "4").partition(".")[0]
    alike = [version for version in versions if version.partition(".")[0] == major]
    return alike[-1] if alike else versions[0 if major < "5" else -1]


def other_version(key: str, value: object, name: str) -> CheckpointError:
    """Return the refusal of a key that another version of transformers reads, and the installed one does not.

    Args:
        key: the key; of a nested object, with dots.
        value: what stands there.
        name: `model_type`.
    """
    top = key.partition(".")[0]
    tables = read_tables()
    readers = [
        version
        for version, reads in tables.of(name).items()
        if top in reads.known or top in tables.shared[version]
    ]
    # Where all have the key, it is its value that some know.
    knowing = [version for version in readers if value in tables.of(name)[version].values.get(key, ())]
    readers = knowing or readers
    return CheckpointError(
        "config.json has {key} {value}, which transformers {installed} does not read for {family}, and "
        "{readers} does: its results would be others here; where it is installed, the export is right: "
        "{install}",
        key=key,
        value=shown(value),
        installed=_installed(),
        family=name,
        readers=" and ".join(readers),
        install=Install("export", packages=(f"transformers=={readers[-1]}",)),
    )


def _account_for(raw: Mapping[str, Any], name: str, live: Reads, account: Account) -> None:
    tables = read_tables()
    shared = {*_shared(), *(key for keys in tables.shared.values() for key in keys), *_OURS}
    others = tables.of(name)
    _refuse_shared(raw, live, name)
    private = []
    for key, value in raw.items():
        if _is_dropped(key, value, live, others.values()):
            raise other_version(key, value, name)
        if key in live.known or key in shared or key.endswith(_TOKEN_ID):
            continue
        if any(key in reads.reads or key in reads.aliases for reads in others.values()):
            if not any(_same(reads.reads.get(key), value) for reads in others.values()):
                raise other_version(key, value, name)
        elif not any(key in reads.idle for reads in others.values()):
            private.append(key)
    newer = _newer(raw)
    if newer is None:
        account.private(CONFIG, private)
    else:
        account.refuse_all(CONFIG, {key: raw[key] for key in private}, newer, remedy=_update())


def _is_dropped(key: str, value: object, live: Reads, others: Iterable[Reads]) -> bool:
    """Tell whether another version's code knows a text by which the installed one's does nothing."""
    # The default may be what a model does where no comparison holds.
    there = isinstance(value, str) and key in live.values and value != live.reads[key]
    there = there and value not in live.values[key]
    return there and any(value in reads.values.get(key, ()) for reads in others)


def _shared() -> Mapping[str, Any]:
    return read_tables().shared.get(_installed()) or shared_keys()


def _refuse_shared(raw: Mapping[str, Any], live: Reads, name: str) -> None:
    # Common to all families in one of the versions, so no family's own part of the table has them. The second
    # decides whether the last layer's vectors are normalized, as they are without it.
    asked = {"pruned_heads": bool(raw.get("pruned_heads"))}
    asked["tie_last_hidden_states"] = raw.get("tie_last_hidden_states") is False
    for key, given in asked.items():
        if given and key not in {*live.known, *_shared()}:
            raise other_version(key, raw[key], name)


def _account_for_rotary(raw: Mapping[str, Any], name: str, live: Reads) -> None:
    """Refuse what stands in the objects of rotary positions and is not read there."""
    read = {key for reads in (live, *read_tables().of(name).values()) for key in reads.reads}
    for key in ("rope_parameters", "rope_scaling"):
        if key in read and isinstance(raw.get(key), Mapping):
            _require_rotary(raw, key, raw[key], partial="partial_rotary_factor" in read)


def _require_rotary(raw: Mapping[str, Any], key: str, value: Mapping[str, Any], *, partial: bool) -> None:
    # It may hold one such object for each kind of layer.
    kinds = {*(raw.get("layer_types") or ()), "full_attention", "sliding_attention"}
    nested = {part: inner for part, inner in value.items() if part in kinds and isinstance(inner, Mapping)}
    rest = {part: inner for part, inner in value.items() if part not in nested}
    if nested and rest:
        part, inner = next(iter(rest.items()))
        raise _unread(
            f"{key}.{part}", inner, "beside parameters for each kind of layer, where it is not read"
        )
    for part, inner in nested.items() or [("", value)]:
        for item, found, why in _unread_rotary(inner, partial=partial):
            raise _unread(".".join(filter(None, (key, part, item))), found, why)


def _unread_rotary(values: Mapping[str, Any], *, partial: bool) -> Iterator[tuple[str, object, str]]:
    kind = values.get("rope_type", values.get("type", "default"))
    if kind not in _SCALED:
        known = ", ".join(_SCALED)
        yield "rope_type", kind, f"a kind of rotary positions that cannot be exported (these can: {known})"
        return
    for item, found in values.items():
        if item == "partial_rotary_factor":
            if found not in (None, 1) and not partial:
                yield item, found, "which models of this family do not read"
        elif item not in _SCALED[kind] | _ALWAYS and found is not None:
            yield item, found, f"which rope_type {kind} does not read"


def _unread(key: str, value: object, why: str) -> CheckpointError:
    return CheckpointError(
        "config.json has {key} {value}, {why}; correct config.json",
        key=key,
        value=shown(value),
        why=why,
    )


def _newer(raw: Mapping[str, Any]) -> Message | None:
    """Return what is to be said of unknown keys where a newer transformers saved them."""
    from packaging.version import InvalidVersion, Version

    saved = str(raw.get("transformers_version") or "0")
    known = [*read_tables().versions, _installed()]
    try:
        if Version(saved) <= max(map(Version, known)):
            return None
    except InvalidVersion:
        # Written by hand, so it tells nothing of the keys.
        return None
    return Message(
        "which bertonnx does not know: transformers {saved} saved it, and bertonnx knows {known}",
        saved=saved,
        known=", ".join(dict.fromkeys(known)),
    )


def _update() -> Message:
    return Message(
        "update with {install}", install=Install("export", upgrade=True, packages=("transformers",))
    )


def _installed() -> str:
    with quiet():
        import transformers

    return str(transformers.__version__)


def _same(default: object, value: object) -> bool:
    # null and an absent key are the same to a configuration class.
    return value is None or default == value
