"""Checkpoint to graph: Optimum's configuration, PyTorch's exporter."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from bertonnx.errors import CheckpointError
from bertonnx.exporters.checkpoint.checkpoint import Checkpoint
from bertonnx.exporters.onnxgraph.files import load_proto
from bertonnx.exporters.quiet import quiet
from bertonnx.models.tasks import task as task_named

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

__all__ = ["OPSET", "trace"]

OPSET = 18
"""ONNX operator set: the first with LayerNormalization (17) and reductions that take axes (18)."""


def trace(checkpoint: Checkpoint) -> onnx.ModelProto:
    """Return the checkpoint's graph as PyTorch exports it, all weights in memory.

    The graph's inputs are those that the checkpoint's tokenizer makes and its model reads, so that a model
    whose tokenizer has no segment ids gets none, as in PyTorch.

    Raises:
        CheckpointError: PyTorch cannot export it.
    """
    with quiet(), tempfile.TemporaryDirectory(prefix="bertonnx-") as folder:
        path = Path(folder) / "traced.onnx"
        try:
            _export(checkpoint, path)
        except Exception as error:  # tracing runs the model's own code, which may raise anything
            raise CheckpointError(
                "PyTorch cannot export this {family} model for {task}: {kind}: {reason}",
                family=checkpoint.family,
                task=checkpoint.task,
                kind=type(error).__name__,
                reason=str(error),
            ) from error
        model = load_proto(path)
    _check_outputs(model, checkpoint)
    return model


def _export(checkpoint: Checkpoint, path: Path) -> None:
    import torch

    from bertonnx.exporters.steps.export_configs import export_config

    model = checkpoint.model
    config = export_config(model, task_named(checkpoint.task), checkpoint.input_names)
    for name, value in (config.values_override or {}).items():
        setattr(model.config, name, value)
    example = config.generate_dummy_inputs()
    with _positional(model, tuple(example), tuple(config.outputs)), torch.no_grad():
        torch.onnx.export(
            model,
            tuple(example.values()),
            str(path),
            input_names=list(example),
            output_names=list(config.outputs),
            dynamic_axes={**config.inputs, **config.outputs},
            opset_version=OPSET,
            # The other exporter writes operators that the graph steps do not know, and takes longer.
            dynamo=False,
        )


@contextmanager
def _positional(model: PreTrainedModel, inputs: Sequence[str], outputs: Sequence[str]) -> Iterator[None]:
    """Let the model take and give plain tensors in a known order, which is all that a trace understands."""
    own: Any = model.forward
    taken = inspect.signature(own).parameters
    # XLM and FlauBERT fill a cache unasked, and tracing one in its first, empty state costs copies.
    others = {"cache": _NoCache()} if "cache" in taken and "use_cache" not in taken else {}

    def forward(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = own(**dict(zip(inputs, tensors, strict=True)), **others)
        return tuple(result[name] for name in outputs)

    # An attribute of this object: taken away again, the class's own method is back.
    model.forward = forward
    try:
        yield
    finally:
        del model.forward


class _NoCache:
    """A cache of keys and values that keeps nothing."""

    def get_seq_length(self) -> int:
        """Return how many tokens it holds."""
        return 0

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, *_: Any, kwargs: Any = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values as they are."""
        del kwargs
        return keys, values


def _check_outputs(model: onnx.ModelProto, checkpoint: Checkpoint) -> None:
    expected = task_named(checkpoint.task).raw_outputs
    names = tuple(output.name for output in model.graph.output)
    if names != expected:
        raise CheckpointError(
            "the exported graph puts out {names}, and {task} needs {expected}",
            names=", ".join(names),
            task=checkpoint.task,
            expected=", ".join(expected),
        )
