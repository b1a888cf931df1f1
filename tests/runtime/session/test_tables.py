"""The table of words is in memory once, however many sessions of a file read it."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bertonnx.runtime.modelfile.initializers import read_tables
from bertonnx.runtime.session.cpu_session import open_cpu
from bertonnx.runtime.session.memory import trim
from bertonnx.runtime.session.ort_session import OrtSession
from bertonnx.runtime.session.session import SessionOptions, import_onnxruntime

ROWS, WIDTH = 1 << 17, 64
SIZE = ROWS * WIDTH * 4


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes rows from a table of 32 MiB, and multiplies them."""
    dice = np.random.default_rng(0)
    weights = {
        "words": dice.standard_normal((ROWS, WIDTH)).astype(np.float32),
        "lent": dice.standard_normal((ROWS // 64, WIDTH)).astype(np.float32),
        "product": dice.standard_normal((WIDTH, WIDTH)).astype(np.float32),
        "few": dice.standard_normal((2, WIDTH)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["rows"]),
        helper.make_node("Gather", ["lent", "input_ids"], ["other"]),
        helper.make_node("Gather", ["few", "zero"], ["one"]),
        helper.make_node("Add", ["rows", "other"], ["sum"]),
        helper.make_node("Add", ["sum", "one"], ["all"]),
        helper.make_node("MatMul", ["all", "product"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tables",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"]),
            # A caller may give another in its place.
            helper.make_tensor_value_info("lent", TensorProto.FLOAT, weights["lent"].shape),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "tokens", WIDTH])],
        [
            *(numpy_helper.from_array(array, name) for name, array in weights.items()),
            numpy_helper.from_array(np.array(0), "zero"),
        ],
    )
    made = tmp_path_factory.mktemp("tables") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), made)
    return made


def opened(path: Path) -> OrtSession:
    return open_cpu(import_onnxruntime(), path, SessionOptions(threads=2))


def test_tables_are_what_rows_are_taken_from(path: Path) -> None:
    tables = read_tables(path.read_bytes())
    assert list(tables) == ["words"]
    stored = {one.name: numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}
    assert np.array_equal(tables["words"], stored["words"])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_second_session_takes_no_table_of_its_own(path: Path) -> None:
    session = opened(path)
    ids = {"input_ids": np.array([[0, 5, ROWS // 64 - 1]])}
    first = session.run(["y"], ids)[0]
    before = own_memory()
    alone = [session.run(["y"], ids, alone=True)[0] for _ in range(3)]
    assert session._wide is not None
    assert own_memory() - before < SIZE / 2
    assert all(np.array_equal(first, found) for found in alone)
    assert np.array_equal(session.run(["y"], ids)[0], first)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_tables_go_with_the_sessions(path: Path) -> None:
    before = own_memory()
    session: Any = opened(path)
    for _ in range(3):
        session.run(["y"], {"input_ids": np.array([[1, 2]])}, alone=True)
    assert own_memory() - before > SIZE / 2
    del session
    assert own_memory() - before < SIZE / 2


def own_memory() -> int:
    """Return the bytes of this process that are no file's."""
    gc.collect()
    trim()
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
