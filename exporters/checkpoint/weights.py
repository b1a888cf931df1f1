"""Loads the PyTorch model of a checkpoint for one task, and refuses it where weights are wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertonnx.errors import CheckpointError, UnsupportedError
from bertonnx.exporters.checkpoint.encoders import exportable_tasks
from bertonnx.exporters.checkpoint.folder import read_json
from bertonnx.exporters.checkpoint.task import task_of
from bertonnx.exporters.quiet import quiet
from bertonnx.models.tasks import TASKS
from bertonnx.models.tasks import task as task_named

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["Loaded", "load_config", "load_model"]

_SHOWN = 8
_LFS = b"version https://git-lfs"
_CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification", "ForMultipleChoice")
"""Heads whose weights go by the same names, so that only `architectures` tells them apart."""


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode with float32 weights, and the names of weights that it has no place for."""

    model: PreTrainedModel
    unused: tuple[str, ...]


@dataclass(frozen=True)
class _Attempt:
    model: PreTrainedModel
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]


class _NoSuchHeadError(Exception):
    """transformers has no class for this family and task."""


def load_config(folder: Path, *, trust_remote_code: bool) -> PretrainedConfig:
    """Return the configuration, set for exporting: plain attention, no extra outputs.

    Raises:
        CheckpointError: transformers cannot make sense of config.json.
        UnsupportedError: transformers does not know the family.
    """
    with quiet():
        from transformers import AutoConfig

        try:
            config: PretrainedConfig = AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=trust_remote_code
            )
        except Exception as error:  # any value of config.json may be of a wrong kind
            raise CheckpointError(
                f"{folder / 'config.json'} cannot be used ({type(error).__name__}: {_short(error)}); "
                "put the checkpoint's original file in its place"
            ) from error
    config.output_attentions = False
    config.output_hidden_states = False
    config.return_dict = True
    return config


def load_model(
    folder: Path,
    config: PretrainedConfig,
    task: str,
    *,
    asked: bool,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Loaded:
    """Return the model for a task with every weight that the task uses taken from the checkpoint.

    Args:
        folder: holds config.json and the weights.
        config: from `load_config`; it may have been changed since.
        task: the task's name.
        asked: the user named the task; otherwise the checkpoint's own architecture did.
        allow_pickle: read `pytorch_model.bin` where there is no safetensors.
        trust_remote_code: run the checkpoint's own Python code.

    Raises:
        UnsupportedError: the checkpoint has no head for the task; lists the tasks that it can serve.
        CheckpointError: weights are missing, of a wrong shape, not finite, or cannot be read.
    """
    _require_readable(folder)
    pickled = allow_pickle and not any(folder.glob("model*.safetensors*"))

    def attempt(name: str) -> _Attempt:
        return _attempt(folder, config, name, pickled=pickled, trust_remote_code=trust_remote_code)

    def served() -> list[str]:
        return _servable(attempt, config)

    if _other_classifier(task, config):
        raise UnsupportedError(
            f"this checkpoint cannot serve {task}: its classifier is that of "
            f"{_listed(config.architectures or ())}; it can serve: --task {' or '.join(served())}"
        )
    try:
        loaded = attempt(task)
    except _NoSuchHeadError:
        raise UnsupportedError(
            f"transformers has no {config.model_type} model for {task}; this checkpoint can serve: "
            f"--task {' or '.join(served())}"
        ) from None
    _require_shapes(folder, loaded, config)
    missing = _needed(task, loaded)
    if missing and (asked or _beam_search(task, config)) and _lacks_head(task, loaded, missing, config):
        raise UnsupportedError(
            f"this checkpoint cannot serve {task}: it has no weights for that head ({_listed(missing)})"
            f"{_beam_search(task, config)}; it can serve: --task {' or '.join(served())}"
        )
    if missing:
        raise CheckpointError(_missing_message(task, missing, loaded))
    _require_finite(loaded.model)
    return Loaded(loaded.model, loaded.unexpected)


def _attempt(
    folder: Path, config: PretrainedConfig, task: str, *, pickled: bool, trust_remote_code: bool
) -> _Attempt:
    import torch

    with quiet():
        import transformers

        maker: Any = getattr(transformers, task_named(task).auto_class)
        own_code = trust_remote_code and maker.__name__ in (getattr(config, "auto_map", None) or {})
        if type(config) not in maker._model_mapping and not own_code:
            raise _NoSuchHeadError
        try:
            model, report = maker.from_pretrained(
                folder,
                config=config,
                torch_dtype=torch.float32,
                attn_implementation="eager",
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                local_files_only=True,
                use_safetensors=not pickled,
                trust_remote_code=trust_remote_code,
            )
        except Exception as error:  # safetensors, torch and transformers raise many kinds for damaged files
            raise CheckpointError(
                f"the weights in {folder} cannot be read ({type(error).__name__}: {_short(error)}); "
                "download the checkpoint again"
            ) from error
    return _Attempt(
        model.float().eval(),
        tuple(sorted(report["missing_keys"])),
        tuple(sorted(report["unexpected_keys"])),
        # Version 5 of transformers lists each with both shapes.
        tuple(sorted(key if isinstance(key, str) else key[0] for key in report["mismatched_keys"])),
    )


def _require_readable(folder: Path) -> None:
    """Name the damaged or absent file, which the libraries' own errors do not."""
    index = folder / "model.safetensors.index.json"
    if index.is_file() and not (folder / "model.safetensors").is_file():
        table = read_json(index).get("weight_map")
        shards = sorted(set(table.values())) if isinstance(table, Mapping) else []
        absent = [name for name in shards if not (folder / name).is_file()]
        if absent or not shards:
            raise CheckpointError(
                f"{index} lists weights in {_listed(shards) or 'no file'}, and {_listed(absent) or 'none'} "
                "is not there; download the checkpoint again"
            )
    for path in sorted(folder.glob("model*.safetensors")):
        _require_safetensors(path)


def _require_safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as stream:
        if stream.read(len(_LFS)) == _LFS:
            raise CheckpointError(
                f"{path} is a Git LFS pointer, not the weights; in the repository, type: git lfs pull"
            )
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged or cut short ({_short(error)}); download the checkpoint again"
        ) from error


