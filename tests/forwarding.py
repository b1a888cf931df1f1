"""Parameters that are handed on under their own name, from function to function."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.house import Function, Module, functions

__all__ = ["chains"]

Place = tuple[str, str]
"""A function's full name, and one of its parameters."""

_ON_BEHALF = ("partial", "submit")
"""What calls its first argument with the others."""


@dataclass(frozen=True)
class _Known:
    """Everything that can be called, by full name and by last name."""

    functions: Mapping[str, Function]
    modules: Mapping[str, Module]
    methods: Mapping[str, Sequence[str]]


def chains(modules: Sequence[Module], *, longest: int) -> list[list[Place]]:
    """Return the chains in which more than `longest` functions hand a parameter on as it is.

    Functions are found by name alone: a method of an unknown object is every method of that name.
    """
    known = _index(modules)
    onward: dict[Place, set[Place]] = defaultdict(set)
    for name, function in known.functions.items():
        for callee, parameter in _handed_on(known, name, function):
            onward[name, parameter].add((callee, parameter))
    targets = {target for following in onward.values() for target in following}
    found = [path for start in onward if start not in targets for path in _paths(onward, [start])]
    return sorted(path for path in found if len(path) > longest + 1)


def _index(modules: Sequence[Module]) -> _Known:
    found: dict[str, Function] = {}
    where: dict[str, Module] = {}
    methods: dict[str, list[str]] = defaultdict(list)
    for module in modules:
        for name, function in functions(module):
            full = f"{module.name}.{name}"
            found[full], where[full] = function, module
            methods[function.name].append(full)
    return _Known(found, where, methods)


def _paths(onward: Mapping[Place, set[Place]], path: list[Place]) -> Iterator[list[Place]]:
    following = sorted(onward.get(path[-1], set()) - set(path))
    if not following:
        yield path
    for place in following:
        yield from _paths(onward, [*path, place])


def _handed_on(known: _Known, name: str, function: Function) -> Iterator[Place]:
    """Yield the functions that get a parameter of this one as it is, under the same name."""
    own = set(_parameters(function)) - _reassigned(function)
    for call in ast.walk(function):
        if not isinstance(call, ast.Call):
            continue
        called, given = call.func, call.args
        if isinstance(called, ast.Name | ast.Attribute) and _last(called) in _ON_BEHALF and given:
            called, given = given[0], given[1:]
        for target in _resolved(known, name, called):
            for parameter in _bound(known.functions[target], given, call.keywords):
                if parameter in own:
                    yield target, parameter


def _parameters(function: Function) -> list[str]:
    given = function.args
    return [item.arg for item in (*given.posonlyargs, *given.args, *given.kwonlyargs)]


def _reassigned(function: Function) -> set[str]:
    return {
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def _bound(function: Function, given: Sequence[ast.expr], named: Sequence[ast.keyword]) -> Iterator[str]:
    """Yield the parameters that get a variable of their own name."""
    places = _parameters(function)[: -len(function.args.kwonlyargs) or None]
    if places[:1] in (["self"], ["cls"]):
        places = places[1:]
    for place, argument in zip(places, given, strict=False):
        if isinstance(argument, ast.Name) and argument.id == place:
            yield place
    names = set(_parameters(function))
    for keyword in named:
        if isinstance(keyword.value, ast.Name) and keyword.value.id == keyword.arg and keyword.arg in names:
            yield keyword.arg


def _last(called: ast.Name | ast.Attribute) -> str:
    return called.id if isinstance(called, ast.Name) else called.attr


def _resolved(known: _Known, caller: str, called: ast.expr) -> Iterator[str]:
    """Yield the full names of what a call may reach, as far as names tell."""
    module = known.modules[caller]
    if isinstance(called, ast.Name):
        inner, own = f"{caller}.{called.id}", f"{module.name}.{called.id}"
        full = inner if inner in known.functions else own
        yield from _made(known, full if _made(known, full) else module.imports.get(called.id, ""))
    elif isinstance(called, ast.Attribute):
        if isinstance(called.value, ast.Name) and called.value.id in module.imports:
            yield from _made(known, f"{module.imports[called.value.id]}.{called.attr}")
        elif called.attr != "__init__":
            # What `super()` makes is not told by names; chains through it are few.
            yield from known.methods.get(called.attr, ())


def _made(known: _Known, full: str) -> list[str]:
    """Return a function itself, and for a class what makes its objects."""
    return [name for name in (full, f"{full}.__init__") if name in known.functions]
