"""Reads the modules that follow a transformer: each folder's config.json and weights become a layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bertonnx.errors import CheckpointError, SourceError, UnsupportedError
from bertonnx.exporters.checkpoint.folder import read_json
from bertonnx.exporters.checkpoint.keys import Account, require_no_null
from bertonnx.exporters.checkpoint.module_list import Module
from bertonnx.exporters.checkpoint.sentence_layers import (
    SENTENCE,
    TOKENS,
    Dense,
    Layer,
    LayerNorm,
    Normalize,
    Pool,
    Skip,
    Splade,
)
from bertonnx.exporters.options import Trust
from bertonnx.models.activations import ACTIVATIONS, Activation, by_class
from bertonnx.models.pooling import POOLINGS, by_mode, known_keys, modes_of
from bertonnx.models.registry import Registry
from bertonnx.models.retrieval import DOCUMENT
from bertonnx.models.splade import SATURATIONS, STRATEGIES
from bertonnx.wording import Option

__all__ = ["read_activation", "read_layer"]

_CONFIG = "config.json"

_KEYS: Mapping[str, frozenset[str]] = {
    "Pooling": known_keys(),
    "Dense": frozenset(
        {"in_features", "out_features", "bias", "activation_function", "use_residual"}
        | {"module_input_name", "module_output_name"}
    ),
    "LayerNorm": frozenset({"dimension"}),
    "Normalize": frozenset({"module_input_name", "module_output_name"}),
    "Dropout": frozenset({"dropout"}),
    "SpladePooling": frozenset(
        {"pooling_strategy", "activation_function", "embedding_dimension", "word_embedding_dimension"}
    ),
    "MultiVectorMask": frozenset({"skiplist_words", "skiplist_tasks", "keep_only_token_ids"}),
}
"""Module -> the keys of its config.json that are read here."""

_HARMLESS: Mapping[str, frozenset[str]] = {
    # It takes a text's tokens in parts, which spares memory and changes no number.
    "SpladePooling": frozenset({"chunk_size"}),
}

_WIDTHS = ("embedding_dimension", "word_embedding_dimension")
"""How wide a token's vector is, as a Pooling says it and as it said it before."""

_NEVER_NULL: Mapping[str, tuple[str, ...]] = {"Pooling": ("pooling_mode", *_WIDTHS)}

_Tensors = dict[str, npt.NDArray[np.float32]]


def read_layer(module: Module, account: Account, trust: Trust, *, reads: str = SENTENCE) -> Layer | None:
    """Return the layer that a module is; None for one that does nothing at inference.

    Args:
        module: the module.
        account: takes down keys that nothing reads.
        trust: whether its weights may be a pickle.
        reads: the name of what it reads, where it does not say that.

    Raises:
        UnsupportedError: a pooling or an activation that bertonnx has not.
        CheckpointError: a file is missing or broken, or has keys that nobody reads.
        SourceError: its weights lie in a pickle file, which is not trusted.
    """
    path = module.path / _CONFIG
    # Until version 6 neither of these two wrote one.
    config = read_json(path) if path.is_file() or module.name not in ("Normalize", "Dropout") else {}
    require_no_null(module.file(_CONFIG), config, _NEVER_NULL.get(module.name, ()))
    harmless = _HARMLESS.get(module.name, frozenset())
    for key in sorted(set(config) - _KEYS[module.name] - harmless):
        account.refuse(module.file(_CONFIG), key, config[key], "which Sentence-Transformers does not read")
    if module.name == "Dense" and not config.get("module_input_name"):
        config = {**config, "module_input_name": reads}
    return _READERS[module.name](module, config, trust)


def _pool(module: Module, config: Mapping[str, Any], trust: Trust) -> Pool:  # noqa: ARG001
    if not any(key in config for key in _WIDTHS):
        raise CheckpointError(
            "{file} does not say embedding_dimension, without which Sentence-Transformers loads no Pooling; "
            "put the checkpoint's original file in its place",
            file=module.file(_CONFIG),
        )
    modes = modes_of(config)
    rows = [by_mode(mode) for mode in modes]
    if None in rows or not rows:
        raise UnsupportedError(
            "{folder}: the pooling {modes} cannot be exported; one of {known} can, or several",
            folder=module.path,
            modes=" + ".join(modes) or "of no mode",
            known=", ".join(row.mode for row in POOLINGS),
        )
    names = tuple(row.name for row in rows if row is not None)
    return Pool(modes=names, prompt=bool(config.get("include_prompt", True)), module=module.name)


def _dense(module: Module, config: Mapping[str, Any], trust: Trust) -> Dense:
    has_bias, residual = bool(config.get("bias", True)), bool(config.get("use_residual", False))
    shape = (config.get("out_features"), config.get("in_features"))
    projected = residual and shape[0] != shape[1]
    needed: dict[str, tuple[Any, ...]] = {"linear.weight": shape}
    if has_bias:
        needed["linear.bias"] = shape[:1]
    if projected:
        needed["residual.weight"] = shape
    reads, writes = _names(config)
    path = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    activation = read_activation(path, module.file(_CONFIG), trust)
    # Made without an axis, PyTorch's class takes the first one of three.
    if activation.over_classes and reads == TOKENS:
        raise UnsupportedError(
            "{folder}: where a Dense module works on tokens, {activation} depends on the other texts of a "
            "batch, so it cannot be exported",
            folder=module.path,
            activation=activation.torch,
        )
    # After the activation, whose own weights (PReLU's) would only be called too many.
    tensors = _tensors(module, needed, trust)
    return Dense(
        weight=tensors["linear.weight"],
        bias=tensors.get("linear.bias"),
        activation=activation.name,
        residual=residual,
        projection=tensors.get("residual.weight"),
        reads=reads,
        writes=writes,
        module=module.name,
    )


