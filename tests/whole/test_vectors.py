"""Embeddings cut, normalized and encoded, in all faces, against the sentence-transformers package itself."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
from sentence_transformers import SentenceTransformer, quantize_embeddings

import bertonnx
from bertonnx.errors import TaskError, UsageError
from bertonnx.runtime.model import Model
from bertonnx.runtime.options import ENCODINGS
from tests.commands import Command, read_lines, written
from tests.corpus import PARAGRAPHS, SENTENCES
from tests.tiny import save_tiny

WIDTH, CUT = 32, 16
PROMPTS = {"query": "Query: ", "passage": "What the page says: "}
TEXTS = [*SENTENCES[:8], PARAGRAPHS[0], "", "ünï"]
MODULES: Any = importlib.import_module("sentence_transformers.sentence_transformer.modules")

Pair = tuple[Model, Any]


@pytest.fixture(scope="module", params=["normalized", "plain"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Yield our model and theirs, of a folder that normalizes and of one that does not."""
    place = tmp_path_factory.mktemp("vectors")
    tiny = save_tiny(place / "checkpoint", "bert", "feature-extraction")
    modules = [MODULES.Transformer(str(tiny), max_seq_length=48), MODULES.Pooling(WIDTH)]
    modules += [MODULES.Normalize()] if request.param == "normalized" else []
    made: Any = SentenceTransformer
    theirs = made(modules=modules, device="cpu", prompts=PROMPTS)
    theirs.save(str(place / "folder"))
    path = bertonnx.export(place / "folder", place / "model.onnx", dimensions=[CUT, 8]).path
    with bertonnx.load(path) as model:
        yield model, theirs


def ranges(model: Model, kept: int, normalize: bool) -> npt.NDArray[np.float32]:
    """Return the ranges of the card as docs/vectors.md says to find them."""
    changed = normalize and not (model.card.normalize and kept == WIDTH)
    (found,) = (
        each
        for each in model.card.ranges
        if each.normalized == changed and (not changed or each.dimensions == kept)
    )
    return np.array([found.least[:kept], found.largest[:kept]], dtype=np.float32)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("normalize", [None, True])
@pytest.mark.parametrize("dimensions", [None, CUT, WIDTH])
def test_embeddings_are_those_of_encode(
    pair: Pair, dimensions: int | None, normalize: bool | None, encoding: Any
) -> None:
    model, theirs = pair
    for prompt in ("", "query", "passage"):
        ours = model.embed(
            TEXTS, prompt=prompt, dimensions=dimensions, normalize=normalize, encoding=encoding
        )
        given = {"prompt": PROMPTS[prompt]} if prompt else {"prompt": ""}
        whole = theirs.encode(TEXTS, truncate_dim=dimensions, normalize_embeddings=bool(normalize), **given)
        if encoding == "float32":
            assert ours.dtype == np.float32
            np.testing.assert_allclose(ours, whole, atol=1e-6)
            continue
        kept = ranges(model, dimensions or WIDTH, bool(normalize))
        expected = quantize_embeddings(whole, encoding, ranges=kept)
        assert (ours.dtype, ours.shape) == (expected.dtype, expected.shape)
        # A number on the edge of two values may fall to either side.
        assert (ours != expected).mean() <= 0.005


def test_a_text_has_the_same_numbers_in_any_batch_and_face(pair: Pair, tmp_path: Path) -> None:
    model, _ = pair
    texts = tmp_path / "in.txt"
    texts.write_text("\n".join(SENTENCES[:8]) + "\n", encoding="utf-8")
    batch = pyarrow.RecordBatch.from_pydict({"text": SENTENCES[:8]})
    for dimensions, normalize, encoding in product((None, CUT), (None, True), ENCODINGS):
        given: Any = {"dimensions": dimensions, "normalize": normalize, "encoding": encoding}
        ours = model.embed(SENTENCES[:8], **given)
        alone = np.concatenate([model.embed([text], **given) for text in SENTENCES[:8]])
        assert alone.tobytes() == ours.tobytes()
        column = model.predict_batch(batch, **given).column("embedding")
        assert column.type.list_size == ours.shape[1]
        assert column.type.value_type == pyarrow.from_numpy_dtype(ours.dtype)
        assert np.stack(column.to_numpy(zero_copy_only=False)).tobytes() == ours.tobytes()
        bertonnx.run(model, texts, tmp_path / "out.npy", **given)
        stored = np.load(tmp_path / "out.npy")
        assert (stored.dtype, stored.tobytes()) == (ours.dtype, ours.tobytes())