def _require_shapes(folder: Path, loaded: _Attempt, config: PretrainedConfig) -> None:
    if not loaded.mismatched:
        return
    wanted = loaded.model.state_dict()
    there = _shapes(folder, loaded.model.base_model_prefix)
    shown = "; ".join(
        f"{key} has shape {there.get(key, 'another')}, and config.json asks for {tuple(wanted[key].shape)}"
        for key in loaded.mismatched[:_SHOWN]
    )
    if not any(_in_base(key, loaded.model) for key in loaded.mismatched):
        labels = list((config.id2label or {}).values())
        shown += f" (id2label names {len(labels)} labels: {_listed(labels)})"
    raise CheckpointError(f"config.json and the weights do not belong together: {shown}; correct config.json")


def _shapes(folder: Path, prefix: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights on disk, by their names with and without the encoder's prefix."""
    from safetensors import safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for path in folder.glob("model*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  it is no mapping
                shape = tuple(file.get_slice(name).get_shape())
                plain = name.removeprefix(f"{prefix}.")
                shapes.update({name: shape, plain: shape, f"{prefix}.{plain}": shape})
    return shapes


def _needed(task: str, loaded: _Attempt) -> list[str]:
    """Return the missing weights that the task's outputs depend on."""
    if task != "feature-extraction":
        return list(loaded.missing)
    # The pooler makes pooler_output, and ours is last_hidden_state.
    return [key for key in loaded.missing if key.split(".")[0] != "pooler"]


def _in_base(key: str, model: PreTrainedModel) -> bool:
    return model.base_model is model or key.startswith(f"{model.base_model_prefix}.")


def _lacks_head(task: str, loaded: _Attempt, missing: Sequence[str], config: PretrainedConfig) -> bool:
    """Tell a checkpoint without the task's head from one whose head or encoder is incomplete."""
    if any(_in_base(key, loaded.model) and ".pooler." not in key for key in missing):
        return False
    if task_of(config.architectures or ())[0] != task:
        # ModernBERT's heads share layers, so that only a part of another task's head is missing.
        return True
    encoder = {id(parameter) for parameter in loaded.model.base_model.parameters()}
    names: dict[int, set[str]] = {}
    for key, parameter in loaded.model.named_parameters(remove_duplicate=False):
        if not _in_base(key, loaded.model) and id(parameter) not in encoder:
            names.setdefault(id(parameter), set()).add(key)
    return bool(names) and all(keys & set(missing) for keys in names.values())


def _other_classifier(task: str, config: PretrainedConfig) -> bool:
    wanted = task_named(task).architectures[0]
    named = {end for name in config.architectures or () for end in _CLASSIFIERS if name.endswith(end)}
    return wanted in _CLASSIFIERS and bool(named) and wanted not in named


def _servable(attempt: Any, config: PretrainedConfig) -> list[str]:
    """Return the tasks whose every weight the checkpoint has; loads it once for each."""
    names = []
    own = getattr(config, "auto_map", None) or ()
    for task, reason in exportable_tasks(config.model_type, own).items():
        if reason or _other_classifier(task, config):
            continue
        try:
            loaded = attempt(task)
        except _NoSuchHeadError:
            continue
        if not loaded.mismatched and not _needed(task, loaded):
            names.append(task)
    return names or [TASKS.names[0]]


def _beam_search(task: str, config: PretrainedConfig) -> str:
    """Return why an XLM or FlauBERT checkpoint may lack the head that other families have, or ""."""
    architectures = config.architectures or []
    beam = any(name.endswith("ForQuestionAnswering") for name in architectures)
    if task != "question-answering" or not beam or config.model_type not in ("xlm", "flaubert"):
        return ""
    return f", because {architectures[0]} is the beam-search head, which gives no start and end logits"


def _missing_message(task: str, missing: Sequence[str], loaded: _Attempt) -> str:
    message = f"the checkpoint lacks {len(missing)} weights that {task} needs: {_listed(missing)}"
    if loaded.unexpected:
        message += (
            f"; it holds others that {type(loaded.model).__name__} has not: {_listed(loaded.unexpected)}"
        )
    return f"{message}; use a complete checkpoint, or --task feature-extraction for the encoder alone"


def _require_finite(model: PreTrainedModel) -> None:
    import torch

    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"the weights {name} hold NaN or infinity, so the model can give no answers; "
                "the checkpoint was damaged, or its training diverged"
            )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
