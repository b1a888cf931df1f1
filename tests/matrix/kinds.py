"""Tiny folders of the other kinds of model that Sentence-Transformers has: sparse encoders, many vectors.

And the proof that no module of the installed version was left out: whatever class of a module the library has
must stand in some folder of the matrix.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.matrix.texts import CASES
from tests.tiny import save_tiny

__all__ = ["NEVER_SAVED", "save_other_kinds", "unmet_modules"]

WIDTH, VECTOR = 32, 16

NEVER_SAVED = frozenset({"LambdaTokenPooling"})
"""Modules that the library itself refuses to save."""

TEXTS = [text for text, _ in CASES]

Make = Callable[[], tuple[Sequence[Any], Mapping[str, Any]]]
"""Makes a model's modules, and the settings of the whole."""


def unmet_modules(target: Path) -> list[str]:
    """Return the names of the installed library's modules that no folder below `target` has."""
    met = {kind for file in target.rglob("modules.json") for kind in _kinds_in(json.loads(file.read_text()))}
    for file in target.rglob("router_config.json"):
        met |= {str(kind).rpartition(".")[2] for kind in json.loads(file.read_text())["types"].values()}
    return sorted({made.__name__ for made in _module_classes()} - met - NEVER_SAVED)


def _kinds_in(modules: Sequence[Mapping[str, str]]) -> set[str]:
    return {module["type"].rpartition(".")[2] for module in modules}


def _module_classes() -> Iterator[type]:
    import sentence_transformers
    from sentence_transformers.base.modules.module import Module

    prefix = "sentence_transformers."
    for found in pkgutil.walk_packages(sentence_transformers.__path__, prefix):
        if ".modules." not in found.name:
            continue
        for value in vars(importlib.import_module(found.name)).values():
            if inspect.isclass(value) and issubclass(value, Module) and not inspect.isabstract(value):
                yield value


def save_other_kinds(target: Path) -> Iterator[Path]:
    """Yield each folder, saved with `reference.npz`; what the installed version does not have is left out."""
    import sentence_transformers as library

    masked = save_tiny(target / "base-masked", "bert", "fill-mask")
    kinds: dict[str, tuple[Mapping[str, Make], Callable[[Any], Mapping[str, Any]]]] = {
        "SparseEncoder": (_sparse_folders(masked), _sparse_answers),
        "MultiVectorEncoder": (_late_folders(masked), _late_answers),
    }
    for kind, (folders, answers) in kinds.items():
        whole: Any = getattr(library, kind, None)
        for name, make in folders.items() if whole is not None else ():
            torch.manual_seed(0)
            modules, settings = make()
            folder = target / name
            whole(modules=[*modules], device="cpu", **settings).save_pretrained(str(folder))
            found: Mapping[str, Any] = {}
            # A module that the library saves and cannot run: nothing but a refusal is right then.
            with suppress(Exception):
                found = answers(whole(str(folder), device="cpu"))
            np.savez(folder / "reference.npz", **found)
            yield folder


def _sparse_answers(model: Any) -> Mapping[str, Any]:
    ways = {
        "sparse": model.encode,
        "sparse query": model.encode_query,
        "sparse document": model.encode_document,
    }
    return {name: encode(TEXTS, convert_to_sparse_tensor=False).numpy() for name, encode in ways.items()}


def _late_answers(model: Any) -> Mapping[str, Any]:
    return {
        f"vectors {side} {number}": rows
        for side, encode in (("query", model.encode_query), ("document", model.encode_document))
        for number, rows in enumerate(encode(TEXTS, convert_to_numpy=True))
    }


def _modules(kind: str) -> Any:
    return importlib.import_module(f"sentence_transformers.{kind}.modules")


def _transformer(folder: Path, **settings: Any) -> Any:
    return _modules("base").Transformer(str(folder), **settings)


def _masked(folder: Path) -> Any:
    return _transformer(folder, transformer_task="fill-mask")


