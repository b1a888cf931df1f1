"""README's first screen, its Python and its list of methods work as they stand there."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bertonnx
from bertonnx.models.families import FAMILIES
from bertonnx.models.tasks import TASKS
from tests.hub import COMMIT, FakeHub, Repo, environment_for, files_of, serving
from tests.markdown import ROOT, pages
from tests.tiny import save_tiny

README = pages()["README.md"]
FIRST_SCREEN = README.before("## Why bertonnx")
CLASSIFIER = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
MASKED = "bert-base-uncased"
RANKER = "cross-encoder/ms-marco-MiniLM-L6-v2"
INFERENCE = "FacebookAI/roberta-large-mnli"


WORDS = {5: "five", 6: "six", 7: "seven", 8: "eight"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    """Serve tiny checkpoints under the names that README uses."""
    folder = tmp_path_factory.mktemp("hub")
    labels = ("NEGATIVE", "POSITIVE")
    classifier = save_tiny(folder / "classifier", "distilbert", "text-classification", labels=labels)
    masked = save_tiny(folder / "masked", "bert", "fill-mask")
    ranker = save_tiny(folder / "ranker", "bert", "text-ranking")
    outcomes = ("CONTRADICTION", "NEUTRAL", "ENTAILMENT")
    inference = save_tiny(folder / "inference", "roberta", "text-classification", labels=outcomes)
    saved = ((CLASSIFIER, classifier), (MASKED, masked), (RANKER, ranker), (INFERENCE, inference))
    served = {name: files_of(path) for name, path in saved}
    with serving({name: Repo({COMMIT: files}) for name, files in served.items()}) as hub:
        yield hub


def typed(lines: str, folder: Path, hub: FakeHub) -> str:
    """Type lines into a shell in a folder and return what they print."""
    environment = environment_for(hub.endpoint, folder.parent / "cache")
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        ["sh", "-e", "-c", lines],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with nothing but the examples."""
    made = tmp_path / "work"
    shutil.copytree(ROOT / "examples", made / "examples")
    return made


def commands() -> list[str]:
    """Return the blocks of the first screen, without the lines that install."""
    blocks = ["\n".join(_without_install(block)) for block in FIRST_SCREEN.blocks("sh")]
    return [block for block in blocks if block]


def _without_install(block: str) -> Iterator[str]:
    for line in block.splitlines():
        if line.startswith("pip install"):
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            asked = re.fullmatch(r'pip install "\.\[([\w,]+)\]"', line)
            assert asked, line
            assert set(asked[1].split(",")) <= set(extras), line
        elif not line.startswith("python3 -m venv"):
            yield line


