"""Which nodes of a graph a provider took, and which fell to the CPU."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

__all__ = ["RECORD", "Placement", "placement_of"]

RECORD = ("session.record_ep_graph_assignment_info", "1")
"""ONNX Runtime's setting without which a session cannot say where its nodes are."""

_CPU = "CPUExecutionProvider"

_SHAPE_ARITHMETIC = frozenset(
    (
        *("Shape", "Size", "Gather", "Concat", "Unsqueeze", "Squeeze", "Slice", "Range", "Cast", "Constant"),
        *("ConstantOfShape", "Reshape", "Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "Floor", "Ceil"),
        *("Equal", "Greater", "Less", "Where", "Expand", "ReduceProd", "ReduceMin", "ReduceMax", "Identity"),
        *("And", "Or", "Not", "If", "Neg", "Flatten", "Split"),
    )
)
"""Operators that ONNX Runtime leaves on the CPU on purpose where they only compute shapes: the numbers are
few, and the CPU needs them. A matrix product is never among them."""


@dataclass(frozen=True)
class Placement:
    """Where the nodes of a session are.

    Attributes:
        nodes: all of them.
        on_cpu: those that fell to the CPU.
        computing_on_cpu: of those, the operators that are more than shape arithmetic, with their
            numbers, the most frequent first.
    """

    nodes: int
    on_cpu: int
    computing_on_cpu: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        taken = f"{self.nodes - self.on_cpu} of {self.nodes} nodes on the GPU"
        if not self.on_cpu:
            return taken
        if not self.computing_on_cpu:
            return f"{taken}, {self.on_cpu} on CPU (shape arithmetic)"
        names = ", ".join(f"{count} {name}" for name, count in self.computing_on_cpu)
        return f"{taken}, {self.on_cpu} on CPU, of which more than shape arithmetic: {names}"


def placement_of(session: Any) -> Placement | None:
    """Return where the nodes of ONNX Runtime's session are; None where this version cannot say.

    Args:
        session: an `InferenceSession` that was opened with `RECORD`.
    """
    # A build of one's own may lack it.
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    nodes = [
        (part.ep_name, node.op_type)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]
    on_cpu = [name for provider, name in nodes if provider == _CPU]
    # A matrix product on the CPU is what makes a GPU slow; shapes there are as they should be.
    computing = Counter(name for name in on_cpu if name not in _SHAPE_ARITHMETIC)
    return Placement(len(nodes), len(on_cpu), tuple(computing.most_common()))
