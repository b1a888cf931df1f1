"""Frozen data classes of our own are to all who use them what the standard library's are."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import pytest

from bertonnx import frozen
from bertonnx.models.figures import ParityFigures
from bertonnx.runtime.rows import Row

Decorator = Callable[..., Any]


def made(decorator: Decorator) -> dict[str, Any]:
    """Return the same classes, as one of the two makes them."""

    @decorator(frozen=True)
    class Plain:
        """A class."""

        name: str
        size: int = 3
        marks: list[int] = dataclasses.field(default_factory=list)
        hidden: int = dataclasses.field(default=0, repr=False, compare=False)

        @cached_property
        def twice(self) -> int:
            return 2 * self.size

    @decorator(frozen=True, kw_only=True)
    class Named(Plain):
        """One with a base, and fields that are given by name."""

        colour: str
        shade: str | None = None

    @decorator(frozen=True)
    class Derived:
        """One that makes a field itself, and checks another."""

        text: str
        length: int = dataclasses.field(init=False)
        words: list[str] = dataclasses.field(init=False, default_factory=list)

        def __post_init__(self) -> None:
            if not self.text:
                raise ValueError("empty")
            object.__setattr__(self, "length", len(self.text))

        def __repr__(self) -> str:
            return f"<{self.text}>"

    @decorator(frozen=True, eq=False)
    class Alone:
        """One that equals itself alone."""

        value: Any

    @decorator(frozen=True)
    class Empty:
        """One without fields."""

    @decorator(frozen=True, slots=True)
    class Slotted:
        """One that takes no other attributes."""

        text: str
        pair: str | None = None

    classes: dict[str, Any] = {
        "Plain": Plain,
        "Named": Named,
        "Derived": Derived,
        "Alone": Alone,
        "Empty": Empty,
        "Slotted": Slotted,
    }
    return classes


OURS, THEIRS = made(frozen.dataclass), made(dataclasses.dataclass)
EITHER = pytest.mark.parametrize("classes", [OURS, THEIRS], ids=["ours", "library"])

CALLS = {
    "places": ("Plain", ("a", 4, [1])),
    "defaults": ("Plain", ("a",)),
    "names": ("Named", ("a", 4), {"colour": "red"}),
    "too few": ("Plain", ()),
    "name needed": ("Named", ("a", 4, [1], 0, "red")),
    "unknown": ("Plain", ("a",), {"length": 1}),
    "made by itself": ("Derived", ("abc",)),
    "refused": ("Derived", ("",)),
    "empty": ("Empty", ()),
    "alone": ("Alone", (1,)),
    "slotted": ("Slotted", ("a",)),
}


def outcome(classes: dict[str, Any], name: str, places: tuple[Any, ...], names: dict[str, Any]) -> Any:
    try:
        one = classes[name](*places, **names)
    except (TypeError, ValueError) as error:
        return type(error), str(error)
    return repr(one), dataclasses.asdict(one), [item.name for item in dataclasses.fields(one)]


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
def test_a_call_gives_what_the_librarys_class_gives(call: tuple[Any, ...]) -> None:
    name, places, *names = call
    named = names[0] if names else {}
    assert outcome(OURS, name, places, named) == outcome(THEIRS, name, places, named)


@pytest.mark.parametrize("name", OURS)
def test_signatures_are_the_librarys(name: str) -> None:
    ours, theirs = OURS[name], THEIRS[name]
    shown = [str(inspect.signature(one)).replace("<factory>", "_") for one in (ours, theirs)]
    assert [part.split("=")[0] for part in shown[0].split(",")] == [
        part.split("=")[0] for part in shown[1].split(",")
    ]
    assert ours.__init__.__annotations__ == theirs.__init__.__annotations__
    assert ours.__match_args__ == theirs.__match_args__


@EITHER
def test_nothing_can_be_set_or_deleted(classes: dict[str, Any]) -> None:
    one = classes["Named"]("a", colour="red")
    for change in (partial(setattr, one, "size", 4), partial(delattr, one, "shade")):
        with pytest.raises(dataclasses.FrozenInstanceError, match=r"cannot (assign to|delete) field '\w+'"):
            change()
    assert one.twice == 6


@EITHER
def test_equal_values_are_equal_and_have_one_hash(classes: dict[str, Any]) -> None:
    plain, derived, alone = classes["Plain"], classes["Derived"], classes["Alone"]
    assert plain("a", 1, [2]) == plain("a", 1, [2], hidden=5)
    assert plain("a", 1, [2]) != plain("a", 2, [2])
    assert plain("a") != classes["Named"]("a", colour="red")
    assert plain("a") != "a"
    assert hash(plain("a", 1, ())) == hash(plain("a", 1, ()))
    with pytest.raises(TypeError, match="unhashable"):
        hash(derived("abc"))
    first = alone([1])
    assert first == first
    assert first != alone([1])
    assert hash(first)


@EITHER
def test_values_are_replaced_and_copied(classes: dict[str, Any]) -> None:
    one = classes["Named"]("a", colour="red", marks=[1])
    assert dataclasses.replace(one, size=9) == classes["Named"]("a", 9, [1], colour="red")
    assert copy.deepcopy(one) == one
    assert copy.copy(one) == one


def test_instances_can_be_pickled() -> None:
    one = ParityFigures(tolerance=1e-3, max_abs_difference=0.5, max_abs_reference=2.0)
    assert pickle.loads(pickle.dumps(one)) == one
    row = Row("a", "b")
    assert pickle.loads(pickle.dumps(row)) == row
    assert not hasattr(row, "__dict__")


@EITHER
def test_one_that_holds_itself_can_be_shown(classes: dict[str, Any]) -> None:
    ring: list[Any] = []
    ring.append(classes["Alone"](ring))
    assert repr(ring) == "[made.<locals>.Alone(value=[...])]"
