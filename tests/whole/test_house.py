"""The house's rules, as tests: who may import whom, where tasks and providers are told apart, and sizes.

Each rule reads the syntax trees (`tests/house.py`), says what to do where it is broken, and is shown to
find what it is there for.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields

import pytest

from bertonnx.models.families import FAMILIES
from bertonnx.models.pooling import POOLINGS
from bertonnx.models.providers import PROVIDERS
from bertonnx.models.registry import resolve
from bertonnx.models.tasks import TASKS
from tests.forwarding import chains
from tests.house import Module, functions, house, label

GROUND = ("src/bertonnx/errors.py", "models", "runtime/options.py", "runtime/places.py")
"""What every room below them may import."""

ALL = "all of them"

ROOMS: Mapping[str, str] = {
    **dict.fromkeys(GROUND, ""),
    "runtime/modelfile": "",
    "runtime/session": "runtime/modelfile",
    "runtime/rows.py": "runtime/session",
    "runtime/tokenizers_seam.py": "",
    "runtime/sides.py": "runtime/rows.py",
    "runtime/subwords.py": "",
    "runtime/tokenization.py": "runtime/rows.py runtime/tokenizers_seam.py runtime/sides.py "
    "runtime/subwords.py",
    "runtime/pairing.py": "runtime/rows.py runtime/tokenization.py",
    "runtime/vectors": "runtime/rows.py",
    "runtime/decoders": "runtime/rows.py runtime/tokenization.py runtime/pairing.py runtime/vectors",
    "runtime/engine": "runtime/session runtime/rows.py runtime/tokenization.py",
    "runtime/io": "runtime/rows.py runtime/vectors",
    "runtime/optimum_folder.py": "",
    "runtime/optimum_tokenizer.py": "runtime/optimum_folder.py runtime/tokenization.py",
    "runtime/optimum.py": "runtime/optimum_folder.py runtime/optimum_tokenizer.py runtime/modelfile "
    "runtime/session runtime/rows.py",
    "runtime/opening.py": "runtime/modelfile runtime/session runtime/tokenization.py runtime/optimum.py",
    "runtime/methods.py": "runtime/rows.py runtime/vectors",
    "runtime/token_methods.py": "runtime/rows.py runtime/decoders runtime/methods.py",
    "runtime/arrow_methods.py": "runtime/rows.py runtime/decoders runtime/io runtime/token_methods.py",
    "runtime/model.py": ALL,
    "runtime/evaluation": "runtime/rows.py runtime/io runtime/methods.py runtime/model.py",
    "runtime/golden.py": "runtime/modelfile runtime/session runtime/rows.py runtime/tokenization.py",
    "runtime/doctor.py": "runtime/session",
    "runtime/bench": "runtime/session runtime/rows.py runtime/tokenization.py runtime/io runtime/model.py",
    "runtime/run.py": ALL,
    "runtime/serving": "runtime/session runtime/rows.py runtime/tokenization.py runtime/decoders "
    "runtime/engine runtime/io runtime/methods.py runtime/token_methods.py runtime/model.py",
    "runtime/search.py": ALL,
    "runtime/workers.py": ALL,
    "runtime/signing.py": "runtime/modelfile",
    "exporters/quiet.py": "",
    "exporters/pointers.py": "",
    "exporters/beside.py": "runtime/session",
    "exporters/options.py": "",
    "exporters/checkpoint/tensorflow": "runtime/modelfile exporters/quiet.py exporters/pointers.py "
    "exporters/options.py",
    "exporters/checkpoint": "runtime/tokenization.py runtime/tokenizers_seam.py exporters/quiet.py "
    "exporters/pointers.py exporters/options.py "
    "exporters/checkpoint/tensorflow",
    "exporters/onnxgraph": "runtime/modelfile runtime/session",
    "exporters/verify": "runtime/session runtime/rows.py runtime/tokenization.py runtime/decoders "
    "runtime/engine exporters/beside.py exporters/quiet.py exporters/options.py exporters/checkpoint "
    "exporters/checkpoint/tensorflow",
    "exporters/steps": "runtime/session exporters/quiet.py exporters/checkpoint exporters/onnxgraph",
    "exporters/fp16": "exporters/onnxgraph",
    "exporters/int8": "runtime/session runtime/rows.py runtime/tokenization.py runtime/io "
    "exporters/beside.py exporters/options.py exporters/onnxgraph exporters/verify",
    "exporters/describe.py": "exporters/checkpoint",
    "exporters/staging.py": "runtime/modelfile runtime/session runtime/tokenization.py runtime/golden.py "
    "exporters/onnxgraph exporters/verify",
    "exporters/ranges.py": "runtime/session runtime/rows.py runtime/tokenization.py runtime/decoders "
    "runtime/engine runtime/vectors",
    "exporters/places.py": "runtime/modelfile",
    "exporters/temperature.py": "runtime/session runtime/rows.py runtime/tokenization.py runtime/evaluation "
    "exporters/options.py "
    "exporters/checkpoint exporters/verify",
    "exporters/convert.py": ALL,
    "exporters/training": ALL,
    "runtime/r_tables.py": "runtime/rows.py runtime/io runtime/vectors",
    "runtime/r_answers.py": "runtime/r_tables.py",
    "runtime/r_hidden.py": "runtime/rows.py runtime/decoders runtime/model.py",
    "runtime/r_vectors.py": "runtime/vectors runtime/search.py",
    "runtime/r_work.py": "runtime/io runtime/methods.py runtime/model.py runtime/rows.py runtime/run.py "
    "runtime/evaluation runtime/r_tables.py",
    "src/bertonnx": ALL,
    "runtime/r_bridge.py": ALL,
}
"""What each room may import, besides itself and the ground: only rooms above it, so there is no circle."""

LONGEST_BODY, LONGEST_MODULE, LONGEST_CHAIN = 60, 500, 2

ROW_NAMES = {*TASKS.names, *PROVIDERS.names}

EXPORT_ONLY = {
    *("torch", "transformers", "optimum", "onnx", "sentence_transformers", "scipy", "safetensors", "peft")
}

NOT_A_PROVIDER = {
    "runtime/bench/machine.py": "the machine's description has a key for its processor",
    "runtime/bench/chart.py": "it shows that description",
    "runtime/bench/report.py": "it shows that description",
    "src/bertonnx/display.py": "it shows that description",
}
"""Where "cpu" is the processor in the machine's description, by subscript or key."""

