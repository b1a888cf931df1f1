"""The Python side of the R package: what crosses, bit for bit, without R."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import bertonnx
from bertonnx.errors import RowError
from bertonnx.models.tasks import TASKS
from bertonnx.runtime import r_answers, r_bridge
from bertonnx.runtime.r_bridge import PROTOCOL, Handle, asked, golden, open_model, signature, verify
from bertonnx.runtime.r_tables import plain

R_PACKAGE = Path(__file__).parents[2] / "r"
HARD_TEXTS = R_PACKAGE / "tests" / "testthat" / "python" / "hard-texts.jsonl"
TEXTS: list[str] = [json.loads(line)["text"] for line in HARD_TEXTS.read_text("utf-8").split("\n") if line]
QUESTION = "Who lived where?"


def opened(path: Path, **options: Any) -> Handle:
    answer = open_model(
        str(path),
        options.get("device", "cpu"),
        options.get("threads"),
        options.get("max_length"),
        options.get("long_text"),
    )
    assert answer["ok"], answer
    handle: Handle = answer["handle"]
    return handle


def start(
    handle: Handle,
    kind: str,
    texts: list[str],
    *,
    pairs: list[str] | None = None,
    places: list[int] | None = None,
    method: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    return handle.start(kind, texts, pairs, places, options, method)


def predicted(handle: Handle, kind: str, texts: list[str], **options: Any) -> dict[str, Any]:
    """Return the columns of all chunks, joined as R joins them."""
    started = start(handle, kind, texts, **options)
    assert started["ok"], started
    joined: dict[str, Any] = {}
    while True:
        chunk = started["run"].chunk()
        assert chunk["ok"], chunk
        for name, column in chunk["columns"].items():
            joined[name] = joined.get(name, type(column)()) + column
        if chunk["texts"] == 0:
            return joined


def ints(column: bytearray) -> list[int]:
    numbers: list[int] = np.frombuffer(bytes(column), "<i4").tolist()
    return numbers


def floats(column: bytearray) -> npt.NDArray[np.float32]:
    return np.frombuffer(bytes(column), "<f4")


def same_bits(column: bytearray, expected: Any) -> bool:
    return bytes(column) == np.array(expected, dtype="<f4").tobytes()


def lines_of(model: Path, tmp_path: Path, *, pairs: bool = False) -> Iterator[dict[str, Any]]:
    """Yield what the command line makes of the hard texts."""
    rows = [{"question": QUESTION, "text": text} for text in TEXTS]
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    columns = ["--column", "question", "--pair-column", "text"] if pairs else ["--column", "text"]
    command = [sys.executable, "-m", "bertonnx", "run", str(model), str(source), *columns, "-o", str(out)]
    subprocess.run([*command, "--provider", "cpu"], check=True, capture_output=True, timeout=300)
    for line in out.read_text("utf-8").split("\n"):
        if line:
            yield json.loads(line)


def matrix(column: bytearray, rows: int) -> npt.NDArray[np.float32]:
    return floats(column).reshape((rows, -1), order="F")


def test_r_knows_this_protocol() -> None:
    assert f"PROTOCOL <- {PROTOCOL}L\n" in (R_PACKAGE / "R" / "python.R").read_text()


def test_there_are_hard_texts_enough() -> None:
    assert len(TEXTS) >= 400
    assert not any("\0" in text for text in TEXTS)


def test_embeddings_are_the_same_from_all_sides(exported: dict[str, Path], tmp_path: Path) -> None:
    path = exported["feature-extraction"]
    expected = bertonnx.load(path, "cpu").embed(TEXTS)
    found = predicted(opened(path), "embeddings", TEXTS)
    assert ints(found["row"]) == list(range(1, len(TEXTS) + 1))
    assert matrix(found["values"], len(TEXTS)).tobytes() == expected.tobytes()
    lines = [line["embedding"] for line in lines_of(path, tmp_path)]
    assert np.array(lines, dtype=np.float32).tobytes() == expected.tobytes()


def test_labels_are_the_same_from_all_sides(exported: dict[str, Path], tmp_path: Path) -> None:
    path = exported["text-classification"]
    handle, items = opened(path), bertonnx.load(path, "cpu").classify(TEXTS)
    found = predicted(handle, "labels", TEXTS, top_k=1)
    labels = start(handle, "labels", [])["levels"]
    assert [labels[place - 1] for place in ints(found["label"])] == [item["label"] for item in items]
    assert same_bits(found["score"], [item["score"] for item in items])
    lines = list(lines_of(path, tmp_path))
    assert [line["label"] for line in lines] == [item["label"] for item in items]
    assert same_bits(found["score"], [line["score"] for line in lines])


def test_entities_are_the_same_from_all_sides(exported: dict[str, Path], tmp_path: Path) -> None:
    path = exported["token-classification"]
    found = predicted(opened(path), "entities", TEXTS)
    items = [item["entities"] for item in bertonnx.load(path, "cpu").entities(TEXTS)]
    lines = [line["entities"] for line in lines_of(path, tmp_path)]
    for side in (items, lines):
        every = [(row, entity) for row, entities in enumerate(side, start=1) for entity in entities]
        assert ints(found["row"]) == [row for row, _ in every]
        assert ints(found["start"]) == [entity["start"] + 1 for _, entity in every]
        assert ints(found["end"]) == [entity["end"] for _, entity in every]
        assert found["text"] == [entity["text"] for _, entity in every]
        assert same_bits(found["score"], [entity["score"] for _, entity in every])


def test_answers_are_the_same_from_all_sides(exported: dict[str, Path], tmp_path: Path) -> None:
    path = exported["question-answering"]
    questions = [QUESTION] * len(TEXTS)
    found = predicted(opened(path), "answers", questions, pairs=TEXTS, top_k=1)
    items = bertonnx.load(path, "cpu").answer(questions, TEXTS)
    for side in (items, list(lines_of(path, tmp_path, pairs=True))):
        assert found["answer"] == [item["answer"] for item in side]
        assert ints(found["start"]) == [item["start"] + 1 for item in side]
        assert ints(found["end"]) == [item["end"] for item in side]
        assert same_bits(found["score"], [item["score"] for item in side])


def test_masks_are_python_s(exported: dict[str, Path]) -> None:
    path, texts = exported["fill-mask"], ["one [MASK]", "[MASK] and [MASK]"]
    found = predicted(opened(path), "masks", texts, top_k=2)
    items = [item["masks"] for item in bertonnx.load(path, "cpu").fill_mask(texts, top_k=2)]
    every = [candidate for masks in items for mask in masks for candidate in mask]
    assert ints(found["row"]) == [1, 1, 2, 2, 2, 2]
    assert ints(found["mask"]) == [1, 1, 1, 1, 2, 2]
    assert ints(found["rank"]) == [1, 2] * 3
    assert found["token"] == [candidate["token"] for candidate in every]
    assert found["sequence"] == [candidate["sequence"] for candidate in every]
    assert same_bits(found["score"], [candidate["score"] for candidate in every])


def test_tokens_are_python_s(exported: dict[str, Path]) -> None:
    path = exported["text-classification"]
    found = predicted(opened(path), "tokens", TEXTS)
    encoded = bertonnx.load(path, "cpu").tokenize(TEXTS)
    assert ints(found["id"]) == [i for row in encoded for piece in row.pieces for i in piece.ids.tolist()]
    rows, starts, ends = ints(found["row"]), ints(found["start"]), ints(found["end"])
    for row, start_, end in zip(rows, starts, ends, strict=True):
        assert (start_, end) == (0, 0) or 1 <= start_ <= end <= len(TEXTS[row - 1])


def test_tokens_do_not_count_the_prompt(exported: dict[str, Path]) -> None:
    plain = predicted(opened(exported["feature-extraction"]), "tokens", ["two words"])
    handle = opened(exported["feature-extraction"])
    model = handle._model
    object.__setattr__(model.card, "prompts", {"passage": "query: "})
    object.__setattr__(model.card, "default_prompt", "passage")
    found = predicted(handle, "tokens", ["two words"])
    text = [place for place, end in enumerate(ints(found["end"])) if end]
    assert [ints(found["start"])[i] for i in text] == [i for i in ints(plain["start"]) if i]
    assert [ints(found["end"])[i] for i in text] == [i for i in ints(plain["end"]) if i]
    assert len(found["token"]) > len(plain["token"])
    assert predicted(handle, "tokens", ["two words"], prompt="") == plain
    with_prompt = predicted(handle, "embeddings", ["two words"], prompt="passage")
    assert same_bits(with_prompt["values"], model.embed(["two words"], prompt="passage"))
    assert not same_bits(with_prompt["values"], model.embed(["two words"], prompt=""))
    refused = start(handle, "embeddings", ["two words"], prompt="title")
    assert refused["error"]["message"].startswith('prompt = "title": this model has no such prompt')


def test_rows_keep_the_numbers_that_r_gave_them(exported: dict[str, Path]) -> None:
    handle = opened(exported["text-classification"])
    found = predicted(handle, "labels", ["one", "two"], places=[3, 7], top_k=3)
    assert ints(found["row"]) == [3, 3, 3, 7, 7, 7]
    scores = floats(found["score"]).reshape(2, 3)
    assert np.all(np.diff(scores, axis=1) <= 0)


def test_scores_come_as_a_matrix_in_column_order(exported: dict[str, Path]) -> None:
    path = exported["text-classification"]
    found = predicted(opened(path), "scores", TEXTS[:5])
    items = bertonnx.load(path, "cpu").classify(TEXTS[:5])
    expected = np.array([list(item["scores"].values()) for item in items], dtype=np.float32)
    assert np.array_equal(matrix(found["values"], 5), expected)
    assert bytes(found["values"]) == expected.tobytes(order="F")


@pytest.mark.parametrize("aggregation", ["none", "simple", "first", "average", "max"])
def test_levels_are_the_model_s_labels(exported: dict[str, Path], aggregation: str) -> None:
    handle = opened(exported["token-classification"])
    levels = start(handle, "entities", [], aggregation=aggregation)["levels"]
    full = ["B-PER", "I-PER", "B-LOC", "I-LOC"]
    assert levels == (full if aggregation == "none" else ["PER", "LOC"])


def test_no_texts_are_no_rows(exported: dict[str, Path]) -> None:
    found = predicted(opened(exported["feature-extraction"]), "embeddings", [])
    assert found == {"row": bytearray(), "values": bytearray()}


def test_a_matrix_crosses_in_few_blocks(exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(r_bridge, "_CHUNK_ROWS", 10)
    monkeypatch.setattr(r_bridge, "_BLOCK_ROWS", 25)
    path, texts = exported["feature-extraction"], TEXTS[:64]
    expected = bertonnx.load(path, "cpu").embed(texts)
    run = start(opened(path), "embeddings", texts)["run"]
    blocks: list[tuple[list[int], npt.NDArray[np.float32]]] = []
    texts_seen: list[int] = []
    while not texts_seen or texts_seen[-1]:
        chunk = run.chunk()
        texts_seen.append(int(chunk["texts"]))
        if chunk["columns"]:
            rows = ints(chunk["columns"]["row"])
            blocks.append((rows, matrix(chunk["columns"]["values"], len(rows))))
    assert sum(texts_seen) == 64
    # As many rows as the chunks that fill a block have, which end early on a slow machine.
    assert all(25 <= len(rows) < 35 for rows, _ in blocks[:-1])
    assert [row for rows, _ in blocks for row in rows] == list(range(1, 65))
    assert np.concatenate([values for _, values in blocks]).tobytes() == expected.tobytes()


def test_a_failed_row_is_an_answer_that_names_it(exported: dict[str, Path]) -> None:
    started = start(opened(exported["fill-mask"]), "masks", ["[MASK]", "none"], places=[2, 5], top_k=1)
    error = started["run"].chunk()["error"]
    assert (error["type"], error["kind"], error["expected"]) == ("RowError", "no-mask", "yes")
    assert error["message"].startswith("row 5: ")
    assert "Traceback" in error["traceback"]


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (("nowhere.onnx", "cpu", None, None), "ModelFileError"),
        (("nowhere.onnx", "tpu", None, None), "UsageError"),
        (("nowhere.onnx", "cpu", 0, None), "UsageError"),
    ],
)
def test_errors_are_answers(arguments: tuple[Any, ...], kind: str) -> None:
    answer = open_model(*arguments)
    assert not answer["ok"]
    assert answer["error"]["type"] == kind


def test_errors_say_what_is_typed_in_r() -> None:
    message = open_model("nowhere.onnx", "tpu", None, None)["error"]["message"]
    assert message.startswith('device = "tpu" is unknown; it can be ')


def test_the_answer_says_what_the_columns_are(exported: dict[str, Path]) -> None:
    answer = open_model(str(exported["text-classification"]), "cpu", None, None)
    assert (answer["info"]["tables"], answer["info"]["matrices"]) == (["labels", "scores"], ["scores"])
    started = start(answer["handle"], "labels", [])
    assert (started["names"], started["kinds"], started["width"]) == (
        ["label", "score"],
        ["level", "float"],
        0.0,
    )
    assert start(answer["handle"], "scores", [])["width"] == 3.0


def test_an_error_that_nobody_foresaw_is_marked(exported: dict[str, Path]) -> None:
    error = start(opened(exported["feature-extraction"]), "nonsense", [])["error"]
    assert (error["type"], error["expected"]) == ("KeyError", "")


def test_an_interrupt_goes_through() -> None:
    def interrupted() -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        r_answers.answering(interrupted)()


def finished(answer: dict[str, Any]) -> dict[str, Any]:
    """Wait as R does."""
    while "pending" in answer:
        answer = answer["pending"].wait()
    return answer


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer as R asks for it: at once, or later."""
    monkeypatch.setattr(r_answers, "_patience", None)
    r_bridge.heed(0)


