"""What is imported when: running must not pay for exporting, nor depend on it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import written
from tests.jobs import ROOT

EXPORT_ONLY = {"torch", "transformers", "optimum", "onnx", "sentence_transformers", "scipy", "safetensors"}
HEAVY = EXPORT_ONLY | {"pyarrow", "pandas"}
ENGINE = {"numpy", "onnxruntime", "tokenizers"}
SOURCES = {name: sorted((ROOT / name).rglob("*.py")) for name in ("models", "runtime", "exporters")}


def modules_after(program: str, *arguments: object) -> set[str]:
    """Run a program in a new process and return the names of all modules that it imported."""
    tail = "\nimport json, sys\nsys.stderr.write('\\n' + json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program + tail, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


def packages(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


def test_the_package_alone_imports_nothing_heavy() -> None:
    found = modules_after("import bertonnx\nassert bertonnx.__version__\nbertonnx.BertonnxError")
    assert not packages(found) & (HEAVY | ENGINE)
    assert {name for name in found if name.startswith("bertonnx")} == {
        "bertonnx",
        "bertonnx.errors",
        "bertonnx.wording",
    }


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["run", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\nsys.argv = ['bertonnx', *sys.argv[1:]]\nfrom bertonnx.__main__ import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code"
    )
    assert not packages(modules_after(program, *arguments)) & (HEAVY | ENGINE)


def test_a_model_runs_without_what_exporting_needs(exported: dict[str, Path]) -> None:
    program = (
        "import sys, bertonnx\n"
        "for path in sys.argv[1:]:\n"
        "    with bertonnx.load(path) as model:\n"
        "        pairs = ['Ada wrote.'] if 'question' in path else None\n"
        "        model.predict(['a [MASK]'], pairs)\n"
        "bertonnx.check(sys.argv[1])\n"
    )
    found = modules_after(program, *exported.values())
    assert packages(found) >= ENGINE
    assert not packages(found) & HEAVY
    assert not {name for name in found if name.startswith("bertonnx.exporters")}


def test_the_command_runs_without_what_exporting_needs(exported: dict[str, Path], tmp_path: Path) -> None:
    file = written(tmp_path / "a.txt", "a text\n")
    program = (
        "import sys\nsys.argv = ['bertonnx', 'run', *sys.argv[1:]]\nfrom bertonnx.__main__ import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code"
    )
    found = modules_after(program, exported["text-classification"], file, "-o", tmp_path / "o.csv")
    assert (tmp_path / "o.csv").exists()
    assert packages(found) >= ENGINE
    assert not packages(found) & HEAVY
    assert not {name for name in found if name.startswith("bertonnx.exporters")}


def test_running_works_where_exporting_is_not_installed(exported: dict[str, Path]) -> None:
    """A package that cannot be imported raises here, as it does where it is not installed."""
    program = (
        f"import sys\nfor name in {sorted(HEAVY)}: sys.modules[name] = None\n"
        "import bertonnx\n"
        "with bertonnx.load(sys.argv[1]) as model: assert model.classify(['good'])[0]['label']\n"
        "for name in list(sys.modules):\n"
        "    if sys.modules[name] is None: del sys.modules[name]"
    )
    modules_after(program, exported["text-classification"])


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield node.module or ""


@pytest.mark.parametrize("path", [*SOURCES["runtime"], *SOURCES["models"]], ids=lambda path: path.stem)
def test_imports_point_one_way(path: Path) -> None:
    for name in _imported(path):
        assert not name.startswith("bertonnx.exporters"), name
        assert name.partition(".")[0] not in EXPORT_ONLY, name
        if path.parent.name == "models":
            assert not name.startswith("bertonnx.runtime"), name
        if name.partition(".")[0] == "onnxruntime":
            pytest.fail("only runtime/session.py loads ONNX Runtime, and not by an import statement")


PUBLIC = [*(path for paths in SOURCES.values() for path in paths), *(ROOT / "src" / "bertonnx").glob("*.py")]


@pytest.mark.parametrize("path", PUBLIC, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_no_public_function_swallows_keyword_arguments(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and node.args.kwarg:
            # A decorator's wrapper keeps the signature of what it wraps, and is no tunnel.
            hint = node.args.kwarg.annotation
            kept = isinstance(hint, ast.Attribute) and hint.attr == "kwargs"
            assert kept, f"{path.name}: {node.name}() takes any keyword"
