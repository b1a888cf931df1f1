"""Loads the PyTorch model of a checkpoint for one task, and refuses it where weights are wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertonnx.errors import CheckpointError, UnsupportedError
from bertonnx.exporters.checkpoint.encoders import exportable_tasks
from bertonnx.exporters.checkpoint.folder import read_json
from bertonnx.exporters.checkpoint.keys import shown
from bertonnx.exporters.checkpoint.merging import (
    merge,
    require_same_base,
    supplied_names,
    unsaved,
    without_adapter,
)
from bertonnx.exporters.checkpoint.source import Source
from bertonnx.exporters.checkpoint.task import task_of
from bertonnx.exporters.checkpoint.unread import require_no_parts
from bertonnx.exporters.checkpoint.untied import settle_decoder, settle_decoder_biases
from bertonnx.exporters.checkpoint.unwrapping import AS_THEY_ARE, Renaming, renaming_of, unwrapped
from bertonnx.exporters.checkpoint.weight_files import require_readable, weight_files
from bertonnx.exporters.quiet import quiet
from bertonnx.models.families import family as family_named
from bertonnx.models.tasks import ENCODER, TASKS, Task
from bertonnx.wording import Install, Message, Option, Options, said_by

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["Loaded", "load_config", "load_model"]

_SHOWN = 4
_SHAPES_SHOWN = 2
_COMPUTED = ("inv_freq", "original_inv_freq", "position_ids", "token_type_ids")
"""Buffers that are computed when a model is made; some versions of transformers save them, others do not."""

_CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification", "ForMultipleChoice")
"""Heads whose weights go by the same names, so that only `architectures` tells them apart."""


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode with float32 weights.

    Attributes:
        model: the model.
        unused: names of weights in the files that it has no place for.
        renaming: what was done to the names of the weights.
    """

    model: PreTrainedModel
    unused: tuple[str, ...]
    renaming: Renaming = AS_THEY_ARE


@dataclass(frozen=True)
class _Attempt:
    model: PreTrainedModel
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]
    renaming: Renaming


class _NoSuchHeadError(Exception):
    """transformers has no class for this family and task."""


_PLAIN: Mapping[str, object] = {
    "chunk_size_feed_forward": 0,
    "gradient_checkpointing": False,
    "output_attentions": False,
    "output_hidden_states": False,
    "reference_compile": False,
    "return_dict": True,
    "torchscript": False,
    "use_cache": False,
}
"""Saved flags of somebody's experiment, which change what `forward` puts out or how, and not its numbers."""


def load_config(folder: Path, raw: Mapping[str, Any], *, trust_remote_code: bool) -> PretrainedConfig:
    """Return the configuration, set for exporting: plain attention, no extra outputs.

    Args:
        folder: holds config.json, and the checkpoint's own code where there is any.
        raw: config.json, every key accounted for (`config_account.settled`).
        trust_remote_code: whether that code may run.

    Raises:
        CheckpointError: transformers cannot make sense of config.json.
        UnsupportedError: transformers does not know the family.
    """
    with quiet():
        from transformers import CONFIG_MAPPING, AutoConfig

        try:
            config: PretrainedConfig
            if raw.get("auto_map"):
                config = AutoConfig.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=trust_remote_code
                )
            else:
                # A copy, since version 5 fills nested objects up where they stand.
                config = CONFIG_MAPPING[raw["model_type"]].from_dict(copy.deepcopy(dict(raw)))
        except Exception as error:  # any value of config.json may be of a wrong kind
            raise CheckpointError(
                "{path} cannot be used ({kind}: {why}); correct that key, or put the checkpoint's original "
                "file in its place",
                path=folder / "config.json",
                kind=type(error).__name__,
                why=said_by(error),
            ) from error
    for name, value in _PLAIN.items():
        if hasattr(config, name):
            setattr(config, name, value)
    return config


