"""The benchmarks start, are listed, and come in one form. What they measure is not measured here."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import subprocess
import sys
import types
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


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what `peers` measures by."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("peers.cells")


class Peer:
    """A peer's process that takes a known time."""

    version = "1.0"

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.asked: list[str] = []

    def ask(self, *, do: str, **_: Any) -> dict[str, Any]:
        self.asked.append(do)
        answers: dict[str, dict[str, Any]] = {"tune": {"budget": 512}, "embed": {"seconds": self.seconds}}
        return answers.get(do, {"gflops": 100.0, "kernels": "some"})


def test_peers_that_are_far_behind_have_one_round(cells: Any, tmp_path: Path) -> None:
    """Behind the fastest peer, that is: it goes on however much faster bertonnx is."""
    seconds = {"bertonnx": 1.0, "ctranslate2-sorted": 4.0, "optimum-sorted": 5.9, "torch-sorted": 6.1}
    peers = {name: Peer(each) for name, each in {**seconds, "sgemm": 0.0}.items()}
    peers["openvino-sorted"] = Peer(4.0)

    def child(name: str, _: Any) -> Peer:
        if name == "openvino-sorted":
            raise cells.PeerError("it has no library")
        return peers[name]

    pool = types.SimpleNamespace(enter=lambda _: None, child=child)
    cell = cells.Cell("minilm", 2, "fp32", "short")
    names = [*seconds, "openvino-sorted"]
    found = cells.measured(cell, names, pool, rounds=3, tuned={"torch-sorted": 2048}, run=tmp_path)
    rounds = {name: len(entry["times"].get("short", [])) for name, entry in found["entries"].items()}
    assert rounds == {
        **{"bertonnx": 3, "ctranslate2-sorted": 3, "optimum-sorted": 3},
        **{"torch-sorted": 1, "openvino-sorted": 0},
    }
    assert found["entries"]["openvino-sorted"]["error"] == "it has no library"
    assert found["sgemm"] == [100.0] * 3


def test_a_process_of_peers_embeds(
    cells: Any, exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Set up as `peers` does it: the files of a model and its texts, and a process for one engine."""
    engine: Any = importlib.import_module("peers.engine")
    monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS))
    monkeypatch.setattr(cells, "interpreter", lambda _: Path(sys.executable))
    names = [field.name for field in dataclasses.fields(engine.Setup) if field.name != "cores"]
    setup = dict.fromkeys(names, str(exported["feature-extraction"]))
    (tmp_path / "minilm-setup.json").write_text(json.dumps(setup))
    (tmp_path / "minilm-texts.json").write_text(json.dumps({"mixed": ["a text", "another"], "16": ["one"]}))
    cell, pool = cells.Cell("minilm", 1, "fp32", "mixed"), cells.Pool(tmp_path)
    try:
        pool.enter(cell)
        child = pool.child("bertonnx", cell)
        assert re.fullmatch(r"onnxruntime \d[\d.]+", child.version)
        assert (
            child.ask(do="tune", texts="mixed", budgets=[512], save=str(tmp_path / "a.npy"))["budget"] is None
        )
        assert child.ask(do="embed", texts="mixed", save=str(tmp_path / "b.npy"))["seconds"] > 0
        assert len(child.ask(do="latency", texts="16", runs=3)["seconds"]) == 3
        assert cells._cosine(tmp_path / "a.npy", tmp_path / "b.npy")["least"] == pytest.approx(1.0)
        with pytest.raises(cells.PeerError, match="KeyError"):
            child.ask(do="embed", texts="none", save=None)
        assert pool.child("bertonnx", cell) is child
    finally:
        pool.close()


def test_every_engine_of_peers_is_in_a_cell(cells: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells.common, "instructions", lambda: {"avx512_bf16"})
    every = cells.cells(["minilm", "bert-base"], [2, 1])
    known = list(cells.ENGINES)
    there = {cell: cells.entries(cell, known, 2) for cell in every}
    assert {name for names in there.values() for name in names} == set(known)
    for cell, names in there.items():
        assert {cells.ENGINES[name].precision for name in names} <= {cell.precision, "auto"}
        assert any(cells.ENGINES[name].ours for name in names)
        assert len(names) >= 3
    # Those that take texts in their order are twice as slow, and shown once.
    slow = [cell for cell, names in there.items() if "optimum" in names and cell.task != "single"]
    assert slow == [cells.Cell("minilm", 2, "fp32", task) for task in ("short", "mixed")]
    monkeypatch.setattr(cells.common, "instructions", lambda: {"avx2"})
    assert not any("openvino-default" in cells.entries(cell, known, 2) for cell in every)


def test_what_was_measured_of_other_code_is_not_gone_on_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    common: Any = importlib.import_module("common")
    monkeypatch.setattr(common, "cache", lambda: tmp_path)
    (tmp_path / "code").mkdir()
    code, page = tmp_path / "code" / "a.py", tmp_path / "list.txt"
    code.write_text("1")
    page.write_text("a")
    made = common.kept("peers", code.parent, page, 3)
    assert made == common.kept("peers", code.parent, page, 3)
    others = [common.kept("peers", code.parent, page, 4)]
    page.write_text("b")
    others.append(common.kept("peers", code.parent, page, 3))
    code.write_text("2")
    others.append(common.kept("peers", code.parent, page, 3))
    assert len({made, *others}) == 4


@pytest.mark.parametrize("name", sorted((FILES | FOLDERS) - set(SHARED)))
def test_a_benchmark_says_how_it_is_run(name: str, tmp_path: Path) -> None:
    file = BENCHMARKS / (name if name in FOLDERS else f"{name}.py")
    said = subprocess.run(
        [sys.executable, file, "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    assert f"python benchmarks/{file.name}" in said.stdout
