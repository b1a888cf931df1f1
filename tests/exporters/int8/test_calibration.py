"""The texts that INT8 is calibrated on, and what is kept of a run over them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bertonnx.errors import InputError
from bertonnx.exporters.int8 import calibration
from bertonnx.exporters.int8.calibration import (
    LEAST_ROWS,
    MOST_ROWS,
    calibration_pieces,
    calibration_rows,
    observe,
)
from bertonnx.exporters.int8.texts import QUESTIONS, TEXTS
from bertonnx.models.card import Card
from bertonnx.runtime.rows import Array, Piece, Row
from bertonnx.runtime.tokenization import TextTokenizer
from tests.tokenizers_zoo import wordpiece


@pytest.mark.parametrize(("pairs", "mask_token"), [(False, None), (False, "[MASK]"), (True, None)])
def test_what_tunes_never_judges(pairs: bool, mask_token: str | None) -> None:
    found = calibration_rows(None, pairs=pairs, mask_token=mask_token)
    assert len(found.tune) == len(found.judge) == 128
    assert not {row.text for row in found.tune} & {row.text for row in found.judge} - set(QUESTIONS)
    assert not _sentences(found.tune) & _sentences(found.judge)


def _sentences(rows: list[Row]) -> set[str]:
    """Return which of our own texts the rows hold, alone or as part of a context."""
    everything = "\n".join(f"{row.text}\n{row.pair or ''}" for row in rows)
    return {text for text in TEXTS if len(text) > 40 and text in everything}


def test_our_own_texts_are_many_and_different() -> None:
    found = calibration_rows(None, pairs=False, mask_token=None)
    rows = found.tune + found.judge
    assert {row.text for row in rows} == set(TEXTS)
    assert len(rows) == len(TEXTS)
    assert all(row.pair is None and row.text.strip() for row in rows)
    for half in (found.tune, found.judge):
        lengths = [len(row.text) for row in half]
        assert min(lengths) <= 20
        assert max(lengths) > 250
        assert sum(not row.text.isascii() for row in half) >= 10


def test_our_own_pairs_have_questions_and_contexts() -> None:
    found = calibration_rows(None, pairs=True, mask_token=None)
    for half in (found.tune, found.judge):
        assert len({(row.text, row.pair) for row in half}) == len(half)
        assert {row.text for row in half} > set(QUESTIONS)


def test_every_text_gets_a_mask_and_no_text_two() -> None:
    found = calibration_rows(None, pairs=False, mask_token="[MASK]")
    assert all(row.text.count("[MASK]") == 1 for row in found.tune + found.judge)
    assert all(row.text != "[MASK]" for row in found.tune + found.judge)  # a text without spaces keeps some


def test_a_file_of_the_user_is_halved(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    path.write_text("text,label\n" + "".join(f"text number {i},x\n" for i in range(41)))
    found = calibration_rows(path, pairs=False, mask_token=None)
    assert [row.text for row in found.tune] == [f"text number {i}" for i in range(0, 41, 2)]
    assert [row.text for row in found.judge] == [f"text number {i}" for i in range(1, 41, 2)]


def test_a_text_that_comes_twice_does_not_tune_and_judge(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"text {i}\ntext {i}\n\n" for i in range(40)))
    found = calibration_rows(path, pairs=False, mask_token=None)
    assert len(found.tune) == len(found.judge) == 20
    assert len({row.text for row in found.tune + found.judge}) == 40


def test_pairs_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        "".join(json.dumps({"question": "Who?", "context": f"Text {i}."}) + "\n" for i in range(40))
    )
    found = calibration_rows(path, pairs=True, mask_token=None)
    assert found.tune[2] == Row("Who?", "Text 4.")
    assert found.judge[2] == Row("Who?", "Text 5.")


def test_a_long_file_is_read_in_part(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("\n" + "".join(f"text {i}\n" for i in range(2 * MOST_ROWS)))
    found = calibration_rows(path, pairs=False, mask_token=None)
    assert len(found.tune) + len(found.judge) == MOST_ROWS
    assert found.tune[0].text == "text 0"


def _tokenizer(max_length: int = 1000) -> TextTokenizer:
    card = Card(
        task="question-answering",
        family="bert",
        max_length=max_length,
        inputs=("input_ids",),
        outputs=("start_logits", "end_logits"),
    )
    return TextTokenizer(wordpiece().to_str(), card)


def test_what_is_run_is_taken_evenly_and_is_not_endless() -> None:
    rows = [Row("a " * (i % 7 + 1) + "long " * 2 * (i == 499) * 600, "b") for i in range(500)]
    pieces = calibration_pieces(rows, _tokenizer(5000))
    assert len(pieces) == 256
    assert len(pieces[0].ids) == 5
    assert len(pieces[-1].ids) == 512  # the last row, cut


def test_a_model_that_can_read_none_of_the_texts_is_told_so() -> None:
    rows = [Row("a question too long for the model " * 5, "b")] * 40
    with pytest.raises(InputError, match="none of the calibration texts"):
        calibration_pieces(rows, _tokenizer(16))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", 0),
        ("\n \n\t\n" * 100, 0),
        ("".join(f"text {i}\n" for i in range(LEAST_ROWS - 1)) + "\n" * 50, LEAST_ROWS - 1),
        ("the same text\n" * 500, 1),
    ],
    ids=["empty", "blank lines", "too few", "one text, many times"],
)
def test_too_few_texts_are_refused(content: str, found: int, tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        calibration_rows(path, pairs=False, mask_token=None)
    message = str(caught.value)
    assert str(path) in message
    assert f"holds {found} different texts" in message
    assert f"at least {LEAST_ROWS}" in message
    assert "leave calibration out" in message


def test_the_fewest_texts_are_halved_too(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"text {i}\n" for i in range(LEAST_ROWS)))
    found = calibration_rows(path, pairs=False, mask_token=None)
    assert len(found.tune) == len(found.judge) == LEAST_ROWS / 2


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes(bytes(range(256)) * 50)
    with pytest.raises(InputError, match=r"texts\.txt holds 1 different.*50 rows cannot be read, the first"):
        calibration_rows(path, pairs=False, mask_token=None)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.txt"):
        calibration_rows(tmp_path / "missing.txt", pairs=False, mask_token=None)


@pytest.mark.parametrize(
    ("pairs", "hint"),
    [(False, "rename the column to text, or write one text a line"), (True, "to text and text_pair")],
)
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_columns_that_say_nothing_are_to_be_renamed(
    ending: str, pairs: bool, hint: str, tmp_path: Path
) -> None:
    path = tmp_path / f"data.{ending}"
    if ending == "csv":
        path.write_text("review,stars,city\n" + "good,5,Bern\n" * 40)
    else:
        path.write_text('{"review": "good", "stars": "5", "city": "Bern"}\n' * 40)
    with pytest.raises(InputError) as caught:
        calibration_rows(path, pairs=pairs, mask_token=None)
    message = str(caught.value)
    for part in ("calibration: ", str(path), "review, stars, city", hint):
        assert part in message
    assert "column=" not in message


def _lookup_model(table: Array) -> onnx.ModelProto:
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["hidden"]),
            helper.make_node("ReduceMax", ["hidden", "axis"], ["pooled"], keepdims=0),
            helper.make_node("Identity", ["pooled"], ["out"]),
        ],
        "lookup",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1]), "axis")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _pieces(lengths: list[int]) -> list[Piece]:
    encoding = wordpiece().encode("a")
    ids = np.random.default_rng(0).integers(0, 50, sum(lengths))
    return [Piece(part, np.zeros_like(part), encoding) for part in np.split(ids, np.cumsum(lengths)[:-1])]


def _seen(table: Array, pieces: list[Piece]) -> Array:
    """Return the vectors of all tokens, those of shorter texts first."""
    ordered = sorted(pieces, key=lambda piece: len(piece.ids))
    seen: Array = table[np.concatenate([piece.ids for piece in ordered])]
    return seen


@pytest.mark.parametrize("lengths", [[5, 700, 3, 900, 11], [5, 3, 5, 3, 3, 5], [40] * 30, [1]])
def test_statistics_are_over_all_tokens(lengths: list[int]) -> None:
    table = np.random.default_rng(1).normal(size=(50, 6)).astype(np.float32)
    pieces = _pieces(lengths)
    found = observe(_lookup_model(table), ["hidden", "pooled"], pieces)
    seen = _seen(table, pieces)
    hidden = found["hidden"]
    np.testing.assert_array_equal(hidden.largest, np.abs(seen).max(axis=0))
    np.testing.assert_allclose(hidden.mean, seen.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(hidden.square, np.square(seen).mean(axis=0), rtol=1e-4)
    np.testing.assert_array_equal(hidden.sample, seen)
    assert hidden.per_token
    assert not found["pooled"].per_token


def test_of_more_vectors_than_memory_is_for_some_are_kept_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_SAMPLE_BYTES", 4 * 6 * 1100)  # the layer is 6 wide
    table = np.random.default_rng(1).normal(size=(50, 6)).astype(np.float32)
    pieces = _pieces([5, 700, 3, 900, 11, 900])
    hidden = observe(_lookup_model(table), ["hidden"], pieces)["hidden"]
    seen = _seen(table, pieces)
    np.testing.assert_array_equal(hidden.sample, seen[::3])
    np.testing.assert_array_equal(hidden.largest, np.abs(seen).max(axis=0))
