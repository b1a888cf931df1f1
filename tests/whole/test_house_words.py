"""The rules about words, as tests: messages are facts, one spelling, one meaning a word, comments."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from string import Formatter

import pytest

from tests.house import ROOT, Module, functions, house, label, strings

LEAST_COMMENTS = 2.0
"""Comment lines in a hundred lines of code, in every folder."""

_FACE_WORDS = re.compile(
    r"(?<![\w-])--[a-z]|bertonnx (export|load|run|check|info|doctor|bench)\b|pip install|"
    # Not files of TensorFlow's checkpoints.
    r"\bbert_(?!config|model|backbone)[a-z]+"
)
"""What one face alone would write: its options, its commands, its functions."""

OTHERS_OPTIONS = ("docker run", "--gpus all")
"""Options of other programs, which are the same from every language."""

_SPELLINGS = re.compile(
    r"\w*(normalis|optimis|quantis|serialis|recognis|tokenis|initialis)\w*", re.IGNORECASE
)

SPELT_OTHERWISE: dict[str, tuple[str, ...]] = {
    "tests/whole/test_house_words.py": (),
}
"""Files that may hold such words: data and quotations; the words, or none for all."""

_READ = (".py", ".md", ".R", ".Rd", ".Rmd", ".sh", ".toml", ".txt")
_FOLDERS = (
    *(
        "benchmarks",
        "docs",
        "examples",
        "exporters",
        "models",
        "r",
        "runtime",
        "src/bertonnx",
        "tests",
        "tools",
    ),
)

Rule = Callable[[Sequence[Module]], Iterator[str]]


@pytest.fixture(scope="module")
def modules() -> list[Module]:
    return house()


def words_of_one_face(modules: Sequence[Module]) -> Iterator[str]:
    for module in modules:
        if module.top == "src":
            continue
        for text in strings(module):
            found = _FACE_WORDS.search(str(text.value))
            if found and not any(known in str(text.value) for known in OTHERS_OPTIONS):
                yield (
                    f"{label(module, text)} says {found[0]!r}, which is one face's; give an Option, a Call "
                    "or an Install as a fact (bertonnx.wording)"
                )


def templates_that_are_not_whole(modules: Sequence[Module]) -> Iterator[str]:
    for module in modules:
        for call, template in _templates(module):
            facts = {keyword.arg for keyword in call.keywords}
            if not isinstance(template, ast.Constant):
                if isinstance(template, ast.JoinedStr | ast.BinOp):
                    yield (
                        f"{label(module, call)} puts values into the template; give them as facts, for they "
                        "may hold braces"
                    )
                continue
            named = set(_fields(str(template.value)))
            if None in facts:
                continue  # Facts that come as a mapping: a test of their own reads such a message.
            if missing := sorted(named - facts):
                yield f"{label(module, call)}: the template names {', '.join(missing)}, which no fact gives"
            if vain := sorted(str(fact) for fact in facts - named):
                yield f"{label(module, call)}: {', '.join(vain)} stands nowhere in the template"


def _templates(module: Module) -> Iterator[tuple[ast.Call, ast.expr]]:
    """Yield the calls that make an error or a message, and their templates."""
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        origin = module.imports.get(node.func.id, "")
        place = 1 if origin == "bertonnx.errors.RowError" else 0
        made = origin.startswith("bertonnx.errors.") or origin == "bertonnx.wording.Message"
        if made and len(node.args) > place:
            yield node, _constant(module, node.args[place])


def _constant(module: Module, template: ast.expr) -> ast.expr:
    """Return the text that a module's constant stands for."""
    if isinstance(template, ast.Name):
        for node in module.tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == template.id:
                return node.value
    return template


def _fields(template: str) -> Iterator[str]:
    for _, field, form, _ in Formatter().parse(template):
        if field is not None:
            yield re.split(r"[.\[]", field)[0]
        if form:
            yield from _fields(form)


