"""The texts that INT8 is calibrated on, and what is kept of a run over them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bertonnx.errors import InputError
from bertonnx.exporters.calibration import LEAST_ROWS, MOST_ROWS, calibration_rows, observe
from bertonnx.exporters.calibration_texts import QUESTIONS, TEXTS
from bertonnx.runtime.rows import Array, Piece
from tests.tokenizers_zoo import wordpiece


def test_our_own_texts_are_many_and_different() -> None:
    rows = calibration_rows(None, pairs=False, mask_token=None)
    assert len(rows) >= 128
    assert len({row.text for row in rows}) == len(rows)
    assert all(row.pair is None and row.text.strip() for row in rows)
    lengths = [len(text) for text in TEXTS]
    assert min(lengths) < 20
    assert max(lengths) > 250


def test_our_own_pairs_have_questions_and_contexts() -> None:
    rows = calibration_rows(None, pairs=True, mask_token=None)
    assert len({(row.text, row.pair) for row in rows}) == len(rows) >= 128
    assert {row.text for row in rows} > set(QUESTIONS)


def test_every_text_gets_a_mask_and_no_text_two() -> None:
    rows = calibration_rows(None, pairs=False, mask_token="[MASK]")
    assert all(row.text.count("[MASK]") == 1 for row in rows)


def test_a_file_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    path.write_text("text,label\n" + "".join(f"text number {i},x\n" for i in range(40)))
    rows = calibration_rows(path, pairs=False, mask_token=None)
    assert [row.text for row in rows] == [f"text number {i}" for i in range(40)]


def test_pairs_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        "".join(json.dumps({"question": "Who?", "context": f"Text {i}."}) + "\n" for i in range(40))
    )
    rows = calibration_rows(path, pairs=True, mask_token=None)
    assert rows[3].text == "Who?"
    assert rows[3].pair == "Text 3."


def test_a_long_file_is_read_in_part(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("\n" + "".join(f"text {i}\n" for i in range(2 * MOST_ROWS)))
    rows = calibration_rows(path, pairs=False, mask_token=None)
    assert len(rows) == MOST_ROWS
    assert rows[0].text == "text 0"


@pytest.mark.parametrize(
    ("content", "found"),
    [("", 0), ("\n \n\t\n" * 100, 0), ("a text\n" * (LEAST_ROWS - 1) + "\n" * 50, LEAST_ROWS - 1)],
    ids=["empty", "blank lines", "too few"],
)
def test_too_few_texts_are_refused(content: str, found: int, tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        calibration_rows(path, pairs=False, mask_token=None)
    message = str(caught.value)
    assert str(path) in message
    assert f"holds {found} texts" in message
    assert f"at least {LEAST_ROWS}" in message
    assert "--calibration" in message


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
    for part in ("--calibration", str(path), "review, stars, city", hint):
        assert part in message
    assert "--column" not in message


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


def test_statistics_are_over_all_tokens() -> None:
    table = np.random.default_rng(1).normal(size=(50, 6)).astype(np.float32)
    pieces = _pieces([5, 700, 3, 900, 11])
    found = observe(_lookup_model(table), ["hidden", "pooled"], pieces)
    seen = table[np.concatenate([piece.ids for piece in pieces])]
    hidden = found["hidden"]
    np.testing.assert_array_equal(hidden.largest, np.abs(seen).max(axis=0))
    np.testing.assert_allclose(hidden.mean, seen.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(hidden.square, np.square(seen).mean(axis=0), rtol=1e-4)
    np.testing.assert_array_equal(hidden.sample, seen[:: len(seen) // len(hidden.sample) + 1])
    assert 500 < len(hidden.sample) <= 1024
    assert hidden.per_token
    assert not found["pooled"].per_token
