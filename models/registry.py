"""Tables whose rows are objects with a name, and that other packages may add to."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import cache
from typing import Any, Generic, Protocol, TypeVar

__all__ = ["Registry", "resolve"]


class _Named(Protocol):
    @property
    def name(self) -> str: ...


Row = TypeVar("Row", bound=_Named)


class Registry(Generic[Row]):
    """Rows by name, in the order in which they were registered.

    Args:
        what: what a row is, as errors call it: "task".
        rows: the first rows.
    """

    def __init__(self, what: str, *rows: Row) -> None:
        self._what = what
        self._rows: dict[str, Row] = {}
        for row in rows:
            self.register(row)

    def register(self, row: Row) -> None:
        """Add a row.

        Raises:
            ValueError: another row has its name.
        """
        # The same row again is no clash: a module that registers may be loaded twice.
        if self._rows.setdefault(row.name, row) != row:
            raise ValueError(f"there is a {self._what} called {row.name!r} already")

    def unregister(self, name: str) -> None:
        """Take a row out again, which tests need.

        Raises:
            KeyError: there is no such row.
        """
        del self._rows[name]

    def get(self, name: str) -> Row | None:
        """Return the row called `name`, or None."""
        return self._rows.get(name)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all rows."""
        return tuple(self._rows)

    def __getitem__(self, name: str) -> Row:
        """Return the row called `name`.

        Raises:
            KeyError: there is none; names those that there are.
        """
        if name not in self._rows:
            raise KeyError(f"there is no {self._what} {name!r}; there are {', '.join(self._rows)}")
        return self._rows[name]

    def __iter__(self) -> Iterator[Row]:
        # A copy, for what runs in a loop over rows may register another.
        return iter(tuple(self._rows.values()))

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: object) -> bool:
        return name in self._rows


@cache
def resolve(place: str) -> Any:
    """Return what an import path such as "bertonnx.runtime.decoders.masks:MaskDecoder" names.

    Rows hold code as text, so that a table of facts imports nothing; the room that needs the code
    resolves it on use.

    Raises:
        ImportError: there is no such module.
        AttributeError: the module has no such name.
    """
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
