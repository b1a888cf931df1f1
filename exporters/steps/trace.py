"""Checkpoint to graph, by Optimum."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import onnx

from bertonnx.errors import CheckpointError
from bertonnx.exporters.checkpoint.checkpoint import Checkpoint
from bertonnx.exporters.onnxgraph.files import load_proto
from bertonnx.exporters.quiet import quiet
from bertonnx.models.tasks import task as task_named

__all__ = ["OPSET", "trace"]

OPSET = 18
"""ONNX operator set: the first with LayerNormalization (17) and reductions that take axes (18)."""


def trace(checkpoint: Checkpoint) -> onnx.ModelProto:
    """Return the checkpoint's graph as Optimum exports it, all weights in memory.

    The graph's inputs are those that the checkpoint's tokenizer makes, so that a model whose
    tokenizer has no segment ids gets none, as in PyTorch.

    Raises:
        CheckpointError: Optimum or PyTorch cannot export it.
    """
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from optimum.exporters.onnx.convert import export_pytorch

        config = _export_config(checkpoint)
        with tempfile.TemporaryDirectory(prefix="bertonnx-") as folder:
            path = Path(folder) / "traced.onnx"
            try:
                export_pytorch(checkpoint.model, config, OPSET, path)
            except Exception as error:  # torch and optimum raise anything
                raise CheckpointError(
                    f"optimum cannot export this {checkpoint.family} model for {checkpoint.task}: "
                    f"{type(error).__name__}: {error}"
                ) from error
            model = load_proto(path)
    _check_outputs(model, checkpoint)
    return model


def _export_config(checkpoint: Checkpoint) -> Any:
    from optimum.exporters.tasks import TasksManager

    constructor = TasksManager.get_exporter_config_constructor(
        "onnx",
        model=checkpoint.model,
        task=checkpoint.task,
        model_type=checkpoint.family,
        library_name="transformers",
    )
    base = constructor(checkpoint.model.config)
    names = {*checkpoint.input_names, "attention_mask"}
    wanted = {name: axes for name, axes in base.inputs.items() if name in names}

    class Narrowed(type(base)):  # type: ignore[misc]  # the class is known at run time only
        inputs = property(lambda _: wanted)

    base.__class__ = Narrowed
    return base


def _check_outputs(model: onnx.ModelProto, checkpoint: Checkpoint) -> None:
    expected = task_named(checkpoint.task).raw_outputs
    names = [output.name for output in model.graph.output]
    if tuple(names[: len(expected)]) != expected:
        raise CheckpointError(
            f"the exported graph puts out {', '.join(names)}, and {checkpoint.task} needs "
            f"{', '.join(expected)}"
        )
    del model.graph.output[len(expected) :]
