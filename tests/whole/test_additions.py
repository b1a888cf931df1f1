"""What CONTRIBUTING shows in "How to add", done from outside: it works, so the page tells the truth."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bertonnx.errors import RowError
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.onnxgraph.probe import run_graph
from bertonnx.exporters.onnxgraph.step import Step, need
from bertonnx.models.card import Card
from bertonnx.runtime.io.columns import Result
from bertonnx.runtime.io.formats import OUTPUTS, Format
from bertonnx.runtime.io.outputs import Done, SpoolWriter, Writer
from bertonnx.runtime.options import DecodeOptions
from tests.commands import Command
from tests.graphs import changed


def open_labels(path: Path, card: Card, decode: DecodeOptions, *, resume: bool) -> Writer:  # noqa: ARG001
    """Open a file of one label per line; an empty line where a row failed."""
    return _LabelWriter(path, resume=resume)


class _LabelWriter(SpoolWriter):
    def _begin(self) -> None:
        """Write nothing before the first row."""

    def _write(self, index: int, result: Result) -> None:  # noqa: ARG002
        label = "" if isinstance(result, RowError) else result["label"]
        self._put(f"{label}\n".encode())

    def _scan(self, parts: Iterator[bytes]) -> Done:
        labels = list(parts)
        return Done(len(labels), labels.count(b"\n"), 0)

    def _assemble(self, parts: Iterator[bytes], target: BinaryIO) -> None:
        target.writelines(parts)

    def _scan_finished(self) -> Done:
        lines = self.path.read_bytes().splitlines()
        return Done(len(lines), lines.count(b""), 0)


@pytest.fixture
def labels_format() -> Iterator[None]:
    OUTPUTS.register(Format(".labels", f"{__name__}:open_labels", says_why=False))
    yield
    OUTPUTS.unregister(".labels")


@pytest.mark.usefixtures("labels_format")
def test_an_output_format(command: Command, classifier: Path, tmp_path: Path) -> None:
    table, output = tmp_path / "input.csv", tmp_path / "out.labels"
    table.write_text("text\nAda lives in Paris.\n\x01\nBob lives in Rome.\n", encoding="utf-8")
    assert command("run", classifier, table, "-o", output).code == 0
    lines = output.read_text().splitlines()
    assert len(lines) == 3
    assert set(lines) <= {"negative", "neutral", "positive"}


def test_an_output_format_goes_on_after_a_kill(tmp_path: Path) -> None:
    killed = _LabelWriter(tmp_path / "out.labels", resume=False)
    for row, label in enumerate(("positive", "", "negative")):
        killed.write(row, {"label": label})
    killed.abort()
    # Of the last row a kill left a part.
    os.truncate(killed.spool, killed.spool.stat().st_size - 3)
    writer = _LabelWriter(tmp_path / "out.labels", resume=True)
    assert writer.done == Done(2, 1, 0)
    writer.write(2, {"label": "negative"})
    writer.finish()
    assert (tmp_path / "out.labels").read_bytes() == b"positive\n\nnegative\n"
    assert writer.finished() == Done(3, 1, 0)


class DropProductsByOne(Step):
    """Take out products with the constant 1, which change nothing.

    Requires: nothing. Ensures: the same outputs; no such product is left.
    """

    name = "products by one"

    def apply(self, graph: Graph) -> int:
        """Take them out; returns how many there were."""
        products = [node for node in graph.nodes if _is_by_one(graph, node)]
        for node in products:
            graph.replace(node.output[0], node.input[0])
        graph.finish()
        return len(products)

    def ensures(self, graph: Graph) -> None:
        """None is left."""
        need(not any(_is_by_one(graph, node) for node in graph.nodes), "a product by one is left")


def _is_by_one(graph: Graph, node: onnx.NodeProto) -> bool:
    return node.op_type == "Mul" and graph.scalar(node.input[1]) == 1.0


def test_a_graph_step() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "one"], ["same"]),
        helper.make_node("Mul", ["same", "two"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.INT64, ["n"]) for name in "xy"]
    weights = [numpy_helper.from_array(np.array([value]), name) for value, name in ((1, "one"), (2, "two"))]
    graph = helper.make_graph(nodes, "products", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    smaller, counts = changed(model, DropProductsByOne(), DropProductsByOne())
    assert counts == [1, 0]
    assert [node.op_type for node in smaller.graph.node] == ["Mul"]
    x = np.array([1, 2, 3])
    np.testing.assert_array_equal(
        run_graph(smaller, {"x": x}, ["y"])["y"], run_graph(model, {"x": x}, ["y"])["y"]
    )