@pytest.mark.parametrize("ending", [".npy", ".jsonl", ".csv", ".parquet", ".arrow"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_format_holds_every_encoding(
    pair: Pair, command: Command, tmp_path: Path, encoding: Any, ending: str
) -> None:
    model, _ = pair
    lines = [json.dumps({"text": text}) for text in (*SENTENCES[:3], None)]
    input = written(tmp_path / "in.jsonl", "\n".join(lines) + "\n")
    output = tmp_path / f"out{ending}"
    options = ("--dimensions", CUT, "--normalize", "--encoding", encoding)
    outcome = command("run", model.path, input, "-o", output, *options)
    assert outcome.code == 3
    ours = model.embed(SENTENCES[:3], dimensions=CUT, normalize=True, encoding=encoding)
    found, failed = _read(output)
    assert found.dtype == ours.dtype
    assert found.tobytes() == ours.tobytes()
    assert failed
    if ending == ".npy":
        assert "1 of 4 rows have an error; they are NaN in the output, or 0 in integers" in outcome.err
        again = command("run", model.path, input, "-o", output, *options, "--resume")
        assert (again.code, "was complete already (4 rows)" in again.err) == (3, True)


def _read(path: Path) -> tuple[npt.NDArray[Any], bool]:
    """Return the first three rows of an output, and whether the fourth is missing."""
    if path.suffix == ".npy":
        array = np.load(path)
        missing = np.isnan(array) if array.dtype.kind == "f" else array == 0
        return array[:3], bool(missing[3].all() and not missing[:3].all(axis=1).any())
    if path.suffix in (".parquet", ".arrow"):
        opened = pyarrow.parquet.read_table if path.suffix == ".parquet" else _ipc
        column = opened(path).column("embedding").combine_chunks()
        assert pyarrow.types.is_fixed_size_list(column.type)
        return np.stack(column[:3].to_numpy(zero_copy_only=False)), column[3].as_py() is None
    if path.suffix == ".csv":
        lines = [line.split(",") for line in path.read_text().splitlines()]
        width = sum(name.startswith("e") and name[1:].isdigit() for name in lines[0])
        cells, last = [line[1 : 1 + width] for line in lines[1:4]], lines[4][1 : 1 + width]
        return _array(cells), last == [""] * width
    lines_of = read_lines(path)
    return _array([line["embedding"] for line in lines_of[:3]]), "error" in lines_of[3]


def _ipc(path: Path) -> pyarrow.Table:
    return pyarrow.ipc.open_file(path).read_all()


def _array(rows: list[list[Any]]) -> npt.NDArray[Any]:
    texts = [[str(cell) for cell in row] for row in rows]
    if any("." in cell or "e" in cell for row in texts for cell in row):
        return np.array(texts, dtype=np.float32)
    numbers = np.array(texts, dtype=np.int64)
    return numbers.astype(np.int8 if (numbers < 0).any() else np.uint8)


def test_a_run_goes_on_with_the_same_form_alone(pair: Pair, command: Command, tmp_path: Path) -> None:
    model, _ = pair
    input = tmp_path / "in.txt"
    input.write_text("one\ntwo\n")
    output = tmp_path / "out.npy"
    output.with_name("out.npy.partial").write_bytes(b"")
    with pytest.raises(KeyboardInterrupt):
        bertonnx.run(model, input, output, encoding="int8", progress=_interrupt)
    for options, said in (
        ((), "--encoding int8"),
        (("--encoding", "uint8"), "--encoding int8, and now it is uint8"),
        (("--encoding", "int8", "--dimensions", 8), "--dimensions not given, and now it is 8"),
        (("--encoding", "int8", "--normalize"), "--normalize not given, and now it is True"),
    ):
        outcome = command("run", model.path, input, "-o", output, "--resume", *options)
        assert (outcome.code, said in outcome.err) == (2, True), outcome.err
    assert command("run", model.path, input, "-o", output, "--resume", "--encoding", "int8").code == 0
    assert np.load(output).tobytes() == model.embed(["one", "two"], encoding="int8").tobytes()


def _interrupt(_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"dimensions": 0}, "dimensions=0 is too small"),
        ({"dimensions": -3}, "dimensions=-3 is too small"),
        ({"dimensions": 8.5}, "dimensions=8.5 is not a whole number"),
        ({"dimensions": True}, "dimensions=True is not a whole number"),
        ({"normalize": "no"}, "normalize='no' is neither true nor false"),
        ({"normalize": 0}, "normalize=0 is neither true nor false"),
        ({"dimensions": 33}, "dimensions=33 is more than this model's embeddings have (32)"),
        ({"encoding": "int4"}, "encoding='int4' is unknown; it can be float32, int8"),
        ({"encoding": "binary", "dimensions": 12}, "eight dimensions into a byte, and an embedding has 12"),
        (
            {"encoding": "int8", "dimensions": 24, "normalize": True},
            "cut to 24 and then normalized (it has some of",
        ),
        ({"prompt": "question"}, "no such prompt; it has query, document, passage"),
    ],
)
def test_what_embed_refuses(pair: Pair, given: dict[str, Any], said: str) -> None:
    model, _ = pair
    with pytest.raises(UsageError) as caught:
        model.embed(TEXTS[:2], **given)
    assert said in str(caught.value)