def load_model(source: Source, folder: Path, config: PretrainedConfig, row: Task, *, asked: bool) -> Loaded:
    """Return the model for a task with every weight that the task uses taken from the checkpoint.

    Args:
        source: says whether pickles may be read and whether the checkpoint's own code may run.
        folder: holds config.json and the weights.
        config: from `load_config`; it may have been changed since.
        row: the task.
        asked: the user named the task; otherwise the checkpoint's own architecture did.

    Raises:
        UnsupportedError: the checkpoint has no head for the task; lists the tasks that it can serve.
        CheckpointError: weights are missing, of a wrong shape, not finite, or cannot be read.
    """
    require_readable(folder)

    def attempt(row: Task) -> _Attempt:
        return _attempt(source, folder, config, row)

    def served() -> Options:
        return Options([Option("task", name) for name in _servable(attempt, config)])

    if _other_classifier(row, config):
        raise UnsupportedError(
            "this checkpoint cannot serve {task}: its classifier is that of {architectures}; it can serve: "
            "{served}",
            task=row.name,
            architectures=_listed(config.architectures or ()),
            served=served(),
        )
    try:
        loaded = attempt(row)
    except _NoSuchHeadError:
        raise UnsupportedError(
            "transformers has no {family} model for {task}; this checkpoint can serve: {served}",
            family=config.model_type,
            task=row.name,
            served=served(),
        ) from None
    _require_shapes(folder, loaded, config)
    require_no_parts(row, loaded.unexpected)
    missing, why = _needed(loaded), _other_head(row, config)
    if missing and (asked or why) and _lacks_head(row, loaded, missing, config):
        raise UnsupportedError(
            "this checkpoint cannot serve {task}: it has no weights for that head ({missing}){why}; it can "
            "serve: {served}",
            task=row.name,
            missing=_listed(missing),
            why=why,
            served=served(),
        )
    if missing and source.adapter is not None:
        raise unsaved(source.adapter, missing, row)
    if missing:
        raise _incomplete(row, missing, loaded)
    # Otherwise parity fails on NaN and blames ONNX Runtime for what the checkpoint holds.
    _require_finite(loaded.model)
    return Loaded(loaded.model, loaded.unexpected, loaded.renaming)


def _attempt(source: Source, folder: Path, config: PretrainedConfig, row: Task) -> _Attempt:
    adapter = source.adapter
    if adapter is None:
        return _base(source, folder, config, row)
    # An encoder is taken out of the model with a head that the adapter was trained in.
    whole = task_of(config.architectures or ())[0] if row == ENCODER else row
    loaded = _base(source, folder, config, whole)
    if adapter.named is not None:
        other = _base(source, adapter.named, config, whole)
        untold = {*loaded.missing, *loaded.mismatched, *other.missing, *other.mismatched}
        require_same_base(adapter, loaded.model, other.model, untold)
    supplied = supplied_names(adapter)
    model: Any = merge(adapter, loaded.model)
    missing = [key for key in loaded.missing if key not in supplied]
    if whole != row:
        prefix = f"{model.base_model_prefix}."
        missing = [key.removeprefix(prefix) for key in missing if key.startswith(prefix)]
        model = model.base_model
    mismatched = tuple(key for key in loaded.mismatched if key not in supplied)
    return _Attempt(model, tuple(missing), loaded.unexpected, mismatched, loaded.renaming)


def _base(source: Source, folder: Path, config: PretrainedConfig, row: Task) -> _Attempt:
    """Load a model as its folder holds it, without an adapter."""
    import torch

    # Consent to pickles is no wish for them: safetensors are taken where both lie there.
    pickled = source.trust.allow_pickle and not weight_files(folder)
    with quiet():
        import transformers

        maker: Any = getattr(transformers, row.auto_class)
        own_code = source.trust.trust_remote_code and maker.__name__ in (
            getattr(config, "auto_map", None) or {}
        )
        if type(config) not in maker._model_mapping and not own_code:
            raise _NoSuchHeadError
        renaming = AS_THEY_ARE if own_code else renaming_of(maker, config, folder, pickled=pickled)
        try:
            with (
                without_adapter(folder) as place,
                unwrapped(place, renaming, pickled=pickled) as weights,
            ):
                model, report = maker.from_pretrained(
                    weights,
                    config=config,
                    torch_dtype=torch.float32,
                    # Fusion looks for plain products and softmax in the trace, not for a single fused call.
                    attn_implementation="eager",
                    # Not to accept them: so that all of them are listed, in an error of ours.
                    ignore_mismatched_sizes=True,
                    output_loading_info=True,
                    local_files_only=True,
                    use_safetensors=bool(renaming) or not pickled,
                    trust_remote_code=source.trust.trust_remote_code,
                )
                settled = settle_decoder_biases(model, weights)
                settle_decoder(model, weights)
        except CheckpointError:
            raise
        except Exception as error:  # safetensors, torch and transformers raise many kinds for damaged files
            if not own_code:
                made = _buildable(maker, config)
                # Memory ran out, it may be, for sizes that the weights have not.
                shapes = _misshapen(folder, made, renaming)
                _require_shapes(folder, _Attempt(made, (), (), shapes, renaming), config)
            raise CheckpointError(
                "the weights in {folder} cannot be read ({kind}: {why}); download the checkpoint again",
                folder=folder,
                kind=type(error).__name__,
                why=said_by(error),
            ) from error
    return _Attempt(
        model.float().eval(),
        _learned(set(report["missing_keys"]) - settled),
        _learned(report["unexpected_keys"]),
        # Version 5 of transformers lists each with both shapes.
        tuple(sorted(key if isinstance(key, str) else key[0] for key in report["mismatched_keys"])),
        renaming,
    )


