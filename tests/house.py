"""What `tests/whole/test_house.py` reads: the package's modules as syntax trees, and who calls whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

__all__ = ["FOLDERS", "ROOT", "Function", "Module", "functions", "house", "label", "strings"]

ROOT = Path(__file__).resolve().parents[1]

FOLDERS = {
    "bertonnx": "src/bertonnx",
    "bertonnx.models": "models",
    "bertonnx.runtime": "runtime",
    "bertonnx.exporters": "exporters",
}
"""Packages and where they lie; src/bertonnx also holds links to the other three."""

_GROUND = {"bertonnx.collecting", "bertonnx.errors", "bertonnx.wording"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One file.

    Attributes:
        name: as it is imported; a package's own name for its `__init__.py`.
        place: its path from the root, with slashes.
        text: its source.
    """

    name: str
    place: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.text)

    @cached_property
    def docstrings(self) -> frozenset[ast.Constant]:
        """Strings that stand alone as a statement: docstrings, and what is said below an attribute."""
        return frozenset(
            node.value
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        )

    @property
    def room(self) -> str:
        """The folder it lies in, as `runtime/engine`.

        Modules that lie directly in `runtime` or `exporters` are above some rooms and below others, so
        each is a room of its own; of src/bertonnx, those in `_GROUND` are below all.
        """
        folder, _, file = self.place.rpartition("/")
        if folder in ("runtime", "exporters") and file != "__init__.py":
            return f"{folder}/{file}"
        if self.name in _GROUND:
            return "src/bertonnx/errors.py"
        return folder

    @property
    def top(self) -> str:
        """The top folder: `src`, `models`, `runtime` or `exporters`."""
        return self.place.partition("/")[0]

    @cached_property
    def imports(self) -> dict[str, str]:
        """What each imported name stands for: a module's name, or `module.name`."""
        found = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    found[alias.asname or alias.name] = alias.name
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        return found


def house(*more: str) -> list[Module]:
    """Return the package's modules, and those of more folders from the root."""
    modules = []
    for package, folder in FOLDERS.items():
        top = ROOT / folder
        files = top.glob("*.py") if package == "bertonnx" else top.rglob("*.py")
        for file in sorted(files):
            parts = file.relative_to(top).with_suffix("").parts
            modules.append(_module(file, ".".join([package, *parts]).removesuffix(".__init__")))
    for folder in more:
        for file in sorted((ROOT / folder).rglob("*.py")):
            modules.append(_module(file, ".".join(file.relative_to(ROOT).with_suffix("").parts)))
    return modules


def _module(file: Path, name: str) -> Module:
    return Module(name, file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8"))


def functions(module: Module) -> Iterator[tuple[str, Function]]:
    """Yield every function with its name inside the module, as `Model.embed`."""

    def inside(node: ast.AST, names: tuple[str, ...]) -> Iterator[tuple[str, Function]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                yield ".".join([*names, child.name]), child
                yield from inside(child, (*names, child.name))
            elif isinstance(child, ast.ClassDef):
                yield from inside(child, (*names, child.name))
            else:
                yield from inside(child, names)

    yield from inside(module.tree, ())


def strings(module: Module) -> Iterator[ast.Constant]:
    """Yield every text in the code, docstrings left out; the parts of an f-string one by one."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in module.docstrings:
            yield node


def label(module: Module, node: ast.AST) -> str:
    """Return where a node stands, as editors read it."""
    return f"{module.place}:{getattr(node, 'lineno', 1)}"