Rule = Callable[[Sequence[Module]], Iterator[str]]


@pytest.fixture(scope="module")
def modules() -> list[Module]:
    return house()


def imports_between_rooms(modules: Sequence[Module]) -> Iterator[str]:
    rooms = {module.name: module.room for module in modules}
    for module in modules:
        if module.room not in ROOMS:
            if not module.place.endswith("/__init__.py"):
                yield f"{module.place}: ROOMS has no {module.room}; put it behind those that it imports"
            continue
        allowed = {module.room, *_above(module.room)}
        for name in sorted(set(module.imports.values())):
            room = rooms.get(name) or rooms.get(name.rpartition(".")[0])
            if room is not None and room not in allowed and name != "bertonnx.__version__":
                yield (
                    f"{module.place} imports {name}: {module.room} may not import {room}; move what both "
                    "need to a room above, or allow it in ROOMS"
                )


def _above(room: str) -> list[str]:
    """Return the rooms that a room may import."""
    order = list(ROOMS)
    above = order[: order.index(room)]
    named = above if ROOMS[room] == ALL else [*GROUND, *ROOMS[room].split()]
    return [other for other in named if other in above]


def names_of_rows(modules: Sequence[Module]) -> Iterator[str]:
    for module in modules:
        if module.top == "models":
            continue
        for node in ast.walk(module.tree):
            for place in _told_apart(node):
                if isinstance(place, ast.Constant) and place.value in ROW_NAMES:
                    processor = place.value == "cpu" and module.place in NOT_A_PROVIDER
                    if not (processor and isinstance(node, ast.Subscript | ast.Dict)):
                        yield (
                            f"{label(module, place)} asks for {place.value!r} by name; give the row "
                            "in models/ a field for what differs, and read that"
                        )


