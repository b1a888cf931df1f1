"""`bertonnx run` from the outside: the lines of every task, formats, long texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import bertonnx
from bertonnx.runtime.options import AGGREGATIONS
from tests.commands import Command, read_lines, written
from tests.corpus import SENTENCES
from tests.tiny import MAX_LENGTH, save_tiny


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Export the problem types of text classification, and a model of text pairs."""
    settings: Mapping[str, tuple[tuple[str, ...], dict[str, Any]]] = {
        "multi-label": (("toxic", "rude", "kind"), {"problem_type": "multi_label_classification"}),
        "regression": (("stars",), {"problem_type": "regression", "num_labels": 1}),
    }
    files = {}
    for name, (labels, config) in settings.items():
        folder = tmp_path_factory.mktemp(name)
        source = save_tiny(folder / "checkpoint", labels=labels, **config)
        files[name] = bertonnx.export(source, folder / "model.onnx").path
    return files


# run: the lines of the contract -------------------------------------------------------------------


def test_embeddings(command: Command, exported: dict[str, Path], tmp_path: Path) -> None:
    texts = ["Ada", "", "Paris"]
    outcome = command("run", exported["feature-extraction"], written(tmp_path / "a.txt", "Ada\n\nParis"))
    assert outcome.code == 0
    assert [list(line) for line in outcome.lines] == [["row", "embedding"]] * 3
    assert [line["row"] for line in outcome.lines] == [0, 1, 2]
    with bertonnx.load(exported["feature-extraction"]) as model:
        expected = model.embed(texts)
    back = np.array([line["embedding"] for line in outcome.lines], dtype=np.float32)
    assert np.array_equal(back, expected)


def test_single_label(command: Command, classifier: Path, tmp_path: Path) -> None:
    (line,) = command("run", classifier, written(tmp_path / "a.txt", "Marvellous!\n")).lines
    assert list(line) == ["row", "label", "score", "scores"]
    assert list(line["scores"]) == ["negative", "neutral", "positive"]
    assert line["scores"][line["label"]] == line["score"] == max(line["scores"].values())
    assert sum(line["scores"].values()) == pytest.approx(1, abs=1e-6)


def test_top_k_lists_the_best_labels(command: Command, classifier: Path, tmp_path: Path) -> None:
    (line,) = command("run", classifier, written(tmp_path / "a.txt", "Good\n"), "--top-k", 2).lines
    assert list(line) == ["row", "label", "score", "scores", "top"]
    best = sorted(line["scores"].items(), key=lambda item: -item[1])[:2]
    assert line["top"] == [{"label": label, "score": score} for label, score in best]


def test_multi_label(command: Command, kinds: dict[str, Path], tmp_path: Path) -> None:
    outcome = command("run", kinds["multi-label"], written(tmp_path / "a.txt", "\n".join(SENTENCES[:20])))
    assert {len(line["labels"]) for line in outcome.lines} != {0}
    for line in outcome.lines:
        assert list(line) == ["row", "labels", "scores"]
        assert line["labels"] == [label for label, score in line["scores"].items() if score > 0.5]


def test_regression(command: Command, kinds: dict[str, Path], tmp_path: Path) -> None:
    (line,) = command("run", kinds["regression"], written(tmp_path / "a.txt", "Good\n")).lines
    assert list(line) == ["row", "score"]
    assert isinstance(line["score"], float)


def test_text_pairs(command: Command, classifier: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "a.csv", "id,left,right\n1,Ada wrote,a program\n2,Paris,is a city\n")
    outcome = command("run", classifier, file, "--column", "left", "--pair-column", "right")
    with bertonnx.load(classifier) as model:
        expected = model.classify(["Ada wrote", "Paris"], ["a program", "is a city"])
        alone = model.classify(["Ada wrote"])
    scores = [list(line["scores"].values()) for line in outcome.lines]
    assert np.array_equal(
        np.array(scores, np.float32), np.array([list(x["scores"].values()) for x in expected], np.float32)
    )
    assert scores[0] != list(alone[0]["scores"].values())


def test_entities(command: Command, exported: dict[str, Path], tmp_path: Path) -> None:
    texts = SENTENCES[:30]
    outcome = command("run", exported["token-classification"], written(tmp_path / "a.txt", "\n".join(texts)))
    found = 0
    for text, line in zip(texts, outcome.lines, strict=True):
        assert list(line) == ["row", "entities"]
        for entity in line["entities"]:
            found += 1
            assert list(entity) == ["entity", "text", "score", "start", "end"]
            assert entity["entity"] in ("PER", "LOC")
            assert entity["text"] == text[entity["start"] : entity["end"]]
    assert found > 20


