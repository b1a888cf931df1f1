"""Which nodes are where, and what is worth saying of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from bertonnx.runtime.session.placement import Placement, placement_of
from tests.fake_cuda import CPU, CUDA


def _session(*parts: tuple[str, tuple[str, ...]]) -> Any:
    def part(provider: str, names: tuple[str, ...]) -> Any:
        nodes = [SimpleNamespace(op_type=name) for name in names]
        return SimpleNamespace(ep_name=provider, get_nodes=lambda: nodes)

    return SimpleNamespace(get_provider_graph_assignment_info=lambda: [part(*item) for item in parts])


def test_everything_on_the_gpu() -> None:
    placement = placement_of(_session((CUDA, ("MatMul", "Add"))))
    assert placement == Placement(2, 0)
    assert str(placement) == "2 of 2 nodes on the GPU"


def test_shape_arithmetic_on_cpu_is_no_fault() -> None:
    placement = placement_of(_session((CUDA, ("MatMul",)), (CPU, ("Shape", "Gather", "Concat"))))
    assert placement == Placement(4, 3)
    assert str(placement) == "1 of 4 nodes on the GPU, 3 on CPU (shape arithmetic)"


def test_computing_on_cpu_is_named_the_most_frequent_first() -> None:
    cpu = ("MatMulInteger", "Softmax", "Shape", "MatMulInteger")
    placement = placement_of(_session((CUDA, ("MatMul",)), (CPU, cpu)))
    assert placement is not None
    assert placement.computing_on_cpu == (("MatMulInteger", 2), ("Softmax", 1))
    assert str(placement).endswith(
        "4 on CPU, of which more than shape arithmetic: 2 MatMulInteger, 1 Softmax"
    )


def test_an_onnx_runtime_that_cannot_say() -> None:
    assert placement_of(SimpleNamespace()) is None