def test_what_a_file_normalizes_it_always_does(pair: Pair) -> None:
    model, _ = pair
    if not model.card.normalize:
        same = model.embed(TEXTS[:2], normalize=False).tobytes()
        assert same == model.embed(TEXTS[:2]).tobytes()
        return
    with pytest.raises(UsageError, match=r"normalize=False: the graph in this file gives .* of length 1"):
        model.embed(TEXTS[:2], normalize=False)


@pytest.mark.parametrize("name", [None, "cosine", "dot", "euclidean", "manhattan"])
def test_similarity_is_theirs(pair: Pair, name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    model, theirs = pair
    monkeypatch.setattr(theirs, "similarity_fn_name", name)
    monkeypatch.setattr(model, "card", replace(model.card, similarity=name))
    vectors = theirs.encode(TEXTS)
    expected = theirs.similarity(vectors[:3], vectors).numpy()
    for a, b in ((TEXTS[:3], TEXTS), (vectors[:3], TEXTS), (vectors[:3].tolist(), vectors)):
        found = model.similarity(a, b)
        assert (found.dtype.name, found.shape) == ("float32", expected.shape)
        np.testing.assert_allclose(found, expected, atol=2e-5)
    assert model.similarity([], TEXTS).shape == (0, len(TEXTS))
    given: Any = iter(TEXTS[:3])  # can be read once
    np.testing.assert_allclose(model.similarity(given, TEXTS), expected, atol=2e-5)
    given = np.array(TEXTS[:3], dtype=object)
    np.testing.assert_allclose(model.similarity(given, TEXTS), expected, atol=2e-5)


@pytest.mark.parametrize(
    ("b", "said"),
    [
        (np.zeros((2, 31)), "vectors of 32 numbers cannot be compared with vectors of 31"),
        ("one text", "this is one text"),
        ([["a"]], "b must be vectors"),
        ([1.0, 2.0], r"b must be vectors of shape"),
        ([[np.nan] * WIDTH], "b holds NaN"),
        (5, "b must be vectors"),
        (None, "b must be vectors"),
    ],
)
def test_what_similarity_refuses(pair: Pair, b: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        pair[0].similarity(TEXTS[:1], b)


def test_no_texts_give_no_rows_of_the_right_width(pair: Pair) -> None:
    model, _ = pair
    assert model.embed([], encoding="ubinary").shape == (0, 4)
    assert model.embed([], dimensions=5).shape == (0, 5)


def test_other_tasks_have_no_such_options(
    exported: dict[str, Path], command: Command, tmp_path: Path
) -> None:
    path = exported["text-classification"]
    input = tmp_path / "in.txt"
    input.write_text("one\n")
    outcome = command("run", path, input, "--dimensions", 8)
    assert (outcome.code, "--dimensions 8 is for feature-extraction" in outcome.err) == (2, True)
    with bertonnx.load(path) as model, pytest.raises(TaskError, match="feature-extraction"):
        model.embed(["one"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"dimensions": 33}, "dimensions=33 is more than the embeddings have (32)"),
        ({"dimensions": 0}, "dimensions=0 is too small"),
        ({"dimensions": 8, "task": "fill-mask"}, "dimensions is for feature-extraction"),
        ({"calibration": "no.txt", "task": "fill-mask"}, "calibration is for INT8 and fp16"),
    ],
)
def test_what_export_refuses(pair: Pair, tmp_path: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        bertonnx.export(pair[0].path.parent / "folder", tmp_path / "m.onnx", **given)
    assert said in str(caught.value)


def test_ranges_are_of_the_texts_that_are_given(pair: Pair, tmp_path: Path) -> None:
    folder = pair[0].path.parent / "folder"
    texts = [f"{word} {number}" for word in ("red", "blue") for number in range(20)]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    made = bertonnx.export(folder, tmp_path / "m.onnx", calibration=tmp_path / "texts.txt")
    with bertonnx.load(made.path) as model:
        names = [name for name, text in model.card.prompts.items() if text]
        prompted = [model.embed([t], prompt=names[i % 2]) for i, t in enumerate(texts[0::2] + texts[1::2])]
        whole = np.concatenate([model.embed(texts), *prompted])
        found = model.card.ranges[0]
        assert (found.dimensions, found.normalized, found.texts) == (WIDTH, False, 80)
        np.testing.assert_array_equal(np.array(found.least, dtype=np.float32), whole.min(axis=0))
        np.testing.assert_array_equal(np.array(found.largest, dtype=np.float32), whole.max(axis=0))