def test_answers(command: Command, exported: dict[str, Path], tmp_path: Path) -> None:
    context = "😀 Ada Lovelace wrote the first program."
    row = json.dumps({"q": "Who?", "c": context})
    model, file = exported["question-answering"], written(tmp_path / "a.jsonl", row)
    (line,) = command("run", model, file, "--column", "q", "--pair-column", "c").lines
    assert list(line) == ["row", "answer", "score", "start", "end"]
    assert line["answer"] == context[line["start"] : line["end"]] != ""
    (best,) = command("run", model, file, "--column", "q", "--pair-column", "c", "--top-k", 3).lines
    assert len(best["answers"]) == 3
    assert best["answers"][0] == {key: line[key] for key in ("answer", "score", "start", "end")}


def test_masks(command: Command, exported: dict[str, Path], tmp_path: Path) -> None:
    file = written(tmp_path / "a.txt", "[MASK] is a city.\n[MASK] and [MASK].\n")
    outcome = command("run", exported["fill-mask"], file)
    assert [len(line["masks"]) for line in outcome.lines] == [1, 2]
    for line in outcome.lines:
        assert list(line) == ["row", "masks"]
        for candidates in line["masks"]:
            assert [list(item) for item in candidates] == [["token", "token_id", "score", "sequence"]] * 5
            assert [item["score"] for item in candidates] == sorted(
                (item["score"] for item in candidates), reverse=True
            )
    assert [
        len(line["masks"][0]) for line in command("run", exported["fill-mask"], file, "--top-k", 2).lines
    ] == [2, 2]


def test_threads_and_provider_do_not_change_a_byte(
    command: Command, classifier: Path, tmp_path: Path
) -> None:
    file = written(tmp_path / "a.txt", "\n".join(SENTENCES))
    outcomes = [
        command("run", classifier, file, *options)
        for options in ([], ["--threads", 1], ["--threads", 3], ["--provider", "cpu"], ["--provider", "auto"])
    ]
    assert {outcome.code for outcome in outcomes} == {0}
    assert len({outcome.out for outcome in outcomes}) == 1


def test_every_output_format_holds_the_same_numbers(
    command: Command, exported: dict[str, Path], tmp_path: Path
) -> None:
    file = written(tmp_path / "a.txt", "\n".join(SENTENCES[:10]))
    for ending in ("jsonl", "csv", "tsv", "parquet", "arrow", "npy"):
        output = tmp_path / f"out.{ending}"
        outcome = command("run", exported["feature-extraction"], file, "-o", output)
        assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    expected = np.array([line["embedding"] for line in read_lines(tmp_path / "out.jsonl")], np.float32)
    assert expected.shape == (10, 32)
    assert np.array_equal(np.load(tmp_path / "out.npy"), expected)
    assert np.array_equal(
        np.array(pq.read_table(tmp_path / "out.parquet")["embedding"].to_pylist(), np.float32), expected
    )
    with pa.ipc.open_file(tmp_path / "out.arrow") as reader:
        assert np.array_equal(np.array(reader.read_all()["embedding"].to_pylist(), np.float32), expected)
    for ending, delimiter in (("csv", ","), ("tsv", "\t")):
        rows = [line.split(delimiter) for line in (tmp_path / f"out.{ending}").read_text().splitlines()]
        assert np.array_equal(np.array([row[1:33] for row in rows[1:]], np.float32), expected)


