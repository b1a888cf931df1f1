"""An embedding for each window of a long text: in Python, in every format, and where a run goes on."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.ipc
import pyarrow.parquet
import pytest
from sentence_transformers import SentenceTransformer

import bertonnx
from bertonnx.errors import TaskError, UsageError
from bertonnx.runtime.io.job import JobProgress
from tests.commands import Command, read_lines
from tests.corpus import PARAGRAPHS
from tests.tiny import save_tiny

LONG = " ".join(PARAGRAPHS[:2])
MODULES: Any = importlib.import_module("sentence_transformers.sentence_transformer.modules")
TEXTS = ["Ada lives in Paris.", LONG, "", f"ünï {LONG}"]


@pytest.fixture(scope="module")
def model(exported: dict[str, Path]) -> Path:
    return exported["feature-extraction"]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    texts: list[Any] = [*TEXTS, None, "Bob."]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def test_chunks_are_windows_with_their_places(model: Path) -> None:
    with bertonnx.load(model, long_text="stride") as opened:
        found = opened.embed_chunks(TEXTS)
        whole = opened.embed(TEXTS)
        pieces = [len(encoded.pieces) for encoded in opened.tokenize(TEXTS)]
    assert [len(chunks) for chunks in found] == pieces
    assert pieces[0] == pieces[2] == 1
    assert pieces[1] > 2
    for text, chunks, vector in zip(TEXTS, found, whole, strict=True):
        assert [one["chunk"] for one in chunks] == list(range(len(chunks)))
        starts, ends = [one["start"] for one in chunks], [one["end"] for one in chunks]
        assert starts == sorted(starts)
        # They overlap, and leave nothing out.
        assert all(after <= before for before, after in zip(ends, starts[1:], strict=False))
        assert (starts[0], ends[-1]) == (0, len(text))
        if len(chunks) == 1:
            assert chunks[0]["embedding"].tobytes() == vector.tobytes()


def test_a_prompt_is_before_every_window_and_counts_for_no_place(tmp_path: Path) -> None:
    tiny = save_tiny(tmp_path / "checkpoint", "bert", "feature-extraction")
    made: Any = SentenceTransformer
    folder = made(modules=[MODULES.Transformer(str(tiny)), MODULES.Pooling(32)], prompts={"query": "find: "})
    folder.save(str(tmp_path / "folder"))
    path = bertonnx.export(tmp_path / "folder", tmp_path / "m.onnx").path
    with bertonnx.load(path, long_text="stride") as opened:
        (asked,) = opened.embed_chunks([LONG], prompt="query")
        lengths = {len(piece.ids) for piece in opened.tokenize([LONG], prompt="query")[0].pieces[:-1]}
    assert lengths == {opened.max_length}
    assert (asked[0]["start"], asked[-1]["end"]) == (0, len(LONG))
    for one in asked:
        # Its words and no others: it neither begins nor ends within the prompt.
        assert 0 <= one["start"] < one["end"] <= len(LONG)


def test_every_format_has_a_row_for_each(command: Command, model: Path, rows: Path, tmp_path: Path) -> None:
    with bertonnx.load(model, long_text="stride") as opened:
        found = opened.embed_chunks([*TEXTS, "Bob."])
    wanted = [
        (row, one["chunk"], one["start"], one["end"], one["embedding"].tolist())
        for row, chunks in zip((0, 1, 2, 3, 5), found, strict=True)
        for one in chunks
    ]
    failed = next(place for place, line in enumerate(wanted) if line[0] == 5)
    for ending in ("jsonl", "csv", "parquet", "arrow"):
        assert command("run", model, rows, "--chunks", "-o", tmp_path / f"o.{ending}").code == 3
    lines = read_lines(tmp_path / "o.jsonl")
    assert lines[failed]["error"]["type"] == "missing-text"
    del lines[failed]
    assert [[*line] for line in lines] == [["row", "chunk", "start", "end", "embedding"]] * len(wanted)
    tables = [
        pyarrow.parquet.read_table(tmp_path / "o.parquet"),
        pyarrow.ipc.open_file(str(tmp_path / "o.arrow")).read_all(),
    ]
    for table in tables:
        assert table.column_names[:5] == ["row", "chunk", "start", "end", "embedding"]
        records = [tuple(row[name] for name in table.column_names[:5]) for row in table.to_pylist()]
        assert records.pop(failed) == (4, None, None, None, None)
        assert records == wanted
    for line, (row, chunk, start, end, vector) in zip(lines, wanted, strict=True):
        assert (line["row"], line["chunk"], line["start"], line["end"]) == (row, chunk, start, end)
        assert np.array(line["embedding"], np.float32).tolist() == vector
    cells = (tmp_path / "o.csv").read_text().splitlines()[1].split(",")
    assert cells[:4] == ["0", "0", "0", str(len(TEXTS[0]))]
    assert np.array(cells[4:36], np.float32).tolist() == wanted[0][4]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet", "arrow"])
def test_a_run_goes_on_by_whole_rows(model: Path, tmp_path: Path, ending: str) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*TEXTS, "Bob."]))
    whole, output = tmp_path / f"whole.{ending}", tmp_path / f"o.{ending}"
    bertonnx.run(model, rows, whole, chunks=True)

    def stop(state: JobProgress) -> None:
        if state.rows == 2:
            raise KeyboardInterrupt

    for cut in (0, 7, 400):
        with pytest.raises(KeyboardInterrupt):
            bertonnx.run(model, rows, output, chunks=True, progress=stop)
        grown = output if ending in ("jsonl", "csv") else output.with_name(f"{output.name}.partial")
        # As a kill in the middle of the long text's windows leaves it.
        content = grown.read_bytes()
        grown.write_bytes(content[: len(content) - cut])
        done = bertonnx.run(model, rows, output, chunks=True, resume=True)
        assert done.rows == len(TEXTS) + 1
        assert output.read_bytes() == whole.read_bytes()
        again = bertonnx.run(model, rows, output, chunks=True, resume=True)
        assert again.complete_before
        assert again.rows == len(TEXTS) + 1


def test_what_has_no_chunks(exported: dict[str, Path], model: Path, rows: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="chunks=True gives several embeddings to a text"):
        bertonnx.run(model, rows, tmp_path / "o.npy", chunks=True)
    with pytest.raises(UsageError, match="chunks=True is for feature-extraction"):
        bertonnx.run(exported["fill-mask"], rows, tmp_path / "o.jsonl", chunks=True)
    with bertonnx.load(exported["fill-mask"]) as other, pytest.raises(TaskError):
        other.embed_chunks(["a"])