def _learned(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(name for name in names if name.rpartition(".")[2] not in _COMPUTED))


def _buildable(maker: Any, config: PretrainedConfig) -> PreTrainedModel:
    """Return a model without values, or refuse a configuration of which none can be made.

    Raises:
        CheckpointError: saying which keys hold what the model would not take, as far as can be told.
    """
    import torch

    try:
        with torch.device("meta"):
            made: PreTrainedModel = maker.from_config(copy.deepcopy(config), attn_implementation="eager")
    except Exception as error:  # any value of config.json may be of a wrong kind
        usual = type(config)().to_dict()
        named = [
            f"{key} {shown(value)}"
            for key, value in config.to_dict().items()
            if _is_wrong(key, value, usual.get(key), error)
        ]
        raise CheckpointError(
            "no model can be made of config.json{which} ({kind}: {why}); correct config.json",
            which=f", which has {', '.join(named)}" if named else "",
            kind=type(error).__name__,
            why=said_by(error),
        ) from error
    return made


def _is_wrong(key: str, value: object, usual: object, error: Exception) -> bool:
    """Tell whether it may be this key that a model cannot be made with."""
    if isinstance(usual, (int, float)) and not isinstance(value, (int, float, type(None))):
        return True
    return isinstance(value, str) and "act" in key and value in str(error)


def _misshapen(folder: Path, model: PreTrainedModel, renaming: Renaming) -> tuple[str, ...]:
    there = _shapes(folder, model.base_model_prefix, renaming)
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    return tuple(sorted(key for key, shape in wanted.items() if there.get(key, shape) != shape))


def _require_shapes(folder: Path, loaded: _Attempt, config: PretrainedConfig) -> None:
    if not loaded.mismatched:
        return
    wanted = loaded.model.state_dict()
    there = _shapes(folder, loaded.model.base_model_prefix, loaded.renaming)
    listed = "; ".join(
        f"{key} has shape {there.get(key, 'another')}, and config.json asks for {tuple(wanted[key].shape)}"
        for key in loaded.mismatched[:_SHAPES_SHOWN]
    )
    if len(loaded.mismatched) > _SHAPES_SHOWN:
        listed += f"; and {len(loaded.mismatched) - _SHAPES_SHOWN} more"
    labels = list((config.id2label or {}).values())
    # Of a head of words, its vocabulary is what does not fit.
    if all(not _in_base(key, loaded.model) and len(wanted[key]) == len(labels) for key in loaded.mismatched):
        named = read_json(folder / "config.json").get("id2label") is not None
        told = f"names {len(labels)} labels: {_listed(labels)}" if named else "is not there"
        listed += f" (id2label {told})"
    raise CheckpointError(
        "config.json and the weights do not belong together: {shapes}; correct config.json",
        shapes=listed,
    )


def _shapes(folder: Path, prefix: str, renaming: Renaming) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights on disk, by their names with and without the encoder's prefix."""
    from safetensors import safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  it is no mapping
                shape = tuple(file.get_slice(name).get_shape())
                plain = renaming(name).removeprefix(f"{prefix}.")
                shapes.update({name: shape, plain: shape, f"{prefix}.{plain}": shape})
    return shapes


def _needed(loaded: _Attempt) -> list[str]:
    """Return the missing weights that the task's outputs depend on."""
    if loaded.model.base_model is not loaded.model:
        return list(loaded.missing)
    # An encoder's own pooler makes pooler_output, and the graph ends in last_hidden_state.
    return [key for key in loaded.missing if key.split(".")[0] != "pooler"]


def _in_base(key: str, model: PreTrainedModel) -> bool:
    return model.base_model is model or key.startswith(f"{model.base_model_prefix}.")


