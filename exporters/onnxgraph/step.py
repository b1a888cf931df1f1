"""What a graph step is, and the running of several in their order.

A step changes a graph in place and says how many places it changed. What it needs and what it leaves are
checks that run: `requires` before it, `ensures` after it, and after every step that the graph is sound
(`Graph.faults`) and has the inputs and outputs that it had. They run in every export, not in tests alone:
they look at nodes and hardly into weights, which takes milliseconds, and a graph that a step broke must not
become a file. What they cannot see, that the numbers stay the same, each step's own test compares.

The model is onnx/ir-py's `PassBase` (`src/onnx_ir/passes/_pass_infra.py`); here all steps are in place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from bertonnx.errors import GraphError, MissingDependencyError
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.wording import Message, Option

__all__ = ["BrokenContractError", "Step", "need", "run"]


class BrokenContractError(Exception):
    """A step was given, or left, another graph than it says."""


class Step(ABC):
    """One change of a graph.

    Attributes:
        name: one word or two, as errors and counts name it.
        remedy: what a user can do where the step fails.
    """

    name: ClassVar[str]
    remedy: ClassVar[Message] = Message("export with {level}", level=Option("optimize", "none"))

    def requires(self, graph: Graph) -> None:  # noqa: B027  (some steps need nothing)
        """Make sure that the graph is one for this step, beyond being sound.

        Raises:
            BrokenContractError: it is not; says in what.
        """

    @abstractmethod
    def apply(self, graph: Graph) -> int:
        """Change the graph in place, leave it sound, and return how many places were changed.

        Where the answer is 0, it is as it was but for the order of nodes and what no output needs.
        """

    def ensures(self, graph: Graph) -> None:  # noqa: B027  (of some, being sound is all there is to see)
        """Make sure that the graph is what this step promises, beyond being sound.

        Raises:
            BrokenContractError: it is not; says in what.
        """


def need(met: bool, what: str) -> None:
    """Go on where `met`.

    Raises:
        BrokenContractError: it is not; `what` says what is wrong with the graph.
    """
    if not met:
        raise BrokenContractError(what)


def run(steps: Iterable[Step], graph: Graph) -> dict[str, int]:
    """Run steps in their order, each with its checks; return by name how many places each changed.

    Args:
        steps: where one of a name comes twice, its counts are added.
        graph: is changed in place; remembers the names of the steps that it went through.

    Raises:
        GraphError: a step failed, or broke its contract; names it and those before it.
        MissingDependencyError: what a step runs on is not installed.
        OSError: the disk is full, and the like.
    """
    changed: dict[str, int] = {}
    for step in steps:
        try:
            count = _checked(step, graph)
        # Not the model's fault, and with remedies of their own.
        except (MissingDependencyError, OSError):
            raise
        except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
            raise GraphError(
                "the graph step {step}, after {before}, failed on this model: {problem}; no file was "
                "written. To go on, {remedy}, and please report the model",
                step=step.name,
                before=", ".join(graph.steps) or "none",
                problem=str(error) or type(error).__name__,
                remedy=step.remedy,
            ) from error
        changed[step.name] = changed.get(step.name, 0) + count
        graph.steps.append(step.name)
    return changed


def _checked(step: Step, graph: Graph) -> int:
    step.requires(graph)
    before = _ends(graph)
    count = step.apply(graph)
    need(_ends(graph) == before, "the inputs and outputs are others now")
    # Before what the step promises, which is looked up in the index that this checks.
    for fault in graph.faults():
        raise BrokenContractError(fault)
    step.ensures(graph)
    return count


def _ends(graph: Graph) -> list[list[tuple[str, int]]]:
    """Return names and types of inputs and of outputs, in their order."""
    return [
        [(value.name, value.type.tensor_type.elem_type) for value in values]
        for values in (graph.proto.input, graph.proto.output)
    ]
