"""From JSON to typed values: what a file says is taken only where it is of the kind that a class asks for."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

__all__ = ["WrongKindError", "kinds_of", "parse", "read"]


class WrongKindError(Exception):
    """A value is not of the kind that was asked for."""


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""How JSON may spell half a character, which no other text can hold."""


def parse(text: str) -> Any:
    """Return the value of a JSON text, as strict as RFC 8259 and stricter.

    Raises:
        WrongKindError: it is none, or nested too deep, or holds a key twice, NaN or infinity, a number that
            is no finite float, or half a character.
    """
    try:
        value = json.loads(text, object_pairs_hook=_once_each, parse_constant=_no_number, parse_float=_finite)
        if _SURROGATE.search(text):
            # Two halves make a character; one of them cannot be written.
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise WrongKindError("it is nested too deep") from error
    except UnicodeEncodeError as error:
        raise WrongKindError("it holds half a character (a lone surrogate)") from error
    except ValueError as error:
        raise WrongKindError(str(error)) from error
    return value


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise WrongKindError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return made


def _no_number(name: str) -> Any:
    raise WrongKindError(f"it holds {name}, which is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise WrongKindError(f"{text[:20]} is too large")
    return number


def read(kind: Any, value: Any) -> Any:
    """Return a value of JSON as a value of a type hint.

    Lists become tuples, and objects dataclasses; keys that a dataclass has not are ignored, since a newer
    version may have written them. An empty object is None where that is allowed.

    Raises:
        WrongKindError: it is no such value.
    """
    origin = get_origin(kind)
    if origin is UnionType:
        return _union(get_args(kind), value)
    if is_dataclass(kind):
        return _object(kind, value)
    if origin is tuple and isinstance(value, list):
        return tuple(read(get_args(kind)[0], item) for item in value)
    if origin is Mapping and isinstance(value, dict):
        return {key: read(get_args(kind)[1], item) for key, item in value.items()}
    if kind is float and type(value) in (int, float):
        return value  # as it was written, so that a card's text comes out as it went in
    # A bool is an int to isinstance.
    if (kind is NoneType and value is None) or (isinstance(kind, type) and type(value) is kind):
        return value
    raise WrongKindError(f"{value!r} is not of the kind {kind}")


def _union(kinds: tuple[Any, ...], value: Any) -> Any:
    # `figures.as_json` writes {} where there are no figures.
    if value == {} and NoneType in kinds and any(map(is_dataclass, kinds)):
        return None
    for kind in kinds:
        try:
            return read(kind, value)
        except WrongKindError:
            continue
    raise WrongKindError(f"{value!r} is of none of the kinds {kinds}")


def _object(kind: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        raise WrongKindError(f"{value!r} is no object")
    kinds = kinds_of(kind)
    missing = [
        item.name
        for item in fields(kind)
        if item.name not in value and item.default is MISSING and item.default_factory is MISSING
    ]
    if missing:
        raise WrongKindError(f"{', '.join(missing)} is not there")
    known = {item.name: item for item in fields(kind) if item.name in value}
    return kind(**{name: read(kinds[name], value[name]) for name in known})


@cache
def kinds_of(kind: type[Any]) -> dict[str, Any]:
    """Return the kind of each field of a dataclass.

    As `typing.get_type_hints`, which would compile each annotation by itself, where most are written alike.
    """
    names: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        names |= vars(sys.modules[base.__module__])
    texts: dict[str, Any] = {item.name: item.type for item in fields(kind)}
    known = {text: eval(text, names) for text in {*texts.values()} if isinstance(text, str)}
    return {name: known.get(text, text) for name, text in texts.items()}
