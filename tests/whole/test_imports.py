"""What is imported when: running must not pay for exporting, nor depend on it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bertonnx.models.tasks import TASKS
from tests.commands import written

EXPORT_ONLY = {"torch", "transformers", "optimum", "onnx", "sentence_transformers", "scipy", "safetensors"}
HEAVY = EXPORT_ONLY | {"pyarrow", "pandas"}
ENGINE = {"numpy", "onnxruntime", "tokenizers"}

NOT_FOR_A_ROW = {
    "bertonnx.cli",
    "bertonnx.models.families",
    "bertonnx.models.pooling",
    "bertonnx.runtime.decoders.tokens",
    "bertonnx.runtime.modelfile.device_form",
    "bertonnx.runtime.modelfile.unpadded",
    "bertonnx.runtime.optimum",
}
"""What a file of ours on a CPU does not wait for."""


def modules_after(program: str, *arguments: object) -> set[str]:
    """Run a program in a new process and return the names of all modules that it imported."""
    tail = "\nimport json, sys\nsys.stderr.write('\\n' + json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program + tail, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
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
        "bertonnx.collecting",
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
        "        pairs = ['Ada wrote.'] if model.card.needs_pair else None\n"
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
    assert not found & NOT_FOR_A_ROW
    assert packages(found) >= ENGINE
    assert not packages(found) & HEAVY
    assert not {name for name in found if name.startswith("bertonnx.exporters")}


def test_a_model_on_cpu_imports_its_own_decoder_and_nothing_of_cuda(exported: dict[str, Path]) -> None:
    program = "import sys, bertonnx\nbertonnx.load(sys.argv[1], 'cpu').predict(['a [MASK]'])"
    found = modules_after(program, exported["fill-mask"])
    decoders = {row.decoder.partition(":")[0] for row in TASKS}
    assert decoders & set(found) == {"bertonnx.runtime.decoders.masks"}
    assert not {name for name in found if "cuda" in name}


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
