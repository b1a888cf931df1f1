"""The version of ONNX Runtime, told without loading it."""

from __future__ import annotations

import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from bertonnx.runtime.session import version
from bertonnx.runtime.session.session import import_onnxruntime

PROGRAM = """
import sys
from bertonnx.runtime.session.version import onnxruntime_version
print(onnxruntime_version())
assert not [name for name in sys.modules if name.startswith("onnxruntime")]
"""


def test_it_is_what_onnxruntime_says_of_itself() -> None:
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=300
    )
    loaded = import_onnxruntime().__version__
    assert said.stdout.strip() == loaded
    assert version.onnxruntime_version() == loaded


def test_none_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(version, "find_spec", lambda _: None)
    assert version.onnxruntime_version() is None


def test_one_that_does_not_say_it_in_its_text_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loaded = import_onnxruntime()
    monkeypatch.delitem(sys.modules, "onnxruntime")
    (tmp_path / "__init__.py").write_text("from elsewhere import __version__\n", encoding="utf-8")
    spec = ModuleSpec("onnxruntime", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(version, "find_spec", lambda _: spec)
    monkeypatch.setattr(version, "import_onnxruntime", lambda: loaded)
    assert version.onnxruntime_version() == loaded.__version__
