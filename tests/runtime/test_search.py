"""Search over arrays and files, in every encoding, against every pair compared by hand; and the command."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

import bertonnx
from bertonnx.errors import InputError, UsageError
from bertonnx.runtime.options import ENCODINGS, Encoding
from bertonnx.runtime.rows import Array
from bertonnx.runtime.vectors.encodings import encode
from tests.commands import Command, read_lines
from tests.corpus import SENTENCES

WIDTH, ROWS = 24, 300


def random_vectors(rows: int = ROWS, width: int = WIDTH, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


VECTORS, QUERIES = random_vectors(), random_vectors(5, seed=1)
RANGES = np.stack([VECTORS.min(axis=0), VECTORS.max(axis=0)])


def by_hand(stored: npt.NDArray[Any], queries: npt.NDArray[Any], top_k: int = 10) -> list[list[int]]:
    """Return the nearest by cosine, each pair by itself in float64."""
    scores = [
        [float(a @ b) / float(np.sqrt(a @ a) * np.sqrt(b @ b)) for b in stored.astype(float)]
        for a in queries.astype(float)
    ]
    return [np.argsort(-np.array(row, dtype=np.float32), kind="stable")[:top_k].tolist() for row in scores]


def indices(found: list[list[dict[str, Any]]]) -> list[list[int]]:
    return [[hit["index"] for hit in hits] for hits in found]


def signs(vectors: Array) -> Array:
    return np.where(vectors > 0, 1, -1).astype(np.float32)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("given", ["array", ".npy", ".parquet", ".arrow", "lists"])
def test_every_encoding_in_every_place(tmp_path: Path, encoding: Encoding, given: str) -> None:
    stored, queries = encode(VECTORS, encoding, RANGES), encode(QUERIES, encoding, RANGES)
    place: Any = stored if given == "array" else _saved(tmp_path, stored, given)
    expected = by_hand(stored, queries)
    if "binary" in encoding:
        expected = by_hand(signs(VECTORS), signs(QUERIES))
    assert indices(bertonnx.search(place, queries, encoding=encoding)) == expected
    if encoding == "float32":
        assert bertonnx.search(place, queries) == bertonnx.search(place, queries.tolist())
    elif "binary" in encoding:
        # What is looked for need not lose its numbers.
        assert indices(bertonnx.search(place, QUERIES)) == by_hand(signs(VECTORS), QUERIES)
    else:
        exact = by_hand(VECTORS, QUERIES, 1)
        assert indices(bertonnx.search(place, QUERIES, ranges=RANGES, top_k=1)) == exact


def _saved(folder: Path, vectors: npt.NDArray[Any], kind: str) -> Path:
    ending = ".parquet" if kind == "lists" else kind
    path = folder / f"vectors{ending}"
    if ending == ".npy":
        np.save(path, vectors)
        return path
    inner = pyarrow.from_numpy_dtype(vectors.dtype)
    column = pyarrow.array([*vectors], pyarrow.list_(inner, -1 if kind == "lists" else vectors.shape[1]))
    table = pyarrow.table({"row": pyarrow.array(range(len(vectors))), "embedding": column})
    if ending == ".parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=70)
    else:
        with pyarrow.ipc.new_file(path, table.schema) as file:
            file.write_table(table, max_chunksize=70)
    return path


def test_failed_rows_count_and_are_not_listed(tmp_path: Path) -> None:
    broken = VECTORS.copy()
    broken[3] = np.nan
    broken[4, 0] = np.inf
    np.save(tmp_path / "v.npy", broken)
    nulls = pyarrow.array([None if i in (3, 4) else row for i, row in enumerate(VECTORS)])
    pyarrow.parquet.write_table(pyarrow.table({"v": nulls}), tmp_path / "v.parquet")
    whole = encode(VECTORS, "int8", RANGES)
    whole[3:5] = 0
    for place, extra in ((broken, {}), (tmp_path / "v.npy", {}), (tmp_path / "v.parquet", {})):
        found = bertonnx.search(place, VECTORS[5:6], top_k=ROWS, **extra)
        assert found[0][0] == {"index": 5, "score": 1.0}
        assert {hit["index"] for hit in found[0]} == {*range(ROWS)} - {3, 4}
    found = bertonnx.search(whole, VECTORS[5:6], top_k=ROWS, ranges=RANGES)
    assert {hit["index"] for hit in found[0]} == {*range(ROWS)} - {3, 4}


def test_few_and_no_vectors() -> None:
    assert [len(hits) for hits in bertonnx.search(VECTORS[:3], QUERIES)] == [3] * 5
    assert bertonnx.search(VECTORS[:0], QUERIES[:2]) == [[], []]
    assert bertonnx.search([], QUERIES[:2]) == [[], []]
    assert bertonnx.search(VECTORS, QUERIES[:0]) == []
    assert bertonnx.search(VECTORS, []) == []


def test_memory_is_bounded(tmp_path: Path) -> None:
    stored = np.lib.format.open_memmap(tmp_path / "v.npy", mode="w+", dtype=np.float32, shape=(200_000, 256))
    stored[:] = 0.5
    stored[123_456, 7] = 9
    stored.flush()
    query = np.zeros((300, 256), dtype=np.float32)
    query[:, 7] = 1
    tracemalloc.start()
    found = bertonnx.search(tmp_path / "v.npy", query, top_k=3)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [hit["index"] for hit in found[299]] == [123_456, 0, 1]
    # The file has 205 MB, and all scores would have 240 MB.
    assert most < 100e6


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"top_k": 0}, "top_k=0 is too small"),
        ({"similarity": "angular"}, "similarity='angular' is unknown; it can be cosine, dot"),
        ({"queries": [[1.0, 2.0]]}, "the queries have 2 numbers each, and the stored vectors are of 24"),
        ({"queries": [1.0, 2.0]}, "queries must be vectors, numbers of shape (n, width), and is float64"),
        ({"queries": [["a"]]}, "queries must be vectors, numbers of shape (n, width), and is <U1"),
        ({"queries": [[1.0], [1.0, 2.0]]}, "queries must be vectors, numbers of shape (n, width) ("),
        ({"queries": [[float("nan")] * 24]}, "row 0 of the queries holds NaN"),
        ({"vectors": np.zeros(24)}, "vectors must be vectors, numbers of shape (n, width), and is float64"),
        ({"vectors": np.zeros((2, 24), np.int8), "queries": np.zeros((1, 24), np.int8)}, "encoding='binary'"),
        ({"vectors": np.zeros((2, 24), np.int8)}, "give the ranges that they were made with as ranges"),
        ({"encoding": "int8"}, "encoding='int8', and the stored vectors are float32"),
        ({"vectors": np.ones((2, 3), np.uint8), "encoding": "binary"}, "the stored vectors are uint8"),
        ({"vectors": np.ones((2, 24), np.uint8), "ranges": [[0.0]]}, "ranges must be of shape (2, 24)"),
        ({"vectors": "v.txt"}, "the ending of v.txt does not say how to read vectors"),
        ({"column": "a"}, "column='a': vectors is an array, without columns"),
        ({"query_column": "a"}, "query_column='a': queries is an array, without columns"),
    ],
)
def test_what_search_refuses(given: dict[str, Any], said: str) -> None:
    given = {"vectors": VECTORS, "queries": QUERIES[:1], **given}
    with pytest.raises(UsageError) as caught:
        bertonnx.search(given.pop("vectors"), given.pop("queries"), **given)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("v.npy", None, "there is no file"),
        ("v.npy", b"garbage", "cannot be read as vectors"),
        ("v.parquet", b"garbage", "cannot be read as vectors"),
        ("v.arrow", b"", "cannot be read as vectors"),
    ],
)
def test_files_that_hold_no_vectors(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        bertonnx.search(tmp_path / name, QUERIES)


def test_columns_are_named_where_they_must_be(tmp_path: Path) -> None:
    lists = pyarrow.array([*VECTORS])
    pyarrow.parquet.write_table(
        pyarrow.table({"a": lists, "b": lists, "c": ["x"] * ROWS}), tmp_path / "v.parquet"
    )
    with pytest.raises(InputError, match="the columns of vectors a, b; name a column"):
        bertonnx.search(tmp_path / "v.parquet", QUERIES)
    assert bertonnx.search(tmp_path / "v.parquet", QUERIES, column="b") == bertonnx.search(VECTORS, QUERIES)
    pyarrow.parquet.write_table(pyarrow.table({"a": [[1.0], [1.0, 2.0]]}), tmp_path / "ragged.parquet")
    with pytest.raises(InputError, match="not all of 1 numbers"):
        bertonnx.search(tmp_path / "ragged.parquet", [[1.0]])


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        # As many numbers as three vectors of the first one's width.
        ([[1.0, 0.0], [1.0], [1.0, 0.0, 0.0]], "not all of 2 numbers"),
        ([[1.0, 0.0], [None, 1.0]], "has a null among its numbers"),
    ],
)
@pytest.mark.parametrize("ending", [".parquet", ".arrow"])
def test_vectors_of_other_programs_that_are_none(
    tmp_path: Path, vectors: list[list[float | None]], said: str, ending: str
) -> None:
    path = _table(tmp_path / f"v{ending}", pyarrow.array(vectors, pyarrow.list_(pyarrow.float32())))
    for given in ((path, [[1.0, 0.0]]), ([[1.0, 0.0]], path)):
        with pytest.raises(InputError, match=said):
            bertonnx.search(*given)


def _table(path: Path, column: Any) -> Path:
    table = pyarrow.table({"embedding": column})
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        with pyarrow.ipc.new_file(path, table.schema) as file:
            file.write_table(table)
    return path


def test_a_file_that_breaks_off_in_its_middle(tmp_path: Path) -> None:
    path = _table(tmp_path / "v.arrow", pyarrow.array([*VECTORS], pyarrow.list_(pyarrow.float32())))
    whole = path.read_bytes()
    offsets = np.arange(0, WIDTH * 8, WIDTH, dtype="<i4").tobytes()
    assert whole.count(offsets) == 1
    path.write_bytes(whole.replace(offsets, b"\xff" * len(offsets)))
    with pytest.raises(InputError, match="cannot be read as vectors"):
        bertonnx.search(path, QUERIES)


def test_whole_numbers_may_be_missing_and_so_may_all_vectors(tmp_path: Path) -> None:
    whole = pyarrow.array([[1, 0], None, [0, 1]], pyarrow.list_(pyarrow.int64()))
    found = bertonnx.search(_table(tmp_path / "whole.parquet", whole), [[1.0, 0.0]])
    assert indices(found) == [[0, 2]]
    none = _table(tmp_path / "none.parquet", pyarrow.array([None, None], pyarrow.list_(pyarrow.float32())))
    assert bertonnx.search(none, [[1.0, 0.0]]) == [[]]
    with pytest.raises(UsageError, match="row 0 of the queries"):
        bertonnx.search([[1.0, 0.0]], none)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_command_looks_for_texts(
    exported: dict[str, Path], command: Command, tmp_path: Path, encoding: Encoding
) -> None:
    path = exported["feature-extraction"]
    (tmp_path / "in.txt").write_text("\n".join(SENTENCES[:20]) + "\n", encoding="utf-8")
    (tmp_path / "q.jsonl").write_text(json.dumps({"text": SENTENCES[3]}) + '\n{"text": null}\n')
    bertonnx.run(path, tmp_path / "in.txt", tmp_path / "v.npy", encoding=encoding)
    asked = ("search", tmp_path / "v.npy", tmp_path / "q.jsonl", "--model", path, "--top-k", 3)
    outcome = command(*asked)
    assert outcome.code == 3, outcome.err
    first, second = map(json.loads, outcome.out.splitlines())
    with bertonnx.load(path) as model:
        query, found = model.embed([SENTENCES[3]]), model.card.ranges[0]
    ranges = [found.least, found.largest] if encoding in ("int8", "uint8") else None
    expected = bertonnx.search(tmp_path / "v.npy", query, top_k=3, ranges=ranges)
    assert (first["row"], indices([first["hits"]])) == (0, indices(expected))
    assert second["error"]["type"] == "missing-text"
    assert command(*asked, "-o", tmp_path / "hits.jsonl").code == 3
    assert read_lines(tmp_path / "hits.jsonl") == [first, second]


def test_the_command_looks_for_vectors(command: Command, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", VECTORS)
    np.save(tmp_path / "q.npy", QUERIES)
    outcome = command("search", tmp_path / "v.npy", tmp_path / "q.npy", "--top-k", 2)
    found = [json.loads(line) for line in outcome.out.splitlines()]
    expected = bertonnx.search(VECTORS, QUERIES, top_k=2)
    assert indices([line["hits"] for line in found]) == indices(expected)
    scores = [[np.float32(hit["score"]) for hit in line["hits"]] for line in found]
    assert scores == [[np.float32(hit["score"]) for hit in hits] for hits in expected]
    outcome = command("search", tmp_path / "v.npy", tmp_path / "q.npy", "-o", tmp_path / "hits.csv")
    assert (outcome.code, "name a file that ends in .jsonl" in outcome.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        # With vectors as queries this was an error; with texts the answer was wrong in silence.
        (
            "v.npy q.txt --model MODEL --encoding int8",
            2,
            "--encoding int8, and the stored vectors are float32",
        ),
        ("v.npy v.npy --model MODEL", 2, "v.npy holds vectors; leave --model out, or for vectors of int8"),
        ("v.npy v.npy --prompt query", 2, "--prompt query is for texts, which --model embeds"),
        ("v.npy v.npy --no-normalize", 2, "--no-normalize is for texts, which --model embeds"),
        ("v.npy q.txt --model MODEL --ranges MODEL", 2, "is for vectors without --model"),
        ("v.npy q.csv --model MODEL", 1, "say --query-column NAME"),
        ("v.npy q.txt --model MODEL --query-column a", 2, "--query-column a: "),
        ("v.npy q.txt --model OTHER", 1, "needs a model exported for feature-extraction, and this one was"),
    ],
)
def test_the_command_refuses_in_its_own_words(
    exported: dict[str, Path],
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: str,
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with bertonnx.load(exported["feature-extraction"]) as model:
        np.save("v.npy", model.embed(SENTENCES[:3]))
    Path("q.txt").write_text("a text\n")
    Path("q.csv").write_text("a,b\nx,y\n")
    paths = {"MODEL": exported["feature-extraction"], "OTHER": exported["text-classification"]}
    outcome = command("search", *(paths.get(word, word) for word in arguments.split()))
    assert (outcome.code, outcome.out) == (code, "")
    assert said in outcome.err
    assert "embed()" not in outcome.err


def test_hits_appear_whole_or_not_at_all(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "v.npy", VECTORS)
    np.save(tmp_path / "q.npy", QUERIES)
    (tmp_path / "hits.jsonl").write_text("old")

    def full(row: int, _: object) -> str:
        if row:
            raise OSError(28, "No space left on device")
        return "{}"

    asked = ("search", tmp_path / "v.npy", tmp_path / "q.npy", "-o", tmp_path / "hits.jsonl")
    with monkeypatch.context() as patched:
        patched.setattr("bertonnx.runtime.search.json_line", full)
        outcome = command(*asked)
    assert outcome.code == 1
    assert outcome.err.endswith("hits.jsonl: No space left on device\n")
    assert (tmp_path / "hits.jsonl").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"v.npy", "q.npy", "hits.jsonl"}
    assert command(*asked).code == 0
    assert len(read_lines(tmp_path / "hits.jsonl")) == len(QUERIES)


def test_hits_do_not_replace_the_queries(exported: dict[str, Path], command: Command, tmp_path: Path) -> None:
    queries = tmp_path / "q.jsonl"
    queries.write_text('{"text": "a"}\n')
    with bertonnx.load(exported["feature-extraction"]) as model:
        np.save(tmp_path / "v.npy", model.embed(SENTENCES[:3]))
    model_file = exported["feature-extraction"]
    outcome = command("search", tmp_path / "v.npy", queries, "--model", model_file, "-o", queries)
    assert (outcome.code, "is the input" in outcome.err) == (2, True)
    assert queries.read_text() == '{"text": "a"}\n'