def _sparse_folders(base: Path) -> Mapping[str, Make]:
    m = _modules("sparse_encoder")
    prompts = {"query": "find: ", "document": "read: "}

    def splade(*pooling: Any, **settings: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
        return [_masked(base), m.SpladePooling(*pooling)], settings

    def routed() -> Any:
        routes = {"query_modules": [static()], "document_modules": [_masked(base), m.SpladePooling("max")]}
        return [_modules("base").Router.for_query_document(**routes)], {}

    def static() -> Any:
        tokenizer = _transformer(base).tokenizer
        return m.SparseStaticEmbedding(tokenizer, torch.rand(len(tokenizer.get_vocab())))

    def coded() -> Any:
        pooling = _modules("sentence_transformer").Pooling(WIDTH, "mean")
        return [_transformer(base), pooling, m.SparseAutoEncoder(WIDTH, hidden_dim=64, k=4)], {}

    return {
        "SpladePooling": partial(splade),
        "SpladePooling max log1p_relu": partial(splade, "max", "log1p_relu"),
        "SpladePooling sum relu": partial(splade, "sum", "relu"),
        "SpladePooling sum log1p_relu": partial(splade, "sum", "log1p_relu"),
        "SpladePooling with max_active_dims": partial(splade, max_active_dims=5),
        "SpladePooling with prompts": partial(splade, prompts=prompts),
        "SpladePooling with a default prompt": partial(
            splade, prompts=prompts, default_prompt_name="query", similarity_fn_name="cosine"
        ),
        "SpladePooling, chunk_size": partial(splade, "max", "relu", None, 8),
        "MLMTransformer": lambda: ([m.MLMTransformer(str(base)), m.SpladePooling()], {}),
        "SparseStaticEmbedding": lambda: ([static()], {}),
        "SparseStaticEmbedding for queries": routed,
        "SparseAutoEncoder": coded,
    }


def _late_folders(base: Path) -> Mapping[str, Make]:
    try:
        m = _modules("multi_vector_encoder")
    except ImportError:
        return {}
    parts = _modules("sentence_transformer")

    def dense(**settings: Any) -> Any:
        identity = torch.nn.Identity()
        given = {"bias": False, "activation_function": identity, "module_input_name": "token_embeddings"}
        return parts.Dense(**{"in_features": WIDTH, "out_features": VECTOR, **given, **settings})

    unit = parts.Normalize("token_embeddings")

    def late(
        *layers: Any, reads: Mapping[str, Any] | None = None, **settings: Any
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        return [_transformer(base, **(reads or {})), *layers], settings

    def mask(**settings: Any) -> Any:
        return m.MultiVectorMask(["!", ".", "the"], **settings)

    def expanded(*, masked: bool = True, **how: Any) -> Any:
        reads = {"query_expansion": {"strategy": "fixed", "length": 16, **how}}
        return partial(late, dense(), *([mask()] if masked else []), unit, reads=reads)

    prompts = {"query": "find: ", "document": "read: "}
    lengths = {"query_length": 12, "document_length": 20}
    return {
        "MultiVectorMask": partial(late, dense(), mask(), unit),
        "MultiVectorMask of queries": partial(late, dense(), mask(skiplist_tasks="query"), unit),
        "MultiVectorMask of both": partial(late, dense(), mask(skiplist_tasks=["query", "document"]), unit),
        "MultiVectorMask, keep_only_token_ids": partial(late, dense(), mask(keep_only_token_ids=[9]), unit),
        "many vectors, no mask": partial(late, dense(), unit),
        "many vectors, no Normalize": partial(late, dense(), mask()),
        "many vectors, no Dense": partial(late, mask(), unit),
        "many vectors, Dense with a residual": partial(late, dense(use_residual=True), mask(), unit),
        "many vectors, two Dense with a bias": partial(
            late,
            dense(out_features=24, bias=True, activation_function=torch.nn.GELU()),
            *(dense(in_features=24), mask(), unit),
        ),
        "many vectors, meanmaxsim": partial(late, dense(), mask(), unit, similarity_fn_name="meanmaxsim"),
        "many vectors, prompts": partial(late, dense(), mask(), unit, prompts=prompts),
        "many vectors, lengths": partial(late, dense(), mask(), unit, reads=lengths),
        "query expansion": expanded(),
        "query expansion, attended": expanded(attend=True),
        "query expansion, attended, no mask": expanded(masked=False, attend=True),
        "query expansion, min": expanded(strategy="min", attend=False),
        "query expansion, another token": expanded(token="[SEP]"),
        "HierarchicalTokenPooling": partial(
            late, dense(), mask(), unit, m.HierarchicalTokenPooling(2.0), similarity_fn_name="maxsim"
        ),
        "HierarchicalTokenPooling of factor 1": partial(
            late, dense(), mask(), unit, m.HierarchicalTokenPooling(1.0)
        ),
    }