def _told_apart(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what a comparison, a match, a dict's keys or a subscript tells values apart by."""
    if isinstance(node, ast.Compare):
        for side in (node.left, *node.comparators):
            yield from ast.walk(side)
    elif isinstance(node, ast.MatchValue):
        yield node.value
    elif isinstance(node, ast.Dict):
        yield from (key for key in node.keys if key is not None)
    elif isinstance(node, ast.Subscript):
        yield node.slice
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
        yield from node.args[:1]


def sessions_made_elsewhere(modules: Sequence[Module]) -> Iterator[str]:
    remedy = "only runtime/session makes sessions and imports ONNX Runtime; use what it offers"
    for module in modules:
        if module.room == "runtime/session":
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute | ast.Name):
                name = node.attr if isinstance(node, ast.Attribute) else node.id
                if name == "InferenceSession":
                    yield f"{label(module, node)} makes a session; {remedy}"
        for name in module.imports.values():
            if name.partition(".")[0] == "onnxruntime":
                yield f"{module.place} imports {name}; {remedy}"


def heavy_imports(modules: Sequence[Module]) -> Iterator[str]:
    for module in modules:
        if module.top in ("models", "runtime"):
            for name in module.imports.values():
                if name.partition(".")[0] in EXPORT_ONLY:
                    yield f"{module.place} imports {name}; only exporters/ may, so that running stays light"


def long_bodies(modules: Sequence[Module]) -> Iterator[str]:
    for module in modules:
        for name, function in functions(module):
            body = [node for node in function.body if getattr(node, "value", None) not in module.docstrings]
            lines = (function.end_lineno or 0) - body[0].lineno + 1 if body else 0
            if lines > LONGEST_BODY:
                yield f"{label(module, function)} {name}() has {lines} lines; make parts of it functions"


def long_modules(modules: Sequence[Module]) -> Iterator[str]:
    for module in modules:
        if (lines := len(module.text.splitlines())) > LONGEST_MODULE:
            yield f"{module.place} has {lines} lines; split it by what it does"


def keyword_tunnels(modules: Sequence[Module]) -> Iterator[str]:
    for module in modules:
        if module.room == "src/bertonnx/errors.py":
            continue  # A message's facts are its own.
        for name, function in functions(module):
            hint = function.args.kwarg and function.args.kwarg.annotation
            # A decorator's wrapper keeps the signature of what it wraps, and is no tunnel; neither is what
            # another library calls with more than is wanted, which goes nowhere.
            ignored = function.args.kwarg is not None and function.args.kwarg.arg == "_"
            kept = isinstance(hint, ast.Attribute) and hint.attr == "kwargs"
            if function.args.kwarg and not ignored and not kept:
                yield f"{label(module, function)} {name}() takes any keyword; name them, or take an object"


def casts_to_any(modules: Sequence[Module]) -> Iterator[str]:
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and ast.unparse(node).startswith(("cast('Any',", "cast(Any,")):
                yield f"{label(module, node)} casts to Any; give the value its type where it comes from"


def options_handed_on(modules: Sequence[Module]) -> Iterator[str]:
    options = set(_options(modules))
    for chain in chains(modules, longest=LONGEST_CHAIN):
        option = chain[0][1]
        if option in options:
            yield (
                f"{option} is handed on by {len(chain) - 1} functions: "
                f"{' > '.join(name.removeprefix('bertonnx.') for name, _ in chain)}; put it into the "
                "options object that they share"
            )


def _options(modules: Sequence[Module]) -> Iterator[str]:
    """Yield what a user may choose: fields of the options objects, and the commands' options."""
    for module in modules:
        for node in ast.walk(module.tree):
            # `wording.Options` is a term of messages, and has no field that a user may choose.
            if isinstance(node, ast.ClassDef) and re.fullmatch(r"\w+Options", node.name):
                yield from (
                    item.target.id
                    for item in node.body
                    if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
                )
        if module.name.startswith("bertonnx.cli."):
            for _, function in functions(module):
                given, defaults = function.args.args, function.args.defaults
                yield from (item.arg for item in given[len(given) - len(defaults) :])
                yield from (item.arg for item in function.args.kwonlyargs)


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        imports_between_rooms,
        names_of_rows,
        sessions_made_elsewhere,
        heavy_imports,
        long_bodies,
        long_modules,
        keyword_tunnels,
        casts_to_any,
        options_handed_on,
    )
}


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_the_house_keeps(rule: Rule, modules: list[Module]) -> None:
    broken = sorted(rule(modules))
    print(*broken, sep="\n")
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("rule", [long_bodies, long_modules, casts_to_any])
def test_benchmarks_and_tools_keep(rule: Rule) -> None:
    broken = sorted(rule(house("benchmarks", "tools")))
    assert not broken, "\n".join(broken)


