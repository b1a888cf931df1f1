"""Plain sessions: what exporting looks into graphs with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bertonnx.runtime.session.bare import Level, open_bare


def model() -> bytes:
    """Return `y = x + (1 + 1)`, and x as whole numbers: folding leaves one addition."""
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    nodes = [
        helper.make_node("Add", ["one", "one"], ["two"]),
        helper.make_node("Add", ["x", "two"], ["y"]),
        helper.make_node("Cast", ["y"], ["whole"], to=TensorProto.INT64),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    outputs = [onnx.ValueInfoProto(name=name) for name in ("y", "whole")]
    graph = helper.make_graph(nodes, "g", [x], outputs, [one])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


def test_outputs_have_their_own_types() -> None:
    session = open_bare(model())
    assert session.inputs == ("x",)
    assert session.outputs == ("y", "whole")
    assert session.types == {"y": "tensor(float)", "whole": "tensor(int64)"}
    assert session.providers == ("CPUExecutionProvider",)
    feeds = {"x": np.array([0.5, -3.0], dtype=np.float32), "mask": np.ones(2, dtype=np.float32)}
    whole, y = session.run(["whole", "y"], feeds)
    assert y.tolist() == [2.5, -1.0]
    assert whole.dtype == np.int64
    assert whole.tolist() == [2, -1]


@pytest.mark.parametrize(("level", "additions"), [("none", 2), ("basic", 1), ("all", 1)])
def test_the_level_says_what_is_optimized(level: Level, additions: int, tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    open_bare(model(), level=level, optimized_to=target)
    assert [node.op_type for node in onnx.load(target).graph.node].count("Add") == additions


def test_a_file_is_opened_and_its_weights_may_lie_beside_it(tmp_path: Path) -> None:
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    numbers = np.arange(4096, dtype=np.float32)
    big = helper.make_tensor("big", TensorProto.FLOAT, [4096], numbers.tobytes(), raw=True)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4096])
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "big"], ["y"])], "g", [x], [onnx.ValueInfoProto(name="y")], [big]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), source)
    open_bare(source, level="basic", optimized_to=target)
    assert (tmp_path / "out.onnx.data").stat().st_size >= 4 * 4096
    (y,) = open_bare(target).run(["y"], {"x": np.zeros(4096, dtype=np.float32)})
    assert y.tolist() == numbers.tolist()


def test_an_unknown_provider_is_not_replaced_in_silence() -> None:
    with pytest.raises(Exception, match="NowhereExecutionProvider"):
        open_bare(model(), providers=("NowhereExecutionProvider",))