def outcome(gate: threading.Event, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    def long() -> dict[str, Any]:
        gate.wait()
        return work()

    return r_answers.lengthy(long)()


@pytest.mark.usefixtures("impatient")
def test_what_takes_long_is_pending_until_it_is_done() -> None:
    gate = threading.Event()
    answer = outcome(gate, lambda: {"found": 1})
    assert answer["ok"]
    assert "pending" in answer["pending"].wait()
    gate.set()
    assert finished(answer) == {"ok": True, "found": 1}


class Panic(BaseException):
    """As tokenizers raises it."""


@pytest.mark.parametrize("kind", [ValueError, Panic])
@pytest.mark.usefixtures("impatient")
def test_an_error_of_what_takes_long_comes_with_its_end(kind: type[BaseException]) -> None:
    def broken() -> dict[str, Any]:
        raise kind("it broke")

    gate = threading.Event()
    answer = outcome(gate, broken)
    gate.set()
    error = finished(answer)["error"]
    assert (error["type"], error["message"]) == (kind.__name__, "it broke")


@pytest.mark.usefixtures("impatient")
def test_a_run_is_the_same_and_can_be_closed_while_it_runs(exported: dict[str, Path]) -> None:
    opening = open_model(str(exported["feature-extraction"]), "cpu", None, None)
    handle = finished(opening)["handle"]
    run = start(handle, "embeddings", TEXTS)["run"]
    taken = finished(run.chunk())
    assert 0 < taken["texts"] <= len(TEXTS)
    run.chunk()
    assert finished(run.close()) == {"ok": True}
    again = start(handle, "embeddings", TEXTS[:1])["run"]
    assert finished(again.chunk())["texts"] == 1


def test_a_model_of_pairs_needs_them(exported: dict[str, Path]) -> None:
    handle = opened(exported["text-classification"])
    object.__setattr__(handle._model.card, "pairs", True)
    assert start(handle, "labels", ["one"])["error"]["type"] == "UsageError"
    assert start(handle, "labels", ["one"], pairs=["two"])["ok"]


def test_a_closed_run_cancels_and_the_model_goes_on(exported: dict[str, Path]) -> None:
    handle = opened(exported["feature-extraction"])
    run = start(handle, "embeddings", ["text"] * 5000)["run"]
    assert run.chunk()["texts"] > 0
    assert run.close()["ok"]
    assert run.chunk()["texts"] == 0
    assert len(ints(predicted(handle, "embeddings", ["text"])["row"])) == 1


def plain_values(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from plain_values(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from plain_values(inner)
    else:
        yield value


def test_only_plain_values_cross(exported: dict[str, Path]) -> None:
    for task, path in exported.items():
        answer = open_model(str(path), "cpu", None, None)
        handle = answer.pop("handle")
        assert {type(value) for value in plain_values(answer)} <= {str, float, bool}
        kind = {"feature-extraction": "embeddings", "fill-mask": "masks"}.get(task, "tokens")
        chunk = start(handle, kind, ["a [MASK]"])["run"].chunk()
        assert {type(value) for value in plain_values(chunk)} <= {str, float, bool, bytearray}


def test_texts_that_r_cannot_hold_are_replaced() -> None:
    assert plain("a\0b") == "a\N{REPLACEMENT CHARACTER}b"
    assert plain("é\0\ud800") == "é\N{REPLACEMENT CHARACTER}?"
    assert plain("é\U0001f600") == "é\U0001f600"


def test_a_size_over_two_gigabytes_is_not_lost(tmp_path: Path) -> None:
    model, sidecar = tmp_path / "model.onnx", tmp_path / "model.onnx.data"
    model.write_bytes(b"12")
    with sidecar.open("wb") as file:
        file.truncate(2**31 + 5)  # sparse: takes no room
    assert r_bridge._bytes(model) == 2**31 + 7


def test_how_a_file_is_made_again_is_read(exported: dict[str, Path]) -> None:
    none = {"ok": True, "activation": "", "ignore_keys": []}
    embedded = asked(str(exported["feature-extraction"]))
    assert embedded == {
        **none,
        "task": "feature-extraction",
        "pooling": "mean",
        "normalize": "no",
        "max_length": embedded["max_length"],
    }
    assert int(embedded["max_length"]) > 0
    words = asked(str(exported["fill-mask"]))
    assert (words["task"], words["pooling"], words["normalize"]) == ("fill-mask", "", "")


def test_golden_examples_are_replayed_and_read(exported: dict[str, Path]) -> None:
    for task, path in exported.items():
        report = verify(str(path), "cpu")
        assert report["ok"], report
        assert report["max_abs_difference"] <= report["tolerance"]
        examples = golden(str(path))
        assert len(examples["texts"]) == report["examples"]
        assert any(examples["pairs"]) == (TASKS[task].pairs == "always")


def test_whether_a_file_is_signed(exported: dict[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copy(exported["text-classification"], tmp_path / "model.onnx"))
    assert signature(str(path), None) == {"ok": True, "signer": "", "verified": False}
    error = signature(str(path), "key.pub")["error"]
    assert error["type"] == "SignatureError"
    path.with_name("model.onnx.sig").write_text("no bundle")
    assert signature(str(path), None)["signer"] == "nobody"


def test_the_fingerprint_is_of_the_floats(exported: dict[str, Path]) -> None:
    import hashlib

    handle = opened(exported["feature-extraction"])
    values = matrix(predicted(handle, "embeddings", TEXTS[:3])["values"], 3)
    expected = hashlib.md5(values.tobytes(order="C"), usedforsecurity=False).hexdigest()
    assert handle.fingerprint(TEXTS[:3], None)["md5"] == expected
    assert handle.timed(TEXTS[:3])["rows"] == 3


def test_a_closed_model_says_so(exported: dict[str, Path]) -> None:
    handle = opened(exported["feature-extraction"])
    assert handle.close()["ok"]
    assert "closed" in start(handle, "embeddings", ["a"])["error"]["message"]


def test_row_errors_of_texts_are_named(exported: dict[str, Path]) -> None:
    run = start(opened(exported["feature-extraction"]), "tokens", ["fine", "\ud800"])["run"]
    error = run.chunk()["error"]
    assert error["type"] == RowError.__name__
    assert error["message"].startswith("row 2: ")


def test_documents_labels_and_weights_are_python_s(exported: dict[str, Path]) -> None:
    path, documents = exported["text-ranking"], ["one", "two words", "three"]
    hits = bertonnx.load(path, "cpu").rank("which?", documents)
    found = predicted(opened(path), "ranks", documents, method="rank", query="which?")
    assert same_bits(found["score"], [hit["score"] for hit in sorted(hits, key=lambda hit: hit["index"])])
    path = exported["multi-vector"]
    hits = bertonnx.load(path, "cpu").rank("which?", documents)
    found = predicted(opened(path), "ranks", documents, method="rank", query="which?")
    assert same_bits(found["score"], [hit["score"] for hit in sorted(hits, key=lambda hit: hit["index"])])
    path = exported["sparse-embedding"]
    (item,) = bertonnx.load(path, "cpu").embed_sparse(["one text"])
    found = predicted(opened(path), "sparse", ["one text"], method="embed_sparse")
    assert ints(found["id"]) == item["ids"].tolist()
    assert same_bits(found["weight"], item["weights"])
    refused = start(opened(path), "ranks", ["one"], method="rank", query="which?")["error"]
    assert refused["message"].startswith(
        "bert_rank() needs a model exported for text-ranking or multi-vector"
    )


def test_forms_of_embeddings_are_python_s(exported: dict[str, Path]) -> None:
    path, texts = exported["feature-extraction"], TEXTS[:5]
    model = bertonnx.load(path, "cpu")
    for options in ({"dimensions": 8, "normalize": True}, {"encoding": "int8"}, {"encoding": "ubinary"}):
        found = predicted(opened(path), "embeddings", texts, **options)
        expected = model.embed(texts, **options)
        assert np.array_equal(matrix(found["values"], 5), expected.astype(np.float32))
        assert start(opened(path), "embeddings", [], **options)["width"] == expected.shape[1]
    handle = opened(path, max_length=16, long_text="stride")
    text = "many words " * 20
    with bertonnx.load(path, "cpu", max_length=16, long_text="stride") as model:
        (chunks,) = model.embed_chunks([text])
    found = predicted(handle, "chunks", [text], chunks=True)
    assert ints(found["chunk"]) == list(range(1, len(chunks) + 1))
    assert len(chunks) > 2
    assert ints(found["end"]) == [chunk["end"] for chunk in chunks]
    assert same_bits(found["embedding"], [chunk["embedding"] for chunk in chunks])


def test_vectors_of_tokens_are_python_s(exported: dict[str, Path]) -> None:
    path = exported["feature-extraction"]
    (item,) = bertonnx.load(path, "cpu").embed_tokens(["two words"])
    for layers in ([-1], [-1, -1]):
        started = opened(path).hidden(["two words"], layers=layers)
        assert started["width"] == 32 * len(layers)
        columns = started["run"].chunk()["columns"]
        assert columns["token"] == item["tokens"]
        vectors = floats(columns["vector"]).reshape(len(item["tokens"]), -1)
        assert np.array_equal(vectors, np.hstack([item["vectors"]] * len(layers)))
    assert opened(path).hidden(["x"], layers=[-9])["error"]["message"].startswith("layers = -9")
    (item,) = bertonnx.load(exported["multi-vector"], "cpu").embed_tokens(["two words"])
    columns = opened(exported["multi-vector"]).hidden(["two words"])["run"].chunk()["columns"]
    assert same_bits(columns["vector"], item["vectors"])