def _layer_norm(module: Module, config: Mapping[str, Any], trust: Trust) -> LayerNorm:
    shape = (config.get("dimension"),)
    tensors = _tensors(module, {"norm.weight": shape, "norm.bias": shape}, trust)
    return LayerNorm(weight=tensors["norm.weight"], bias=tensors["norm.bias"], module=module.name)


def _normalize(module: Module, config: Mapping[str, Any], trust: Trust) -> Normalize:  # noqa: ARG001
    reads, writes = _names(config)
    return Normalize(reads=reads, writes=writes, module=module.name)


def _nothing(module: Module, config: Mapping[str, Any], trust: Trust) -> None:  # noqa: ARG001
    return None


def _splade(module: Module, config: Mapping[str, Any], trust: Trust) -> Splade:  # noqa: ARG001
    strategy = str(config.get("pooling_strategy", "max"))
    saturation = str(config.get("activation_function", "relu"))
    tables: tuple[Registry[Any], ...] = (STRATEGIES, SATURATIONS)
    for table, name in zip(tables, (strategy, saturation), strict=True):
        if name not in table:
            raise UnsupportedError(
                "{folder}: the SpladePooling {name} cannot be exported; one of {known} can",
                folder=module.path,
                name=name,
                known=", ".join(table.names),
            )
    size = config.get("embedding_dimension", config.get("word_embedding_dimension"))
    if size is not None and (type(size) is not int or size < 1):
        raise CheckpointError(
            "{folder}: config.json has the embedding dimension {size!r}, which is no number of words; "
            "correct it",
            folder=module.path,
            size=size,
        )
    return Splade(strategy=strategy, saturation=saturation, dimension=size, module=module.name)


def _skip(module: Module, config: Mapping[str, Any], trust: Trust) -> Skip:  # noqa: ARG001
    if config.get("keep_only_token_ids"):
        raise UnsupportedError(
            "{folder}: config.json has keep_only_token_ids {ids}, and documents of which only some tokens "
            "count are pictures, which bertonnx does not read",
            folder=module.path,
            ids=config["keep_only_token_ids"],
        )
    words, sides = config.get("skiplist_words") or (), config.get("skiplist_tasks")
    sides = (DOCUMENT,) if sides is None else (sides,) if isinstance(sides, str) else tuple(map(str, sides))
    return Skip(words=tuple(map(str, words)), sides=sides, module=module.name)


_READERS: Mapping[str, Callable[[Module, Mapping[str, Any], Trust], Layer | None]] = {
    "Pooling": _pool,
    "Dense": _dense,
    "LayerNorm": _layer_norm,
    "Normalize": _normalize,
    "Dropout": _nothing,
    "SpladePooling": _splade,
    "MultiVectorMask": _skip,
}


def _names(config: Mapping[str, Any]) -> tuple[str, str]:
    """Return what a module reads and what it writes."""
    reads = str(config.get("module_input_name") or SENTENCE)
    return reads, str(config.get("module_output_name") or reads)


def read_activation(path: str, file: str, trust: Trust) -> Activation:
    """Return the row of the class that a file names.

    Args:
        path: the class's import path.
        file: where it stands.
        trust: Sentence-Transformers itself takes classes of other packages than torch with consent alone.

    Raises:
        UnsupportedError: there is none, or it is not torch's and not trusted.
    """
    row = by_class(path)
    if row is None:
        raise UnsupportedError(
            "{file}: the activation {path} cannot be exported; one of {known} can",
            file=file,
            path=path,
            known=", ".join(dict.fromkeys(row.torch for row in ACTIVATIONS)),
        )
    if not path.startswith("torch.") and not trust.trust_remote_code:
        raise UnsupportedError(
            "{file}: the activation {path} is not PyTorch's own, and Sentence-Transformers puts another in "
            "its place unless it is trusted; if you trust it, add {option}",
            file=file,
            path=path,
            option=Option("trust_remote_code", True),
        )
    return row


def _tensors(module: Module, needed: Mapping[str, tuple[Any, ...]], trust: Trust) -> _Tensors:
    """Return a module's weights, which must be those that its config.json promises."""
    tensors = _loaded(module, trust)
    found = {key: value.shape for key, value in tensors.items()}
    if found != dict(needed):
        raise CheckpointError(
            "{folder}: config.json promises {needed}, and the weights are {found}; the two files do not "
            "belong together",
            folder=module.path,
            needed=_listed(needed),
            found=_listed(found),
        )
    # Parity would refuse it too, but could not say which file holds the NaN.
    for key, value in tensors.items():
        if not np.isfinite(value).all():
            raise CheckpointError(
                "{folder}: {weights} holds NaN or infinity; the checkpoint is damaged",
                folder=module.path,
                weights=key,
            )
    return tensors


def _listed(shapes: Mapping[str, tuple[Any, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in sorted(shapes.items())) or "none"


def _loaded(module: Module, trust: Trust) -> _Tensors:
    import torch
    from safetensors.torch import load_file

    folder = module.path
    safe, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    if not safe.is_file() and pickled.is_file() and not trust.allow_pickle:
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