def planted(text: str, place: str = "runtime/engine/planted.py") -> list[Module]:
    name = "bertonnx." + place.removeprefix("src/bertonnx/").removesuffix(".py").replace("/", ".")
    return [Module(name, place, text)]


@pytest.mark.parametrize(
    ("rule", "text", "said"),
    [
        (names_of_rows, "if task == 'fill-mask': pass", "asks for 'fill-mask' by name"),
        (names_of_rows, "a = x in ('cpu', 'b')", "asks for 'cpu'"),
        (names_of_rows, "match x:\n  case 'cuda': pass", "asks for 'cuda'"),
        (names_of_rows, "a = {'question-answering': 1}", "asks for 'question-answering'"),
        (names_of_rows, "a = b.get('cuda')", "asks for 'cuda'"),
        (sessions_made_elsewhere, "s = ort.InferenceSession('a')", "makes a session"),
        (sessions_made_elsewhere, "def f():\n  from onnxruntime import X", "imports onnxruntime.X"),
        (heavy_imports, "def f():\n  import torch.nn as nn", "imports torch.nn"),
        (long_bodies, "def f():\n" + "  a = 1\n" * 61, "f() has 61 lines"),
        (long_modules, "a = 1\n" * 501, "has 501 lines"),
        (keyword_tunnels, "def f(**more: int): g(**more)", "f() takes any keyword"),
        (casts_to_any, "a = cast('Any', b)", "casts to Any"),
        (
            options_handed_on,
            "class LoadOptions:\n  tf32: bool\n"
            "def a(tf32): b(tf32=tf32)\ndef b(tf32): c(1, tf32)\ndef c(x, tf32): d(tf32)\ndef d(tf32): ...",
            "tf32 is handed on by 3 functions",
        ),
    ],
)
def test_a_rule_finds_what_it_is_there_for(rule: Rule, text: str, said: str) -> None:
    (found,) = rule(planted(text))
    assert said in found


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (names_of_rows, "a = load(x, 'cpu')"),
        (long_bodies, "def f():\n  '''A\n" + "  word\n" * 61 + "  '''\n" + "  a = 1\n" * 60),
        (keyword_tunnels, "def f(*args: P.args, **kwargs: P.kwargs): g(*args, **kwargs)"),
        (
            options_handed_on,
            "class LoadOptions:\n  tf32: bool\n"
            "def a(tf32): b(tf32=tf32)\ndef b(tf32): c(1, tf32)\ndef c(x, tf32): d(not tf32)\n"
            "def d(tf32): ...",
        ),
    ],
)
def test_a_rule_lets_the_rest_be(rule: Rule, text: str) -> None:
    assert not list(rule(planted(text)))


def test_rooms_may_import_only_those_above_them() -> None:
    order = list(ROOMS)
    for room, allowed in ROOMS.items():
        for other in allowed.split() if allowed != ALL else ():
            assert other in order[: order.index(room)], f"{room} stands above {other}: a circle"


def test_an_import_that_no_room_allows_is_found() -> None:
    below = planted("", "runtime/engine/b.py")
    (found,) = imports_between_rooms(
        [*planted("from bertonnx.runtime.engine.b import c", "runtime/io/a.py"), *below]
    )
    assert "runtime/io/a.py imports bertonnx.runtime.engine.b.c" in found
    above = planted("", "models/b.py")
    assert not list(
        imports_between_rooms([*planted("from bertonnx.models.b import c", "runtime/io/a.py"), *above])
    )


def test_what_rows_name_is_there() -> None:
    broken = []
    for row in [*TASKS, *PROVIDERS, *POOLINGS, *FAMILIES]:
        for field in fields(row):
            value = getattr(row, field.name)
            for place in value.values() if isinstance(value, Mapping) else [value]:
                if isinstance(place, str) and place.startswith("bertonnx.") and ":" in place:
                    try:
                        assert callable(resolve(place))
                    except (ImportError, AttributeError, AssertionError) as error:
                        broken.append(f"{row.name}'s {field.name} is {place}: {error}")
    print(*broken, sep="\n")
    assert not broken, "\n".join(broken)
