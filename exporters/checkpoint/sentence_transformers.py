"""Reads what a Sentence-Transformers folder adds to a checkpoint: pooling, dense layers, prompts.

Only its files are read; the package itself is not needed. Names and defaults are those of
sentence-transformers 5.7 (`base/modules/`, `sentence_transformer/modules/`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bertonnx.errors import CheckpointError, SourceError, UnsupportedError
from bertonnx.exporters.checkpoint.folder import read_json
from bertonnx.models.pooling import POOLINGS, modes_of
from bertonnx.models.tasks import ENCODER
from bertonnx.wording import Option

__all__ = ["DENSE_ACTIVATIONS", "Dense", "SentenceModules", "read_modules", "read_prompts"]

DENSE_ACTIVATIONS: Mapping[str, str] = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
}
"""PyTorch's class -> `Dense.activation`."""

# Early versions named the file after the family; these are the names that Sentence-Transformers looks for.
_TRANSFORMER_CONFIGS = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# Arguments of the Transformer module that leave the numbers as they are.
_HARMLESS_ARGUMENTS = frozenset(
    {"add_pooling_layer", "attn_implementation", "dtype", "torch_dtype", "trust_remote_code"}
)
_ARGUMENTS = (
    *("model_args", "model_kwargs", "config_args", "config_kwargs"),
    *("tokenizer_args", "processor_kwargs", "processing_kwargs"),
)


@dataclass(frozen=True, eq=False)
class Dense:
    """A linear layer on the sentence embedding, then an activation.

    Attributes:
        weight: float32 of shape (out_features, in_features).
        bias: float32 of shape (out_features,), or None.
        activation: one of the values of `DENSE_ACTIVATIONS`.
    """

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32] | None
    activation: str


@dataclass(frozen=True, eq=False)
class SentenceModules:
    """What follows the transformer, in this order: pooling, dense layers, normalization.

    Attributes:
        folder: where the transformer's config.json and weights lie.
        pooling: name of a row of `models.pooling`.
        dense: the dense layers in their order.
        normalize: whether the embedding is brought to length 1 at the end.
        max_seq_length: longest input in tokens, or None where the folder does not say.
        lower: whether Sentence-Transformers lower-cases the text first.
        prompts: name -> text that is put before a text where that prompt is asked for.
        default_prompt: name of the prompt that is used where none is asked for.
    """

    folder: Path
    pooling: str
    dense: tuple[Dense, ...] = ()
    normalize: bool = False
    max_seq_length: int | None = None
    lower: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None


def read_modules(folder: Path, *, allow_pickle: bool = False) -> SentenceModules | None:
    """Return the modules of a Sentence-Transformers folder, or None for any other folder.

    A cross-encoder's folder is a plain checkpoint for text classification, so None too.

    Raises:
        UnsupportedError: a module, a pooling or an order of modules that bertonnx has not.
        CheckpointError: a file is missing or broken.
        SourceError: a dense layer lies in a pickle file, and `allow_pickle` is off.
    """
    if not (folder / "modules.json").is_file():
        return None
    settings = _optional_json(folder / "config_sentence_transformers.json")
    # Cross-encoders get a modules.json too, but a plain one's head lies in the checkpoint itself.
    if settings.get("model_type") == "CrossEncoder":
        return None
    modules = _module_list(folder)
    _require_order([name for name, _ in modules], folder)
    transformer = modules[0][1]
    pooling, include_prompt = _pooling(next(path for name, path in modules if name == "Pooling"))
    prompts, default = read_prompts(settings, folder)
    # The prompt's tokens would have to be told from the text's inside the graph, which sees only ids.
    if default and prompts.get(default) and not include_prompt:
        raise UnsupportedError(
            "{folder}: pooling leaves the default prompt out (include_prompt is false), which bertonnx "
            "cannot; remove default_prompt_name from config_sentence_transformers.json and put the prompt in "
            "your texts",
            folder=folder,
        )
    options = _transformer_options(transformer)
    return SentenceModules(
        folder=transformer,
        pooling=pooling,
        dense=tuple(_dense(path, allow_pickle=allow_pickle) for name, path in modules if name == "Dense"),
        normalize=any(name == "Normalize" for name, _ in modules),
        max_seq_length=options.get("max_seq_length"),
        lower=bool(options.get("do_lower_case", False)),
        prompts=prompts,
        default_prompt=default,
    )


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _module_list(folder: Path) -> list[tuple[str, Path]]:
    """Return class name and folder of each module, in order."""
    path = folder / "modules.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        modules = [(str(entry["type"]), str(entry["path"])) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            "{path} cannot be read ({kind}: {why}); put the checkpoint's original file in its place",
            path=path,
            kind=type(error).__name__,
            why=error,
        ) from error
    return [(_class_name(kind, folder), _inside(folder, place)) for kind, place in modules]