def test_an_output_is_checked_once(
    command: Command, classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bertonnx.runtime.io import writers

    check, checked = writers._check_writable, []

    def counted(given: Path, target: Path) -> None:
        checked.append(given)
        check(given, target)

    monkeypatch.setattr(writers, "_check_writable", counted)
    file, output = written(tmp_path / "a.txt", "one\n"), tmp_path / "out.jsonl"
    for options in ([], ["--top-k", 2], ["--resume"]):
        assert command("run", classifier, file, "-o", output, *options).code == 0
        assert len(checked) == 1
        checked.clear()


# run: long texts -----------------------------------------------------------------------------------


def test_cutting_is_counted_and_said(command: Command, classifier: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "a.txt", "short\n" + "word " * 500 + "\n" + "more " * 500 + "\n")
    outcome = command("run", classifier, file)
    assert outcome.code == 0
    assert [line.get("truncated", False) for line in outcome.lines] == [False, True, True]
    assert (
        outcome.err == f"2 of 3 texts were cut to {MAX_LENGTH} tokens; --long-text stride reads them whole\n"
    )
    short = command("run", classifier, file, "--max-length", 20)
    assert "cut to 20 tokens" in short.err
    assert short.lines[0] == outcome.lines[0]
    assert short.lines[1] != outcome.lines[1]


def test_long_texts_in_windows_or_as_errors(command: Command, classifier: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "a.txt", "short\n" + "word " * 500 + "\n")
    windows = command("run", classifier, file, "--long-text", "stride")
    assert (windows.code, windows.err) == (0, "")
    assert not any("truncated" in line for line in windows.lines)
    refused = command("run", classifier, file, "--long-text", "error")
    assert refused.code == 3
    assert refused.lines[0] == windows.lines[0]
    assert refused.lines[1]["error"]["type"] == "too-long"
    assert str(MAX_LENGTH) in refused.lines[1]["error"]["message"]
    assert refused.err.startswith("1 of 2 rows have an error")


# run: outputs that are there -------------------------------------------------------------------------


@pytest.fixture
def begun(command: Command, classifier: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Return an input that is well now, and the two rows of output that it gave until it was not."""
    file = written(tmp_path / "a.txt", b"good\nbad\n\xff\n")
    output = tmp_path / "out.jsonl"
    assert command("run", classifier, file, "-o", output, "--on-error", "fail").code == 1
    return file, output


def test_a_complete_output_is_said_to_be_left_alone(
    command: Command, classifier: Path, exported: dict[str, Path], tmp_path: Path
) -> None:
    file, output = written(tmp_path / "a.txt", "good\nbad\n"), tmp_path / "out.jsonl"
    command("run", classifier, file, "-o", output)
    before = output.read_bytes()
    for model in (classifier, exported["feature-extraction"]):
        outcome = command("run", model, file, "-o", output, "--resume")
        assert (outcome.code, outcome.out) == (0, "")
        assert outcome.err == (
            f"{output} was complete already (2 rows); nothing was done, and nothing says which model and "
            "input made it; run without --resume to replace it\n"
        )
    assert output.read_bytes() == before


def test_unfinished_rows_are_not_replaced_in_silence(
    command: Command, classifier: Path, begun: tuple[Path, Path]
) -> None:
    file, output = begun
    again = command("run", classifier, file, "-o", output, "--on-error", "fail")
    assert again.err.splitlines()[0] == (
        f"note: {output} holds 2 unfinished rows of an earlier run, which are replaced; "
        "Ctrl-C and add --resume to keep them"
    )
    kept = command("run", classifier, file, "-o", output, "--resume")
    assert (kept.code, "replaced" in kept.err) == (3, False)
    assert len(read_lines(output)) == 3
    assert "replaced" not in command("run", classifier, file, "-o", output).err


def test_rows_of_an_unknown_run_are_not_replaced_in_silence(
    command: Command, classifier: Path, tmp_path: Path
) -> None:
    file, output = written(tmp_path / "a.txt", b"good\nbad\n\xff\n"), tmp_path / "out.npy"
    assert command("run", classifier, file, "-o", output, "--on-error", "fail").code == 1
    (tmp_path / "out.npy.progress").unlink()
    for options in ([], ["--resume"]):
        again = command("run", classifier, file, "-o", output, "--on-error", "fail", *options)
        (tmp_path / "out.npy.progress").unlink()
        assert again.err.startswith(
            f"note: {output}.partial holds 2 unfinished rows of an earlier run, which"
        )
        assert "there is no out.npy.progress to say" in again.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-length", 20], f"begun with --max-length {MAX_LENGTH}, and now it is 20"),
        (["--long-text", "stride"], "begun with --long-text truncate, and now it is stride"),
        (["--top-k", 2], "begun with --top-k not given, and now it is 2"),
    ],
)
def test_resume_names_the_option_that_differs(
    command: Command, classifier: Path, begun: tuple[Path, Path], options: list[Any], message: str
) -> None:
    file, output = begun
    outcome = command("run", classifier, file, "-o", output, "--resume", *options)
    assert outcome.code == 2
    assert message in outcome.error


def test_resume_with_the_default_spelled_out(
    command: Command, classifier: Path, begun: tuple[Path, Path]
) -> None:
    file, output = begun
    options = ("--resume", "--long-text", "truncate", "--max-length", MAX_LENGTH)
    assert command("run", classifier, file, "-o", output, *options).code == 3
    assert len(read_lines(output)) == 3


# run: options of one task --------------------------------------------------------------------------


def test_aggregation_on_the_command_line(command: Command, exported: dict[str, Path], tmp_path: Path) -> None:
    file = written(tmp_path / "a.txt", "Ada Lovelace lived in London, it's said.\n")
    with bertonnx.load(exported["token-classification"]) as model:
        for aggregation in AGGREGATIONS:
            run = command("run", exported["token-classification"], file, "--aggregation", aggregation)
            assert run.code == 0
            (item,) = model.entities(["Ada Lovelace lived in London, it's said."], aggregation=aggregation)
            (line,) = run.lines
            # Floats on the line are the shortest that read back as the same float32.
            assert line["entities"] == [
                {**entity, "score": pytest.approx(entity["score"], rel=1e-6)} for entity in item["entities"]
            ]


def test_answers_and_labels_by_their_logits(
    command: Command, exported: dict[str, Path], tmp_path: Path
) -> None:
    file = written(tmp_path / "a.jsonl", '{"question": "Who?", "context": "Ada lived in London."}\n')
    options = ("--column", "question", "--pair-column", "context", "--no-answer", "--raw-scores")
    run = command("run", exported["question-answering"], file, *options)
    with bertonnx.load(exported["question-answering"]) as model:
        (item,) = model.answer(["Who?"], ["Ada lived in London."], no_answer=True, raw_scores=True)
    assert run.lines == [{"row": 0, **item, "score": pytest.approx(item["score"], rel=1e-6)}]
    assert item["score"] > 1


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        ("feature-extraction", ["--raw-scores"], "--raw-scores is for text-classification"),
        (
            "text-classification",
            ["--aggregation", "max"],
            "--aggregation max is for token-class",
        ),
        (
            "fill-mask",
            ["--no-answer"],
            "and this model is for fill-mask",
        ),
        ("text-ranking", ["--top-k", "2"], "--top-k 2 is for text-classification, question-answering, fill"),
        ("feature-extraction", ["--pair-column", "b"], "--pair-column b gives second texts, which are for"),
    ],
)
def test_an_option_of_another_task_is_refused(
    command: Command, exported: dict[str, Path], tmp_path: Path, task: str, options: list[str], said: str
) -> None:
    file = written(tmp_path / "a.txt", "[MASK] text\n")
    run = command("run", exported[task], file, "-o", tmp_path / "o.jsonl", *options)
    assert run.code == 2
    assert said in run.error
    assert not (tmp_path / "o.jsonl").exists()


def test_a_ranker_by_its_logits(command: Command, exported: dict[str, Path], tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", '{"query": "red planet?", "document": "Mars is red."}\n')
    columns = ("--column", "query", "--pair-column", "document")
    (usual,) = command("run", exported["text-ranking"], file, *columns).lines
    (raw,) = command("run", exported["text-ranking"], file, *columns, "--raw-scores").lines
    assert usual["score"] == pytest.approx(1 / (1 + np.exp(-raw["score"])), abs=1e-6)


def test_an_unknown_aggregation(command: Command, exported: dict[str, Path], tmp_path: Path) -> None:
    file = written(tmp_path / "a.txt", "text\n")
    run = command("run", exported["token-classification"], file, "--aggregation", "best")
    assert run.code == 2
    assert "--aggregation best is unknown; it can be none, simple, first, average, max" in run.error


def test_a_manifest_beside_the_results(command: Command, classifier: Path, tmp_path: Path) -> None:
    texts = written(tmp_path / "in.txt", "Ada lives in Paris.\nBob\n")
    output, manifest = tmp_path / "out.csv", tmp_path / "run.json"
    done = command("run", classifier, texts, "-o", output, "--csv-safe", "--manifest", manifest)
    assert done.code == 0
    facts = json.loads(manifest.read_text())
    assert (facts["rows"], facts["provider"], facts["options"]["csv_safe"]) == (2, "cpu", True)
    assert facts["output"]["sha256"] == hashlib.sha256(output.read_bytes()).hexdigest()
    # Without a file the results have no digest, and the rest is there all the same.
    assert command("run", classifier, texts, "--manifest", manifest).code == 0
    assert json.loads(manifest.read_text())["output"] is None
    assert "--manifest" in command("run", classifier, texts, "--manifest", texts).error
    assert "--csv-safe is for .csv and .tsv" in command("run", classifier, texts, "--csv-safe").error
