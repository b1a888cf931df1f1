"""Results of every task, and output files made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bertonnx.errors import RowError
from bertonnx.models.card import Card
from bertonnx.runtime.io.columns import Result
from bertonnx.runtime.io.outputs import Writer
from bertonnx.runtime.io.writers import check_output, open_writer
from bertonnx.runtime.options import DecodeOptions
from bertonnx.runtime.rows import Item, Row
from tests.fake_predictor import card, result_of

__all__ = ["CARDS", "ENDINGS", "ordered", "results_of", "same_item", "write", "writer_of"]

CARDS = {
    "feature-extraction": card("feature-extraction"),
    "text-classification": card("text-classification"),
    "multi-label": card("text-classification", problem_type="multi_label_classification"),
    "regression": card("text-classification", problem_type="regression", labels=()),
    "token-classification": card("token-classification"),
    "question-answering": card("question-answering"),
    "fill-mask": card("fill-mask"),
}
ENDINGS = [".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".npy"]
AWKWARD = ['a,b\t"c"\r\nd', "é🙂", "x\ry", "", "z\x85\u2028\u2029"]


def results_of(name: str, count: int = 12) -> list[Result]:
    results: list[Result] = []
    for i in range(count):
        text = AWKWARD[i % len(AWKWARD)] + str(i)
        item = result_of(CARDS[name], Row(text, text))
        results.append({"truncated": True, **item} if i % 4 == 1 else item)
    results[0] = RowError("runtime", 'it, "failed"\n\there,,')
    results[5] = RowError("invalid-text", "é\udc80")
    return results


def writer_of(path: Path, card: Card, *, top_k: int | None = None, resume: bool = False) -> Writer:
    """Check an output and open it."""
    return open_writer(check_output(path), card=card, decode=DecodeOptions(top_k=top_k), resume=resume)


def write(path: Path, name: str, results: list[Result]) -> Path:
    writer = writer_of(path, CARDS[name])
    for index, result in enumerate(results):
        writer.write(index, result)
    writer.finish()
    writer.close()
    return path


def same_item(back: Any, item: Item) -> bool:
    """Whether what was read back is the item: floats by their float32 bits."""
    if isinstance(item, float | np.floating):
        return bool(np.float32(back).tobytes() == np.float32(item).tobytes())
    if isinstance(item, dict):
        return list(back) == list(item) and all(same_item(back[k], item[k]) for k in item)
    if isinstance(item, list | np.ndarray):
        return len(back) == len(item) and all(map(same_item, back, item))
    return bool(back == item)


def ordered(item: Item) -> Item:
    return {k: item[k] for k in sorted(item, key=lambda k: k == "truncated")}
