"""Checkpoint to graph: Optimum's configuration, PyTorch's exporter."""

from __future__ import annotations

import functools
import inspect
import io
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
import onnx

from bertonnx.errors import CheckpointError, UnsupportedError
from bertonnx.exporters.checkpoint.checkpoint import Checkpoint
from bertonnx.exporters.checkpoint.config_tables import read_tables
from bertonnx.exporters.checkpoint.encoders import without_cache
from bertonnx.exporters.checkpoint.keys import shown
from bertonnx.exporters.onnxgraph.files import load_proto
from bertonnx.exporters.onnxgraph.probe import shapes_of
from bertonnx.exporters.quiet import quiet
from bertonnx.exporters.steps.lent import Lent
from bertonnx.models.families import family as family_named
from bertonnx.models.hidden import hidden_name
from bertonnx.models.tasks import task as task_named
from bertonnx.wording import Install, Message, said_by

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["OPSET", "trace", "traced_lengths", "without_dump"]

P = ParamSpec("P")

OPSET = 18
"""ONNX operator set: the first with LayerNormalization (17) and reductions that take axes (18)."""


def trace(checkpoint: Checkpoint) -> onnx.ModelProto:
    """Return the checkpoint's graph as PyTorch exports it, all weights in memory.

    The graph's inputs are those that the checkpoint's tokenizer makes and its model reads, so that a model
    whose tokenizer has no segment ids gets none, as in PyTorch.

    Raises:
        CheckpointError: PyTorch cannot export it.
        UnsupportedError: the graph works for one shape alone, or reads padding as text.
    """
    with quiet(), tempfile.TemporaryDirectory(prefix="bertonnx-") as folder:
        path = Path(folder) / "traced.onnx"
        try:
            # PyTorch prints the graph where it fails.
            with redirect_stdout(io.StringIO()):
                lent = _export(checkpoint, path)
        except Exception as error:  # tracing runs the model's own code, which may raise anything
            _require_running(checkpoint)
            raise CheckpointError(
                "PyTorch cannot export this {family} model for {task}: {kind}: {reason}{unusual}",
                family=checkpoint.family,
                task=checkpoint.task,
                kind=type(error).__name__,
                reason=said_by(error),
                unusual=_unusual_activations(checkpoint.config),
            ) from error
        model = lent.put_into(load_proto(path))
    _require_outputs(model, checkpoint)
    _require_mask(model, checkpoint)
    if family_named(checkpoint.family) is None:
        _require_any_shape(model, checkpoint)
    return model


def _export(checkpoint: Checkpoint, path: Path) -> Lent:
    """Write the graph, which has weights for inputs, and return these."""
    import torch

    from bertonnx.exporters.steps.export_configs import export_config

    model = checkpoint.model
    config = export_config(model, task_named(checkpoint.traced), checkpoint.input_names)
    for name, value in (config.values_override or {}).items():
        setattr(model.config, name, value)
    example = config.generate_dummy_inputs()
    axes = config.outputs
    # As of the last one, which is among the task's own outputs.
    axes |= {hidden_name(k): axes["last_hidden_state"] for k in checkpoint.hidden_states}
    lent = Lent(model)
    plain = _positional(model, tuple(example), tuple(axes), lent, hidden=bool(checkpoint.hidden_states))
    with plain, traced_lengths(), without_dump(), torch.no_grad():
        torch.onnx.export(
            model,
            (*example.values(), *lent.tensors),
            str(path),
            input_names=[*example, *lent.inputs],
            output_names=list(axes),
            dynamic_axes={**config.inputs, **axes},
            opset_version=OPSET,
            # The other exporter writes operators that the graph steps do not know, and takes longer.
            dynamo=False,
        )
    return lent


def _unusual_activations(config: PretrainedConfig) -> Message | str:
    """Return the activations that are not the usual ones, which may be why a model cannot be exported."""
    usual = type(config)().to_dict()
    named = [
        f"{key} {shown(value)}"
        for key, value in config.to_dict().items()
        if "act" in key and isinstance(value, str) and value != usual.get(key, value)
    ]
    return Message("; config.json has {keys}, which may be why", keys=", ".join(named)) if named else ""


