"""`dataclass(frozen=True)` as the standard library's, made in a fifth of its time.

The library's writes and compiles six methods for each class, which took a quarter of what importing bertonnx
does. Here `__init__` alone is compiled, and the other five are the same functions for all classes. To
`dataclasses.fields`, `replace` and `asdict`, to pickle and to type checkers, such a class is a data class.
Comparing and hashing take longer than the library's do, and nothing does either for every row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError, fields
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

__all__ = ["dataclass"]

T = TypeVar("T")


def _dataclass(
    *, frozen: Literal[True], eq: bool = True, kw_only: bool = False, slots: bool = False
) -> Callable[[type[T]], type[T]]:
    """Return what makes a frozen data class of a class; the arguments are the library's."""
    assert frozen

    def made(cls: type[T]) -> type[T]:
        own = dict(vars(cls))
        # What its fields are, with those of its bases, the library says.
        cls = dataclasses.dataclass(init=False, repr=False, eq=False, kw_only=kw_only, slots=slots)(cls)
        methods: dict[str, object] = {"__setattr__": _refused_set, "__delattr__": _refused_delete}
        if "__init__" not in own:
            methods["__init__"] = _init(cls)
        if "__repr__" not in own:
            methods["__repr__"] = _repr
        if eq and "__eq__" not in own:
            methods["__eq__"] = _eq
        if eq and own.get("__hash__") is None:
            methods["__hash__"] = _hash
        if slots:
            methods |= {"__getstate__": _state, "__setstate__": _set_state}
        for name, method in methods.items():
            setattr(cls, name, method)
        return cls

    return made


if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    dataclass = _dataclass


def _init(cls: type[Any]) -> object:
    """Compile `__init__`: fields by place, then those by name alone."""
    known: dict[str, Any] = {"__name__": cls.__module__, "_set": object.__setattr__, "_missing": MISSING}
    placed, named, lines = ["self"], list[str](), list[str]()
    for item in fields(cls):
        name, made = item.name, item.default_factory is not MISSING
        default = known[f"_of_{name}"] = item.default_factory if made else item.default
        if item.init:
            given = "" if default is MISSING else "=_missing" if made else f"=_of_{name}"
            (named if item.kw_only else placed).append(name + given)
            value = f"_of_{name}() if {name} is _missing else {name}" if made else name
            lines.append(f" _set(self, {name!r}, {value})\n")
        elif made:
            lines.append(f" _set(self, {name!r}, _of_{name}())\n")
    if hasattr(cls, "__post_init__"):
        lines.append(" self.__post_init__()\n")
    arguments = ", ".join([*placed, *["*"] * bool(named), *named])
    exec(f"def __init__({arguments}):\n{''.join(lines) or ' pass'}", known)
    function = known.pop("__init__")
    function.__qualname__ = f"{cls.__qualname__}.__init__"
    function.__annotations__ = {item.name: item.type for item in fields(cls) if item.init} | {"return": None}
    return function


def _compared(one: Any) -> tuple[object, ...]:
    return tuple(getattr(one, item.name) for item in fields(one) if item.compare)


def _eq(self: object, other: object) -> bool:
    return _compared(self) == _compared(other) if other.__class__ is self.__class__ else NotImplemented


def _hash(self: object) -> int:
    return hash(_compared(self))


@recursive_repr()
def _repr(self: Any) -> str:
    shown = [f"{item.name}={getattr(self, item.name)!r}" for item in fields(self) if item.repr]
    return f"{self.__class__.__qualname__}({', '.join(shown)})"


def _state(self: Any) -> list[object]:
    return [getattr(self, item.name) for item in fields(self)]


def _set_state(self: Any, state: list[object]) -> None:
    for item, value in zip(fields(self), state, strict=True):
        object.__setattr__(self, item.name, value)


def _refused_set(_self: object, name: str, _value: object) -> NoReturn:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refused_delete(_self: object, name: str) -> NoReturn:
    raise FrozenInstanceError(f"cannot delete field {name!r}")
