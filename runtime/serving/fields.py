"""The fields of a request's body, each read as what it must be, or refused by its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from bertonnx.runtime.serving.errors import RefusedError

__all__ = ["Fields"]

Choice = TypeVar("Choice", bound=str)

_MOST = 2**31 - 1


class Fields:
    """A JSON object. A field that is null counts as absent.

    Args:
        values: what `orjson` made of it.
        path: of an object inside a body: its name there, with a dot.
    """

    def __init__(self, values: Mapping[str, Any], path: str = "") -> None:
        self._values = values
        self._path = path

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    @property
    def names(self) -> list[str]:
        """Names of the fields that are there."""
        return [name for name in self._values if name in self]

    def any(self, name: str) -> Any:
        """Return a field as it is; None where there is none."""
        return self._values.get(name)

    def text(self, name: str) -> str:
        """Return a text.

        Raises:
            RefusedError: it is none, or absent.
        """
        value = self._required(name)
        if not isinstance(value, str):
            raise self._not(name, "a text", value)
        return value

    def text_or_none(self, name: str) -> str | None:
        """Return a text, or None where there is none."""
        return self.text(name) if name in self else None

    def texts(self, name: str) -> list[str]:
        """Return a list of texts, which may be empty."""
        value = self._required(name)
        if not isinstance(value, list):
            raise self._not(name, "a list of texts", value)
        return self.all_texts(name, value)

    def all_texts(self, name: str, values: list[Any]) -> list[str]:
        """Return a list whose items must all be texts."""
        for place, item in enumerate(values):
            if not isinstance(item, str):
                raise self._not(f"{name}.{place}", "a text", item)
        return values

    def flag(self, name: str, default: bool = False) -> bool:
        """Return true or false."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._not(name, "true or false", value)
        return value

    def flag_or_none(self, name: str) -> bool | None:
        """Return true or false, or None where nothing is said."""
        return self.flag(name) if name in self else None

    def whole(self, name: str, least: int = 1) -> int | None:
        """Return a whole number, or None where there is none."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _MOST:
            raise self._not(name, f"a whole number of at least {least}", value)
        return value

    def choice(self, name: str, choices: Sequence[Choice]) -> Choice | None:
        """Return one of several words, or None where nothing is said."""
        value = self._values.get(name)
        if value is None:
            return None
        for choice in choices:
            if choice == value:
                return choice
        raise self._not(name, f"one of {', '.join(choices)}", value)

    def inside(self, name: str) -> Fields:
        """Return the fields of an object; none where it is absent."""
        value = self._values.get(name)
        if value is None:
            return Fields({}, f"{self._path}{name}.")
        if not isinstance(value, dict):
            raise self._not(name, "an object", value)
        return Fields(value, f"{self._path}{name}.")

    def only(self, *names: str) -> None:
        """Refuse fields that would be passed over in silence.

        Raises:
            RefusedError: naming the first.
        """
        for name in self.names:
            if name not in names:
                known = ", ".join(names) or "none"
                raise RefusedError(
                    "invalid", f"`{self._path}{name}` is not known here; there is {known}", self._path + name
                )

    def refused(self, name: str, why: str) -> RefusedError:
        """Return the refusal of a field."""
        return RefusedError("invalid", f"`{self._path}{name}` {why}", self._path + name)

    def _required(self, name: str) -> Any:
        value = self._values.get(name)
        if value is None:
            raise self.refused(name, "is missing")
        return value

    def _not(self, name: str, wanted: str, value: object) -> RefusedError:
        return self.refused(name, f"must be {wanted}, and this is {_kind(value)}")


def _kind(value: object) -> str:
    """Say what a value is, and never what it holds."""
    # A value may be a text of a user, which is no part of any message.
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    kinds = {str: "a text", dict: "an object", list: "a list", int: "a number", float: "a number"}
    return kinds.get(type(value), type(value).__name__)