def test_the_first_screen_labels_reviews(folder: Path, hub: FakeHub) -> None:
    printed = typed(commands()[0], folder, hub)
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    reviews = (ROOT / "examples/reviews.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(reviews)
    assert all(line["label"] in ("NEGATIVE", "POSITIVE") for line in lines)
    shown = [json.loads(line) for block in FIRST_SCREEN.blocks("json") for line in block.splitlines()]
    for got, promised in zip(lines, shown, strict=False):
        assert got.keys() == promised.keys()
        assert got["scores"].keys() == promised["scores"].keys()


def test_the_first_screen_fills_masks(folder: Path, hub: FakeHub) -> None:
    printed = typed(commands()[1], folder, hub)
    assert "int8" in printed
    line = json.loads(printed.splitlines()[-1])
    assert len(line["masks"]) == 1
    assert all("token" in candidate for candidate in line["masks"][0])


def test_the_first_screen_has_no_other_commands() -> None:
    assert len(commands()) == 2


def test_the_picture_shows_the_lines_of_the_first_screen() -> None:
    picture = (ROOT / "docs/terminal.svg").read_text(encoding="utf-8")
    shown = re.sub(r"<[^>]+>", "", picture).replace("&#160;", " ").replace("&quot;", '"')
    for block in FIRST_SCREEN.blocks("json"):
        for line in block.splitlines():
            assert line in shown


def test_python_runs(folder: Path, hub: FakeHub) -> None:
    """One after the other, as they are read: the later ones import nothing."""
    first, *others = README.blocks("python")[:3]
    calls = {"predict": "POSITIVE", "rank": "'score'", "zero_shot": "'score'"}
    lines = first.splitlines()
    for block in others:
        assert len(block.splitlines()) == 3
        lines += block.splitlines()
    called = re.compile(rf"\w+\.(?:{'|'.join(calls)})\(")
    shown = [f"print({line.split('  #')[0]})" if called.match(line) else line for line in lines]
    (folder / "snippet.py").write_text("\n".join(shown))
    printed = typed("python snippet.py", folder, hub).splitlines()
    assert len(printed) == len(calls)
    assert all(word in line for word, line in zip(calls.values(), printed, strict=True))


def test_methods_exist(exported: dict[str, Path], tmp_path: Path) -> None:
    """Each method of README's list is called as it is written there, with a model of its task."""
    pa = pytest.importorskip("pyarrow")
    names: dict[str, Any] = {
        "texts": ["Ada lives in Paris.", "Bob lives in [MASK]."],
        "questions": ["Who?", "Where?"],
        "query": "Who is it?",
        "documents": ["Ada lives in Paris.", "Bob lives in Rome."],
        "labels": ["people", "cities"],
        "contexts": ["Ada lives in Paris.", "Bob lives in Rome."],
        "record_batch": pa.RecordBatch.from_pydict({"text": ["Ada lives in Paris."]}),
    }
    # Every model has `predict`, those that have no method of their own among them.
    task_of = {task.method: task.name for task in TASKS if task.method != "predict"}
    # And those that are a use of a task among others, such as zero-shot classification.
    task_of = {use.method: task.name for task in TASKS for use in task.uses} | task_of
    inference = save_tiny(tmp_path / "nli", labels=("contradiction", "neutral", "entailment"))
    own = {"zero_shot": bertonnx.export(inference, tmp_path / "nli.onnx").path}
    calls = [span for span in README.spans if re.fullmatch(r"model\.\w+\(.+\)", span)]
    called = set()
    for span in calls:
        method = ast.parse(span, mode="eval").body.func.attr  # type: ignore[attr-defined]
        texts = names["texts"][1:] if method == "fill_mask" else names["texts"]
        path = own.get(method, exported[task_of.get(method, "feature-extraction")])
        with bertonnx.load(path) as model:
            assert len(eval(span, {**names, "model": model, "texts": texts})) >= 1
        called.add(method)
    assert called >= {*task_of, "predict"}


def test_it_counts_families_and_tasks() -> None:
    assert f"{len(FAMILIES)} families" in README.text
    assert f"{WORDS[len(TASKS)]} tasks" in README.text


@pytest.fixture
def readme(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return the benchmark that writes README's figures, which sees no results but a test's."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module: Any = importlib.import_module("readme")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    return module


def test_figures_are_those_of_the_benchmarks(readme: Any) -> None:
    """What README says of speed and size is what the last runs wrote down."""
    results = ROOT / "benchmarks" / "results"
    readme.RESULTS = results
    assert readme.section(readme.results_in(results), readme.elsewhere()) in README.text, (
        "say: readme.py --write"
    )


@pytest.mark.parametrize(
    ("name", "pattern", "shown"),
    [
        ("startup", r"the pipeline; measured: ([\d.]+)", "faster"),
        ("install_size", r"measured: ([\d.]+) MB", "megabytes"),
    ],
)
def test_a_figure_is_that_of_its_page(name: str, pattern: str, shown: str) -> None:
    folder = ROOT / "benchmarks" / "results"
    page = (folder / f"{name}.md").read_text(encoding="utf-8")
    figures = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    said = re.search(pattern, page)
    assert said
    assert f"{figures[shown]:.1f}" == said[1]
    assert all(f"- {line}" in page for line in figures["machine"])


def machine(day: str, processor: str, sets: str) -> list[str]:
    return [day, f"{processor}, 2 cores allowed (load average at the end: 1.0)", f"instruction sets: {sets}"]


def results_of(about: list[str]) -> dict[str, dict[str, Any]]:
    """Return figures of one machine; bertonnx takes 2 s, one peer 3 and another 5."""

    def entry(name: str, precision: str, seconds: float) -> dict[str, Any]:
        return {
            "name": name,
            "precision": precision,
            "seconds": {"short": [9.0, seconds, 1.0]},
            "latency": {},
        }

    engines = {
        "bertonnx": entry("bertonnx", "fp32", 2.0),
        "bertonnx-int8": entry("bertonnx INT8", "int8", 2.0),
        "slow": entry("Slow, as documented", "fp32", 5.0),
        "fast": entry("Fast, sorted", "fp32", 3.0),
    }
    return {
        "startup": {"faster": 14.04, "machine": about},
        "load": {"faster": 2.46, "machine": about},
        "install_size": {"megabytes": 139.6, "machine": about},
        "peers": {"models": {"minilm": {"threads": 2, "engines": engines}}, "machine": about},
    }


def test_figures_of_one_machine_and_day_stand_together(readme: Any) -> None:
    here = machine("2026-03-01", "A processor", "avx, avx2, fma")
    there = results_of(machine("2026-02-28", "A processor", "avx2, fma, avx512f, amx_int8"))
    results = results_of(here)
    assert readme.lacking(results) == ""
    said = readme.section(results, [there])
    assert said.count("1 March 2026, A processor, 2 cores, with avx2 and fma") == 1
    assert said.count("28 February 2026, A processor, 2 cores, with avx512f and amx_int8") == 1
    assert "14.0 times faster than transformers' pipeline" in said
    assert "| all-MiniLM-L6-v2, fp32 | 1.50 (Fast) |  |" in said
    assert "| all-MiniLM-L6-v2, INT8 |  |  |" in said


@pytest.mark.parametrize(
    ("day", "sets"), [("2026-03-02", "avx, avx2, fma"), ("2026-03-01", "avx, avx2, fma, avx512f")]
)
def test_figures_of_several_machines_or_days_stand_with_their_own(readme: Any, day: str, sets: str) -> None:
    results = results_of(machine("2026-03-01", "A processor", "avx, avx2, fma"))
    results["peers"]["machine"] = machine(day, "A processor", sets)
    assert "peers: " in readme.lacking(results)
    said = readme.section(results, [])
    assert said.count("1 March 2026, A processor, 2 cores, with avx2 and fma") >= 3
    assert f"Measured on {readme.place(results['peers']['machine']).said}." in said


def test_peers_of_two_days_are_not_of_one(readme: Any) -> None:
    results = results_of(machine("2026-03-01, 2026-03-02", "A processor", "avx2, fma"))
    assert "1 March 2026 and 2 March 2026" in readme.lacking(results)


def test_what_was_never_measured_is_said(readme: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    runs = types.SimpleNamespace(run=lambda command, **_: ran.append(command))
    monkeypatch.setattr(readme, "subprocess", runs)
    monkeypatch.setattr(readme, "write", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["readme.py", "--minutes", "7"])
    with pytest.raises(SystemExit, match="peers: not measured"):
        readme.main()
    assert [Path(command[1]).stem for command in ran] == ["startup", "load", "install_size", "peers"]
    assert 6 < float(ran[-1][-1]) <= 7


def test_a_result_of_another_machine_is_put_aside(readme: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    common: Any = importlib.import_module("common")
    monkeypatch.setattr(common, "RESULTS", readme.RESULTS)
    lines = machine("2026-03-01", "Another", "avx2, fma")
    (readme.RESULTS / "load.json").write_text(json.dumps({"faster": 3.0, "machine": lines}))
    (readme.RESULTS / "load.md").write_text("the page")
    common.publish("load", title="Load", body="", packages=(), figures={"faster": 2.0})
    (aside,) = (readme.RESULTS / "elsewhere").iterdir()
    assert json.loads((aside / "load.json").read_text())["faster"] == 3.0
    assert (aside / "load.md").read_text() == "the page"
    assert [found["load"]["faster"] for found in readme.elsewhere()] == [3.0]
    common.publish("load", title="Load", body="", packages=(), figures={"faster": 2.5})
    assert json.loads((readme.RESULTS / "load.json").read_text())["faster"] == 2.5
    assert [path.name for path in (readme.RESULTS / "elsewhere").iterdir()] == [aside.name]
