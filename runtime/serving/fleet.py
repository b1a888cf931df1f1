"""The models of a server, by their names, and which of them a request is for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bertonnx.errors import UsageError
from bertonnx.models.entailment import inference_of
from bertonnx.models.tasks import served as tasks_of
from bertonnx.runtime.serving.errors import RefusedError

if TYPE_CHECKING:
    from bertonnx.runtime.serving.served import Served, Workers

__all__ = ["Fleet", "named_paths", "serves", "task_of"]

_ENDING = ".onnx"

_ANY = ("predict", "tokenize")
"""The methods that every model has."""

_OF: Mapping[str, tuple[str, ...]] = dict.fromkeys(("embed_tokens", "embed_chunks", "similarity"), ("embed",))
"""Methods -> those whose models have them too."""

_ZERO_SHOT = "zero_shot"
_UNSPEAKABLE = re.compile(r"[\x00-\x1f\x7f-\x9f?#\\]|^\.{0,2}$|^/|/$|//")


def named_paths(models: Sequence[str | Path] | Mapping[str, str | Path]) -> dict[str, Path]:
    """Return where models are, by the names that clients call them.

    Args:
        models: files, each by itself or as `NAME=FILE`; or files by their names.

    Raises:
        UsageError: there is none, two have one name, or a name cannot stand in an address.
    """
    pairs = list(models.items()) if isinstance(models, Mapping) else list(map(_named, models))
    if not pairs:
        raise UsageError("no model was given; name at least one file")
    found: dict[str, Path] = {}
    for name, path in pairs:
        if _UNSPEAKABLE.search(name):
            raise UsageError(
                "{name!r} cannot be a model's name, as it is part of an address; write {form} with another",
                name=name,
                form="NAME=FILE",
            )
        if name in found:
            raise UsageError(
                "two models are called {name} ({first}, {second}); write {form} for one of them",
                name=name,
                first=found[name],
                second=path,
                form="NAME=FILE",
            )
        found[name] = Path(path)
    return found


def _named(given: str | Path) -> tuple[str, str | Path]:
    text = str(given)
    # A file whose own name has a sign in it is that file.
    if "=" in text and not Path(text).exists():
        name, _, path = text.partition("=")
        return name, path
    return Path(text).name.removesuffix(_ENDING), text


class Fleet:
    """The models of a server, in the order in which they were given.

    Attributes:
        workers: what they share.
    """

    def __init__(self, models: Sequence[Served], workers: Workers) -> None:
        self.workers = workers
        self._models = {served.name: served for served in models}
        # The longest first, since a name may hold a slash and begin as another does.
        self._names = sorted(self._models, key=len, reverse=True)
        # What can answer what does not change while a server runs, and each request asks.
        self._chosen: dict[tuple[str, str | None], Served] = {}

    def __iter__(self) -> Iterator[Served]:
        return iter(self._models.values())

    def __len__(self) -> int:
        return len(self._models)

    def named(self, name: str) -> Served:
        """Return the model of a name.

        Raises:
            RefusedError: there is none.
        """
        served = self._models.get(name)
        if served is None:
            known = ", ".join(self._models)
            raise RefusedError(
                "unknown_model", f"there is no model of that name here; there is {known}", "model"
            )
        return served

    def for_path(self, path: str) -> tuple[Served, str] | None:
        """Return the model that a path begins with, and the rest of the path; None where it names none."""
        for name in self._names:
            if path == name or path.startswith(f"{name}/"):
                return self._models[name], path[len(name) :] or "/"
        return None

    def serving(self, method: str, served: Served | None) -> Served:
        """Return the model that answers a method.

        Args:
            method: of `bertonnx.Model`.
            served: the one that was asked for; None for the first that can.

        Raises:
            RefusedError: it cannot, or none can.
        """
        asked = (method, None if served is None else served.name)
        chosen = self._chosen.get(asked)
        if chosen is None:
            chosen = self._chosen[asked] = self._first_able(method, served)
        return chosen

    def _first_able(self, method: str, served: Served | None) -> Served:
        able = [one for one in (self if served is None else (served,)) if serves(one, method)]
        # Vectors of tokens are those of a head that makes them, where a model has one.
        for one in (*(one for one in able if _made_for(one, method)), *able):
            return one
        wanted = method.replace("_", "-")
        if served is None:
            raise RefusedError("wrong_task", f"no model here can {wanted}; {self._tasks()}")
        raise RefusedError(
            "wrong_task", f"{served.name} cannot {wanted}: it is for {served.card.task}; {self._tasks()}"
        )

    def _tasks(self) -> str:
        return "there is " + ", ".join(f"{one.name} ({one.card.task})" for one in self)


def serves(served: Served, method: str) -> bool:
    """Return whether a model answers a method, for its own task or another that its file serves."""
    if method in _ANY:
        return True
    if method == _ZERO_SHOT and inference_of(served.card.labels, None) is None:
        # Any classifier has the method, and only those of inference can say what entails what.
        return False
    return _made_for(served, method) or any(_made_for(served, name) for name in _OF.get(method, ()))


def _made_for(served: Served, method: str) -> bool:
    return any(method in row.methods for row in tasks_of(served.card.task, served.card.also))


def task_of(served: Served, method: str) -> str | None:
    """Return the task for which a model answers a method; None for its own."""
    own, *others = tasks_of(served.card.task, served.card.also)
    if method in own.methods:
        return None
    return next((row.name for row in others if method in row.methods), None)