def _class_name(kind: str, folder: Path) -> str:
    if not kind.startswith("sentence_transformers."):
        raise UnsupportedError(
            "{folder}: the module {module} is the checkpoint's own code, which bertonnx cannot export; only "
            "Transformer, Pooling, Dense and Normalize of Sentence-Transformers work",
            folder=folder,
            module=kind,
        )
    return kind.rpartition(".")[2]


def _inside(folder: Path, place: str) -> Path:
    # Names in modules.json are a stranger's: one such as ../../secret must not be read.
    path = folder / place
    if not path.resolve().is_relative_to(folder.resolve()) and not _is_cache_link(folder, path):
        raise CheckpointError(
            "{folder}/modules.json points out of its folder, to {place!r}", folder=folder, place=place
        )
    return path


def _is_cache_link(folder: Path, path: Path) -> bool:
    # In the Hub's cache files, not folders, are links; a place without ".." stays below.
    return not path.is_absolute() and ".." not in path.relative_to(folder).parts


def _require_order(names: list[str], folder: Path) -> None:
    known = {"Transformer", "Pooling", "Dense", "Normalize", "Dropout"}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UnsupportedError(
            "{folder}: the Sentence-Transformers module {module} cannot be exported; only Transformer, "
            "Pooling, Dense and Normalize work",
            folder=folder,
            module=unknown[0],
        )
    # Dropout does nothing at inference.
    order = [name for name in names if name != "Dropout"]
    # Another order gives other numbers (Normalize before Dense), and the graph has but this one.
    rank = {"Transformer": 0, "Pooling": 1, "Dense": 2, "Normalize": 3}
    whole = order[:2] == ["Transformer", "Pooling"] and order.count("Pooling") == 1
    if not whole or order != sorted(order, key=rank.__getitem__):
        raise UnsupportedError(
            "{folder}: its modules are {modules}; bertonnx exports Transformer -> Pooling, then any Dense, "
            "then Normalize, in this order only",
            folder=folder,
            modules=" -> ".join(names),
        )


def _pooling(folder: Path) -> tuple[str, bool]:
    """Return the name of the pooling, and whether it pools the prompt's tokens too."""
    config = read_json(folder / "config.json")
    names = {row.mode: row.name for row in POOLINGS}
    modes = modes_of(config)
    # Several modes at once are concatenated by Sentence-Transformers, so the width would be another.
    if len(modes) != 1 or modes[0] not in names:
        raise UnsupportedError(
            "{folder}: the pooling {modes} cannot be exported; one of {known} can",
            folder=folder,
            modes=" + ".join(modes),
            known=", ".join(names),
        )
    return names[modes[0]], bool(config.get("include_prompt", True))


def read_prompts(settings: Mapping[str, Any], folder: Path) -> tuple[Mapping[str, str], str | None]:
    """Return the texts of the prompts by their names, and the name of the default one.

    Args:
        settings: what config_sentence_transformers.json says.
        folder: of it.

    Raises:
        CheckpointError: the default prompt has no text.
    """
    # sentence-transformers takes a null for a prompt without text.
    prompts = {str(name): str(text or "") for name, text in (settings.get("prompts") or {}).items()}
    name = settings.get("default_prompt_name")
    # Sentence-Transformers itself always knows these two, empty where the file gives no text.
    if name is not None and name not in (*prompts, *ENCODER.prompts):
        raise CheckpointError(
            "{folder}/config_sentence_transformers.json names the default prompt {name!r}, and its prompts "
            "are {prompts}; correct the name",
            folder=folder,
            name=name,
            prompts=", ".join(sorted(prompts)) or "none",
        )
    return prompts, name


