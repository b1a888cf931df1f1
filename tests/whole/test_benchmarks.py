"""The benchmarks start, are listed, and come in one form. What they measure is not measured here."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.house import ROOT

BENCHMARKS = ROOT / "benchmarks"
SHARED = ("common", "results")
"""What is no benchmark."""

FILES = {path.stem for path in BENCHMARKS.glob("*.py")}
FOLDERS = {path.parent.name for path in BENCHMARKS.glob("*/__main__.py")}


def test_a_benchmark_is_one_file_or_one_folder() -> None:
    assert not FILES & FOLDERS
    loose = {path.name for path in BENCHMARKS.iterdir() if path.is_dir()} - {*FOLDERS, *SHARED, "__pycache__"}
    assert not loose, f"a folder is run as `python benchmarks/NAME`; give a __main__.py to {loose}"


def test_every_benchmark_has_its_line() -> None:
    page = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    listed = {name.removesuffix(".py") for name in re.findall(r"^\| `([\w.]+)`", page, re.MULTILINE)}
    assert listed == (FILES | FOLDERS | {"r_bridge.R"}) - set(SHARED)


def test_the_page_on_clusters_has_the_figures_of_the_last_run(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = BENCHMARKS / "results" / "clusters.json"
    if not figures.is_file():
        pytest.skip("python benchmarks/clusters.py has not run whole yet")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    clusters: Any = importlib.import_module("clusters")
    page = clusters.page(json.loads(figures.read_text(encoding="utf-8")))
    assert page in (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8"), "say: clusters.py --page"


def test_a_part_of_the_server_that_fails_keeps_no_other_from_running(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    run: Any = importlib.import_module("serve.__main__")

    def fails(_: Any) -> Any:
        raise RuntimeError("no client\nat all")

    monkeypatch.setattr(run, "PARTS", {"open": fails, "start": lambda _: {"serve": [1.5], "load": [1.0]}})
    monkeypatch.setattr(run, "kept", lambda part: tmp_path / part)
    printed: list[str] = []
    monkeypatch.setattr(run, "publish", lambda *_, body, **__: printed.append(body))
    monkeypatch.setattr(sys, "argv", ["serve", "--parts", "open,start"])
    with pytest.raises(SystemExit, match="failed: open"):
        run.main()
    lines = printed[0].splitlines()
    missed = [line for line in lines if line.startswith("**NOT met**")]
    assert len(missed) == 4
    assert all(line.endswith("measured: nothing; RuntimeError: no client") for line in missed[:3])
    assert missed[3].endswith("measured: 0.50 s")


@pytest.mark.parametrize("name", sorted((FILES | FOLDERS) - set(SHARED)))
def test_a_benchmark_says_how_it_is_run(name: str, tmp_path: Path) -> None:
    file = BENCHMARKS / (name if name in FOLDERS else f"{name}.py")
    said = subprocess.run(
        [sys.executable, file, "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    assert f"python benchmarks/{file.name}" in said.stdout