@contextmanager
def _positional(
    model: PreTrainedModel, inputs: Sequence[str], outputs: Sequence[str], lent: Lent, *, hidden: bool
) -> Iterator[None]:
    """Let the model take and give plain tensors in a known order, which is all that a trace understands.

    After those of the inputs it takes its matrices.
    """
    own: Any = model.forward
    # XLM and FlauBERT fill a cache unasked, and tracing one in its first, empty state costs copies.
    others = without_cache(model)
    if hidden:
        others = {**others, "output_hidden_states": True}

    def forward(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        count = len(inputs)
        with lent.read_from(tensors[count:]):
            result = own(**dict(zip(inputs, tensors[:count], strict=True)), **others)
        named = {hidden_name(k): value for k, value in enumerate(result.get("hidden_states") or ())}
        return tuple(named[name] if name in named else result[name] for name in outputs)

    # ModernBERT's code goes through a set of names, in an order that is another in each process.
    module = vars(sys.modules[type(model).__module__])
    # An attribute of this object: taken away again, the class's own method is back.
    model.forward, module["set"] = forward, _SortedSet
    try:
        yield
    finally:
        del model.forward, module["set"]


@contextmanager
def traced_lengths() -> Iterator[None]:
    """Let transformers up to 5.5 make a mask of a length that is traced.

    A tensor in its place is taken for the positions that were asked for there before, and a traced length is
    a tensor. So it is given as positions, whose number is the length.
    """
    import transformers
    from transformers import masking_utils

    module = vars(masking_utils)
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    own = module.get("sdpa_mask")
    if own is None or version >= (5, 6) or "q_length" not in inspect.signature(own).parameters:
        yield
        return
    module["sdpa_mask"] = _with_positions(own)
    try:
        yield
    finally:
        module["sdpa_mask"] = own


def _with_positions(own: Callable[P, Any]) -> Callable[P, Any]:
    import torch

    @functools.wraps(own)
    def sdpa_mask(*args: P.args, **kwargs: P.kwargs) -> Any:
        length: Any = kwargs.get("q_length")
        if hasattr(length, "dim") and not length.dim():
            kwargs["q_length"] = torch.arange(length)
        return own(*args, **kwargs)

    return sdpa_mask


@contextmanager
def without_dump() -> Iterator[None]:
    """Keep torch from printing all of a graph on standard output where it cannot export one."""
    import torch

    log = getattr(torch._C, "_jit_onnx_log", None)
    if log is None:  # this torch prints none
        yield
        return
    torch._C._jit_onnx_log = lambda *_: None
    try:
        yield
    finally:
        torch._C._jit_onnx_log = log


class _SortedSet(set[Any]):
    """A set that is gone through in order, so that the same checkpoint makes the same graph."""

    def __iter__(self) -> Iterator[Any]:
        return iter(sorted(super().__iter__(), key=str))


def _require_running(checkpoint: Checkpoint) -> None:
    """Refuse a model that the installed transformers cannot run itself, whoever asks it."""
    import torch
    import transformers

    ids = torch.full((2, 5), int(checkpoint.pad_token_id) + 1)
    others = without_cache(checkpoint.model)
    installed = transformers.__version__
    known = read_tables().versions
    try:
        with torch.no_grad():
            checkpoint.model(input_ids=ids, attention_mask=torch.ones_like(ids), **others)
    except Exception as error:  # the model's own code may raise anything
        raise CheckpointError(
            "transformers {version} cannot run this {family} model itself ({kind}: {reason}); either "
            "config.json is wrong, or another version can: {install}",
            version=installed,
            family=checkpoint.family,
            kind=type(error).__name__,
            reason=said_by(error),
            install=Install(
                "export", packages=tuple(f"transformers=={each}" for each in known if each[0] != installed[0])
            ),
        ) from error


def _require_outputs(model: onnx.ModelProto, checkpoint: Checkpoint) -> None:
    expected = task_named(checkpoint.traced).raw_outputs
    expected += tuple(map(hidden_name, checkpoint.hidden_states))
    names = tuple(output.name for output in model.graph.output)
    if names != expected:
        raise CheckpointError(
            "the exported graph puts out {names}, and {task} needs {expected}",
            names=", ".join(names),
            task=checkpoint.task,
            expected=", ".join(expected),
        )


def _require_mask(model: onnx.ModelProto, checkpoint: Checkpoint) -> None:
    """Refuse a graph that PyTorch found no use of the mask in, whatever `forward` takes."""
    if "attention_mask" not in [value.name for value in model.graph.input]:
        raise UnsupportedError(
            "this {family} model reads no attention_mask, so that padding would change its answers",
            family=checkpoint.family,
        )


def _require_any_shape(model: onnx.ModelProto, checkpoint: Checkpoint) -> None:
    """Refuse a graph that took the example's shape for constant; families of the table have their tests."""
    ids = np.ones((3, 7), dtype=np.int64)
    feeds = {"input_ids": ids, "attention_mask": ids, "token_type_ids": np.zeros_like(ids)}
    try:
        shapes_of(model, feeds, [output.name for output in model.graph.output])
    except Exception as error:  # ONNX Runtime has a class of its own for every failure
        raise UnsupportedError(
            "this {family} model cannot be exported: its code takes the shape of one example for that of all "
            "({reason})",
            family=checkpoint.family,
            reason=said_by(error),
        ) from error
