"""README's first screen, its Python and its list of methods work as they stand there."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
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
    first, *_ = README.blocks("python")
    (folder / "snippet.py").write_text(f"{first}print(_)\n".replace("model.predict", "_ = model.predict"))
    assert "POSITIVE" in typed("python snippet.py", folder, hub)


@pytest.mark.parametrize(("place", "method"), [(1, "rank"), (2, "zero_shot")])
def test_three_lines_of_python(place: int, method: str, folder: Path, hub: FakeHub) -> None:
    export, load, call = README.blocks("python")[place].splitlines()
    assert f".{method}(" in call
    (folder / "snippet.py").write_text(f"import bertonnx\n{export}\n{load}\nprint({call.split('  #')[0]})\n")
    assert "'score'" in typed("python snippet.py", folder, hub)


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


def _result(name: str, pattern: str) -> float:
    text = (ROOT / f"benchmarks/results/{name}.md").read_text(encoding="utf-8")
    return float(re.search(pattern, text)[1])  # type: ignore[index]


def test_figures_are_those_of_the_benchmarks() -> None:
    """What README says of speed and size is what the last runs wrote down."""
    startup = _result("startup", r"the pipeline; measured: ([\d.]+)")
    load = _result("load", r"`default, same file`; measured: ([\d.]+) of medians")
    size = _result("install_size", r"measured: ([\d.]+) MB")
    assert f"`bertonnx run` is {startup:.1f} times faster" in README.text
    assert f"{1 / load:.1f} times faster than the same file" in README.text
    assert f"{size:.0f} MB more than NumPy" in README.text


@pytest.mark.parametrize("precision", ["fp32", "INT8"])
def test_figures_of_peers(precision: str) -> None:
    """README's shares are those of the fastest peer: its time over ours."""
    results = (ROOT / "benchmarks/results/peers.md").read_text(encoding="utf-8")
    tables = results.partition("## minilm")[2].partition("### One text")[0].split("\n### ")[1:]
    shares = []
    for table in tables:
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[4:]]
        ratios = [float(row[7]) for row in rows if len(row) > 7 and row[1] == precision.lower()]
        shares.append(round((min(ratio for ratio in ratios if ratio != 1.0) - 1) * 100))
    (line,) = [line for line in README.text.splitlines() if line.startswith(f"| {precision} |")]
    assert re.findall(r"(\d+)% faster", line) == [str(share) for share in shares]