def _transformer_options(folder: Path) -> dict[str, Any]:
    path = next((folder / name for name in _TRANSFORMER_CONFIGS if (folder / name).is_file()), None)
    options = {} if path is None else read_json(path)
    task = options.get("transformer_task", ENCODER.name)
    if task != ENCODER.name:
        raise UnsupportedError(
            "{path}: transformer_task {task!r} gives no sentence embeddings to export", path=path, task=task
        )
    # Unknown arguments are refused, not skipped: one could change tokens or weights without a word.
    for name in _ARGUMENTS:
        strange = sorted(set(options.get(name) or ()) - _HARMLESS_ARGUMENTS)
        if strange:
            raise UnsupportedError(
                "{path}: {name} sets {arguments}, which bertonnx cannot follow; write the values into "
                "config.json or tokenizer_config.json and remove them there",
                path=path,
                name=name,
                arguments=", ".join(strange),
            )
    return options


def _dense(folder: Path, *, allow_pickle: bool) -> Dense:
    config = read_json(folder / "config.json")
    name = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    if name not in DENSE_ACTIVATIONS:
        raise UnsupportedError(
            "{folder}: the activation {name} of a Dense module cannot be exported; one of {known} can",
            folder=folder,
            name=name,
            known=", ".join(DENSE_ACTIVATIONS.values()),
        )
    # Under another name a Dense module works on tokens, or makes scores, instead of the embedding.
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise UnsupportedError(
                "{folder}: a Dense module with {key} {value!r} cannot be exported",
                folder=folder,
                key=key,
                value=config[key],
            )
    tensors = _dense_tensors(folder, allow_pickle=allow_pickle)
    weight, bias = tensors.get("linear.weight"), tensors.get("linear.bias")
    has_bias = bool(config.get("bias", True))
    shape = (config.get("out_features"), config.get("in_features"))
    if weight is None or weight.shape != shape or has_bias != (bias is not None):
        raise CheckpointError(
            "{folder}: config.json promises linear.weight of shape {shape} {bias} linear.bias, and the "
            "weights are {found}; the two files do not belong together",
            folder=folder,
            shape=shape,
            bias="and" if has_bias else "without",
            found={key: value.shape for key, value in tensors.items()},
        )
    # Parity would refuse it too, but could not say which file holds the NaN.
    for key, value in tensors.items():
        if not np.isfinite(value).all():
            raise CheckpointError(
                "{folder}: {weights} holds NaN or infinity; the checkpoint is damaged",
                folder=folder,
                weights=key,
            )
    return Dense(weight, bias, DENSE_ACTIVATIONS[name])


def _dense_tensors(folder: Path, *, allow_pickle: bool) -> dict[str, npt.NDArray[np.float32]]:
    import torch
    from safetensors.torch import load_file

    safe, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    if not safe.is_file() and pickled.is_file() and not allow_pickle:
        raise SourceError(
            "{folder} has its weights only in a pickle file (pytorch_model.bin), and reading a pickle can "
            "run any code; if you trust its author, add {option}, or convert it to model.safetensors",
            folder=folder,
            option=Option("allow_pickle", True),
        )
    try:
        if safe.is_file():
            tensors = load_file(safe)
        else:
            # Even of a trusted author no more than tensors is needed, so nothing else may be unpickled.
            tensors = torch.load(pickled, map_location="cpu", weights_only=True)
        return {name: tensor.to(torch.float32).numpy() for name, tensor in tensors.items()}
    except Exception as error:  # safetensors and torch raise many kinds for a damaged file
        raise CheckpointError(
            "the weights in {folder} cannot be read ({kind}: {why}); download them again",
            folder=folder,
            kind=type(error).__name__,
            why=error,
        ) from error