def _lacks_head(row: Task, loaded: _Attempt, missing: Sequence[str], config: PretrainedConfig) -> bool:
    """Tell a checkpoint without the task's head from one whose head or encoder is incomplete."""
    if any(_in_base(key, loaded.model) and ".pooler." not in key for key in missing):
        return False
    if task_of(config.architectures or ())[0] != row:
        # ModernBERT's heads share layers, so that only a part of another task's head is missing.
        return True
    # Fill-mask's decoder often is the table of embeddings, so it is there even where the head is not.
    encoder = {id(parameter) for parameter in loaded.model.base_model.parameters()}
    names: dict[int, set[str]] = {}
    for key, parameter in loaded.model.named_parameters(remove_duplicate=False):
        if not _in_base(key, loaded.model) and id(parameter) not in encoder:
            names.setdefault(id(parameter), set()).add(key)
    return bool(names) and all(keys & set(missing) for keys in names.values())


def _other_classifier(row: Task, config: PretrainedConfig) -> bool:
    wanted = set(row.architectures) & set(_CLASSIFIERS)
    named = {end for name in config.architectures or () for end in _CLASSIFIERS if name.endswith(end)}
    return bool(wanted and named) and not wanted & named


def _servable(attempt: Callable[[Task], _Attempt], config: PretrainedConfig) -> list[str]:
    """Return the tasks whose every weight the checkpoint has; loads it once for each."""
    names = []
    own = getattr(config, "auto_map", None) or ()
    for name, reason in exportable_tasks(config.model_type, own).items():
        ranks = TASKS[name].ranks and config.num_labels != 1
        if reason or ranks or not TASKS[name].headed or _other_classifier(TASKS[name], config):
            continue
        # Loaded, not guessed from names: only loading tells which weights a class would miss.
        try:
            loaded = attempt(TASKS[name])
        except _NoSuchHeadError:
            continue
        if not loaded.mismatched and not _needed(loaded):
            names.append(name)
    return names or [ENCODER.name]


def _other_head(row: Task, config: PretrainedConfig) -> Message | str:
    """Return why an architecture lacks the head that its name promises, or ""."""
    family = family_named(config.model_type)
    for architecture in config.architectures or ():
        reason = "" if family is None else family.other_heads.get(architecture, "")
        if reason and architecture.endswith(row.architectures):
            return Message(", because {architecture} {reason}", architecture=architecture, reason=reason)
    return ""


def _incomplete(row: Task, missing: Sequence[str], loaded: _Attempt) -> CheckpointError:
    others: Message | str = ""
    if len(missing) == len(list(loaded.model.parameters())):
        raise CheckpointError(
            "the checkpoint holds no weight by a name that a {family} model has: it holds {weights}, and "
            "{task} needs {missing}; save the model itself, not what wraps it: "
            "model.save_pretrained('folder')",
            family=loaded.model.config.model_type,
            weights=_listed(loaded.unexpected),
            task=row.name,
            missing=_listed(missing),
        )
    base = f"{loaded.model.base_model_prefix}."
    plain = {key.removeprefix(base) for key in loaded.unexpected}
    inner = [key.removeprefix(base) for key in missing if _in_base(key, loaded.model)]
    if twins := [key for key in inner if key in plain]:
        return CheckpointError(
            "the names of some of the encoder's weights begin with {base}, and those of others do not "
            "({names}), and version 4 of transformers does not read them together; give all of them one of "
            "the two forms",
            base=base,
            names=_listed(twins),
        )
    if loaded.unexpected:
        others = Message(
            "; it holds others that {model} has not: {weights}",
            model=type(loaded.model).__name__,
            weights=_listed(loaded.unexpected),
        )
    return CheckpointError(
        "the checkpoint lacks {count} weights that {task} needs: {missing}{others}; use a complete "
        "checkpoint, or {encoder} for the encoder alone",
        count=len(missing),
        task=row.name,
        missing=_listed(missing),
        others=others,
        encoder=Option("task", ENCODER.name),
    )


def _require_finite(model: PreTrainedModel) -> None:
    import torch
    import transformers

    for name, tensor in model.state_dict().items():
        # DeBERTa's newer head of fill-mask, `"legacy": false`, comes out of version 4 like this.
        if tensor.is_meta:
            raise CheckpointError(
                "transformers {version} leaves the weights {name} of this {family} model without values; a "
                "newer version may read them: {install}",
                version=transformers.__version__,
                name=name,
                family=model.config.model_type,
                install=Install("export", upgrade=True, packages=("transformers",)),
            )
        # Where a sum is finite, all are, and it takes no memory; that of huge numbers need not be.
        if tensor.is_floating_point() and not (tensor.sum().isfinite() or torch.isfinite(tensor).all()):
            raise CheckpointError(
                "the weights {name} hold NaN or infinity, so the model can give no answers; the checkpoint "
                "was damaged, or its training diverged",
                name=name,
            )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