def words_with_another_meaning(modules: Sequence[Module]) -> Iterator[str]:
    scores = []
    for module in modules:
        if module.room == "runtime/engine":
            for number, line in enumerate(module.text.splitlines(), 1):
                if "window" in line.lower():
                    yield (
                        f"{module.place}:{number} says window, which is a span of tokens of a long text; "
                        "rows that are taken together are a chunk"
                    )
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                if node.name == "Batch" and module.room != "runtime/engine":
                    yield f"{label(module, node)}: a Batch is the engine's; name this one for what it holds"
                if node.name.strip("_") == "Job" and module.place != "runtime/io/job.py":
                    yield f"{label(module, node)}: a Job is runtime/io/job's; name this one for what it does"
        scores += [label(module, node) for name, node in functions(module) if name == "_scores"]
    if len(scores) > 1:
        yield f"_scores is several functions, at {', '.join(scores)}; name each for what it scores"


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (words_of_one_face, templates_that_are_not_whole, words_with_another_meaning)
}


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_the_house_keeps(rule: Rule, modules: list[Module]) -> None:
    broken = sorted(rule(modules))
    print(*broken, sep="\n")
    assert not broken, "\n".join(broken)


_ERRORS = "from bertonnx.errors import UsageError, RowError\n"


@pytest.mark.parametrize(
    ("rule", "text", "said"),
    [
        (words_of_one_face, "a = 'add --force to it'", "says '--f'"),
        (words_of_one_face, "a = 'type: pip install x'", "says 'pip install'"),
        (words_of_one_face, "a = f'{b}: bertonnx export it'", "says 'bertonnx export'"),
        (words_of_one_face, "a = 'use bert_load'", "says 'bert_load'"),
        (
            templates_that_are_not_whole,
            _ERRORS + "raise UsageError(f'{a} and {{b}}', b=1)",
            "puts values into",
        ),
        (templates_that_are_not_whole, _ERRORS + "raise UsageError('{a} and {b}', b=1)", "names a, which no"),
        (templates_that_are_not_whole, _ERRORS + "raise RowError('a', '{a:>{b}}', a=1)", "names b, which no"),
        (templates_that_are_not_whole, _ERRORS + "raise UsageError('{a}', a=1, c=2)", "c stands nowhere"),
        (templates_that_are_not_whole, _ERRORS + "A = '{a}'\nraise UsageError(A)", "names a, which no"),
        (words_with_another_meaning, "def next_window(): ...", "rows that are taken together are a chunk"),
    ],
)
def test_a_rule_finds_what_it_is_there_for(rule: Rule, text: str, said: str) -> None:
    (found,) = rule([Module("bertonnx.runtime.engine.planted", "runtime/engine/planted.py", text)])
    assert said in found


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (words_of_one_face, "'''Says --force.'''\na = 'a -- b'"),
        (templates_that_are_not_whole, _ERRORS + "raise UsageError('{a.name} {{b}} {c!r}', a=1, c=2)"),
        (templates_that_are_not_whole, "raise ValueError(f'{a}')"),
    ],
)
def test_a_rule_lets_the_rest_be(rule: Rule, text: str) -> None:
    assert not list(rule([Module("bertonnx.runtime.engine.planted", "runtime/engine/planted.py", text)]))


def test_comments_say_why_often_enough(modules: list[Module]) -> None:
    """None at all would be wrong as well; what they say is for a reader to judge."""
    lines: dict[str, int] = defaultdict(int)
    comments: dict[str, int] = defaultdict(int)
    for module in modules:
        folder = module.place.rpartition("/")[0]
        lines[folder] += sum(bool(line.strip()) for line in module.text.splitlines())
        comments[folder] += sum(_comments(module.text))
    shares = {folder: 100 * comments[folder] / lines[folder] for folder in sorted(lines)}
    for folder, share in shares.items():
        print(f"{folder}: {share:.1f} in a hundred lines")
    few = [f"{folder} has {share:.1f}" for folder, share in shares.items() if share < LEAST_COMMENTS]
    assert not few, f"comment lines in a hundred: {', '.join(few)}; say why where a reader would ask"


def _comments(text: str) -> Iterator[bool]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield not re.match(r"#\s*(noqa|type:|!)", token.string)


def _texts() -> Iterator[Path]:
    for folder in _FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in _READ and path.is_file():
                yield path
    yield from sorted(path for path in ROOT.glob("*") if path.suffix in _READ and path.is_file())


def test_one_spelling() -> None:
    found = []
    for path in _texts():
        place = path.relative_to(ROOT).as_posix()
        if place in SPELT_OTHERWISE:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            found += [f"{place}:{number} {word[0]}" for word in _SPELLINGS.finditer(line)]
    print(*found, sep="\n")
    assert not found, "spell it with z, in names and prose:\n" + "\n".join(found)
