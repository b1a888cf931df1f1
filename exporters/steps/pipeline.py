"""The graph steps in their order, and how much of what could be fused was."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from bertonnx.errors import FusionError
from bertonnx.exporters.checkpoint.checkpoint import Checkpoint
from bertonnx.exporters.onnxgraph.clean import clean, fuse_elementwise
from bertonnx.exporters.steps.attention import fuse_attention
from bertonnx.exporters.steps.first_token import keep_first_token
from bertonnx.exporters.steps.unmasked import unmask_attention
from bertonnx.exporters.verify.parity import Batch
from bertonnx.models.families import family as family_named

__all__ = ["OPTIMIZE", "Draft", "Fusions", "fuse", "specialise"]

OPTIMIZE = ("none", "basic", "full")

Fusions = dict[str, dict[str, int]]


@dataclass
class Draft:
    """The only reference to a graph: gigabytes go as soon as the next step has made its own."""

    model: onnx.ModelProto


def fuse(draft: Draft, checkpoint: Checkpoint, sample: Batch, *, optimize: str) -> Fusions:
    """Clean the graph up and fuse what can be fused; return what was found.

    Args:
        draft: the graph with its heads, to change.
        checkpoint: what it was made from.
        sample: inputs from which shapes are read.
        optimize: one of `OPTIMIZE`; less than "full" fuses nothing.

    Raises:
        FusionError: attention was not found in every layer of a family that should have it.
    """
    if optimize == "none":
        return {}
    draft.model = clean(draft.model)
    if optimize == "basic":
        return {}
    draft.model = fuse_elementwise(draft.model)
    attention = fuse_attention(draft.model, _small(sample))
    fusions = _fusions(draft.model, attention, checkpoint)
    draft.model = clean(draft.model)
    return fusions


def specialise(draft: Draft, checkpoint: Checkpoint, sample: Batch, *, precision: str) -> None:
    """Spare a fused graph the masks that nothing needs and the tokens that no head reads."""
    unmask_attention(draft.model, max_length=checkpoint.max_length)
    keep_first_token(draft.model, _small(sample))
    if precision == "fp32":  # the clean-up is for this CPU, and would write its casts to float32 into fp16
        draft.model = clean(draft.model)


def _small(batch: Batch) -> dict[str, npt.NDArray[np.int64]]:
    """Return two short rows as if nothing were padded, enough to read shapes from."""
    small = {name: array[:2, :10] for name, array in batch.feeds.items()}
    return small | {"attention_mask": np.ones_like(small["attention_mask"])}


def _fusions(model: onnx.ModelProto, attention: int, checkpoint: Checkpoint) -> Fusions:
    """Return what was fused of what could be, after making sure of attention.

    Raises:
        FusionError: attention was not found in every layer of a family that should have it.
    """
    counts = Counter(node.op_type for node in model.graph.node)
    gelu = counts["Gelu"] + counts["FastGelu"]
    norms = counts["LayerNormalization"]
    fusions = {
        "gelu": {"found": gelu, "expected": gelu + counts["Erf"]},
        # Spelled out, a layer normalisation takes two means.
        "layer_norm": {"found": norms, "expected": norms + counts["ReduceMean"] // 2},
    }
    known = family_named(checkpoint.family)
    if known is None:
        return {"attention": {"found": attention}, **fusions}
    config = checkpoint.config
    expected = known.attention * config.num_hidden_layers * getattr(config, "inner_group_num", 1)
    if attention != expected:
        raise FusionError(
            f"attention was fused in {attention} of {expected} layers of this {checkpoint.family} model, so "
            "it would be slow; no file was written. Export with --optimize basic, and please report the model"
        )
    return {"attention": {"found": attention, "expected": expected}, **fusions}
