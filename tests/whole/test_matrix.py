"""Every family for every task: exported, compared with PyTorch, replayed, and independent of the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertonnx
from bertonnx.errors import RowError, UnsupportedError
from bertonnx.models.families import EXCLUDED_FAMILIES, EXCLUDED_KEYS, FAMILIES, Family
from bertonnx.runtime.rows import as_rows
from tests.cells import Cells
from tests.corpus import SENTENCES
from tests.figures import parity_of
from tests.tiny import CELLS, FAMILY_CONFIGS, save_tiny

GAPS = [(family, task) for family in FAMILIES for task in family.gaps]


def _id(value: object) -> str:
    return value.name if isinstance(value, Family) else str(value)


def _same(left: Any, right: Any) -> bool:
    """Compare items to the last bit; arrays inside by their bytes."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, np.ndarray):
        return bool(np.array_equal(left, right))
    return bool(left == right)


def _predict(model: bertonnx.Model, texts: list[str], pairs: list[str] | None) -> list[Any]:
    items = list(model.stream(as_rows(texts, pairs)))
    assert not any(isinstance(item, RowError) for item in items), items
    return items


def test_the_table_and_the_tiny_configurations_name_the_same_families() -> None:
    assert {family.name for family in FAMILIES} == set(FAMILY_CONFIGS)


@pytest.mark.parametrize(("family", "task"), CELLS, ids=_id)
def test_a_cell(family: Family, task: str, cell: Cells) -> None:
    report = cell(family.name, task).report

    assert report.card.family == family.name
    attention = report.card.fusions["attention"]
    assert attention["found"] == attention["expected"]
    assert (attention["found"] == 0) == bool(family.why_unfused)
    parity = parity_of(report.card)
    assert parity.max_abs_difference <= parity.allowed == 1e-4 * max(1, parity.max_abs_reference)
    assert report.golden is not None
    assert report.golden.examples >= 5

    texts = list(SENTENCES[:24])
    mask = report.card.mask_token
    if mask is not None:
        texts = [f"{text} {mask}" for text in texts]
    pairs = list(reversed(SENTENCES[:24])) if task == "question-answering" else None
    with bertonnx.load(report.path, threads=1) as one, bertonnx.load(report.path, threads=2) as two:
        together = _predict(one, texts, pairs)
        assert len({str(item) for item in together}) > 1, (
            "a model that says the same of all texts tests nothing"
        )
        backwards = _predict(two, texts[::-1], pairs[::-1] if pairs else None)[::-1]
        alone = [_predict(one, [text], [pairs[i]] if pairs else None)[0] for i, text in enumerate(texts[:8])]
    assert all(map(_same, together, backwards))
    assert all(map(_same, together, alone))


@pytest.mark.parametrize(("family", "task"), GAPS, ids=_id)
def test_a_gap_says_why(family: Family, task: str, tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "checkpoint", family.name, "feature-extraction")
    with pytest.raises(UnsupportedError, match=family.gaps[task]):
        bertonnx.export(source, tmp_path / "model.onnx", task=task)
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("name", EXCLUDED_FAMILIES)
def test_an_excluded_family_says_why(name: str, tmp_path: Path) -> None:
    import transformers

    folder = tmp_path / "checkpoint"
    transformers.CONFIG_MAPPING[name]().save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(UnsupportedError) as caught:
        bertonnx.export(folder, tmp_path / "model.onnx")
    assert EXCLUDED_FAMILIES[name][:40] in str(caught.value)


@pytest.mark.parametrize(
    ("name", "key"), [(name, key) for name, keys in EXCLUDED_KEYS.items() for key in keys]
)
def test_a_key_that_no_version_of_transformers_computes_says_why(name: str, key: str, tmp_path: Path) -> None:
    import transformers

    value, reason = EXCLUDED_KEYS[name][key]
    folder = tmp_path / "checkpoint"
    config = transformers.CONFIG_MAPPING[name]()
    setattr(config, key, value)
    config.save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(UnsupportedError) as caught:
        bertonnx.export(folder, tmp_path / "model.onnx")
    assert f"{key} {str(value).lower()}" in str(caught.value)
    assert reason in str(caught.value)
