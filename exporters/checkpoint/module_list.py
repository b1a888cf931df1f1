"""Reads modules.json of a Sentence-Transformers folder: which modules it has, in which order, and where.

Names are those of sentence-transformers 5.7 and 6.2; only the last part of a module's import path counts, for
that has kept its name while the packages around it moved.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bertonnx.errors import CheckpointError, UnsupportedError
from bertonnx.wording import Call, Message, Option, Options

__all__ = ["LIST", "MODULES", "Module", "read_list", "require_known"]

LIST = "modules.json"

MODULES = ("Transformer", "Pooling", "Dense", "LayerNorm", "Normalize", "Dropout")
"""The modules of embedding models and cross-encoders that are exported."""

_WORDS = "it reads words from a table of its own, and no transformer"
_SPARSE = "it makes sparse embeddings, and the folder's model_type is not SparseEncoder"
_LEARNED = (
    "it turns a finished embedding into a sparse one (CSR), which is no weight of a word; export the "
    "embedding model without it, or a SPLADE model"
)
_LOOKED_UP = (
    "it looks weights of words up in a table, and runs no model; weigh queries with that table, and export "
    "the transformer of the documents by itself: its folder is named in router_config.json"
)
_MANY = "it gives many vectors for a text, and the folder's model_type is not MultiVectorEncoder"
_FEWER = "it makes fewer vectors of those of a document, by clusters that depend on all of them"
_GENERATES = "it scores by the next word of a model that generates text"
_ROUTES = (
    "it sends queries and documents through modules of their own; export each of them by itself: their "
    "folders are named in router_config.json"
)
_PARTED = (
    "it sends queries and documents through modules of their own ({routes}), none of which is a model that "
    "could be exported by itself"
)
_ROUTERS: Mapping[str, str] = {"Router": "router_config.json", "Asym": "config.json"}
"""Modules that hold others -> the file that names them."""

_REFUSED: Mapping[str, str] = {
    "Asym": _ROUTES,
    "Router": _ROUTES,
    "CLIPModel": "it reads images too",
    "BoW": _WORDS,
    "StaticEmbedding": _WORDS,
    "WordEmbeddings": _WORDS,
    "WordWeights": "it weights words of a table of its own",
    "CNN": "it is a convolution over tokens",
    "LSTM": "it is a recurrent network",
    "WeightedLayerPooling": "it reads the vectors of all layers, and the graph gives the last ones",
    "LogitScore": _GENERATES,
    "MLMTransformer": _SPARSE,
    "SpladePooling": _SPARSE,
    "SparseAutoEncoder": _LEARNED,
    "SparseStaticEmbedding": _LOOKED_UP,
    "MultiVectorMask": _MANY,
    "HierarchicalTokenPooling": _FEWER,
    "LambdaTokenPooling": _FEWER,
}
"""The other modules that Sentence-Transformers has -> why they are not."""

_NETWORKS = "Transformer"
"""How the folders of modules end that can be exported by themselves."""

# `kwargs` lists what `encode` may hand on to a module, and nothing is handed on here.
_KEYS = frozenset({"idx", "name", "path", "type", "kwargs"})


@dataclass(frozen=True)
class Module:
    """One entry of modules.json.

    Attributes:
        name: its class.
        path: its folder.
        place: the same within the checkpoint's folder; "" for that folder itself.
    """

    name: str
    path: Path
    place: str

    def file(self, name: str) -> str:
        """Return how a file of it is called within the checkpoint's folder."""
        return f"{self.place}/{name}" if self.place else name


def read_list(folder: Path) -> list[Module]:
    """Return the modules of a folder, in order.

    Raises:
        CheckpointError: the file is broken, or points out of the folder.
        UnsupportedError: a module is the checkpoint's own code.
    """
    path = folder / LIST
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        found = [(str(entry["type"]), str(entry["path"])) for entry in entries]
        strange = sorted({key for entry in entries for key in entry} - _KEYS)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            "{path} cannot be read ({kind}: {why}); put the checkpoint's original file in its place",
            path=path,
            kind=type(error).__name__,
            why=error,
        ) from error
    if strange:
        raise CheckpointError(
            "{path} has entries with {keys}, which no version of Sentence-Transformers reads; remove that",
            path=path,
            keys=", ".join(strange),
        )
    _require_own_names([entry["name"] for entry in entries if "name" in entry], path)
    return [
        Module(_class_name(kind, folder), _inside(folder, place), place.rstrip("/")) for kind, place in found
    ]


def _require_own_names(names: Sequence[object], path: Path) -> None:
    # Sentence-Transformers keeps modules by name: the later takes the place of the earlier, which never runs.
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if twice is not None:
        raise CheckpointError(
            "{path} has two modules of the name {name!r}, of which Sentence-Transformers runs one alone; "
            "give each a name of its own",
            path=path,
            name=twice,
        )


def require_known(modules: Sequence[Module], folder: Path, known: Sequence[str] = MODULES) -> None:
    """Refuse a module that cannot be exported.

    Args:
        modules: those of the folder.
        folder: for errors.
        known: the names of those that can.

    Raises:
        UnsupportedError: naming it, and why.
    """
    # One that no kind of model can have says more than one that stands there for its sake.
    for module in sorted(modules, key=lambda module: module.name not in _REFUSED):
        if module.name not in known:
            other = "it is a module of another kind of model"
            unknown = other if module.name in MODULES else "bertonnx does not know it"
            raise UnsupportedError(
                "{folder}: the Sentence-Transformers module {module} cannot be exported: {why}; what can: "
                "{known}",
                folder=folder,
                module=module.name,
                why=_routed(module) if module.name in _ROUTERS else _REFUSED.get(module.name, unknown),
                known=", ".join(known),
            )


def _routed(module: Module) -> Message | str:
    """Return why a module that holds others is refused: its routes, and the line that exports one of them."""
    found = _routes(module.path / _ROUTERS[module.name])
    if not found:
        return _ROUTES
    routes = "; ".join(f"{route}: {' -> '.join(places)}" for route, places in found.items())
    networks = [place for places in found.values() for place in places if place.endswith(_NETWORKS)]
    if not networks:
        return Message(_PARTED, routes=routes)
    return Message(
        "{why} ({routes}), such as with {export}, where {options} say what follows",
        why=_ROUTES,
        routes=routes,
        export=Call("export", module.path / networks[0]),
        options=Options([Option("task"), Option("pooling")], last="and"),
    )


def _routes(path: Path) -> dict[str, list[str]]:
    """Return the folders of each route; none where the file does not say, as it is for a message alone."""
    try:
        structure = json.loads(path.read_text(encoding="utf-8"))["structure"]
        return {str(route): [str(place) for place in places] for route, places in structure.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _class_name(kind: str, folder: Path) -> str:
    if not kind.startswith(("sentence_transformers.", "pylate.models.")):
        raise UnsupportedError(
            "{folder}: the module {module} is the checkpoint's own code, which bertonnx cannot export; only "
            "modules of Sentence-Transformers work: {known}",
            folder=folder,
            module=kind,
            known=", ".join(MODULES),
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
