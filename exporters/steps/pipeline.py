"""The graph steps of fp32 in their order, and how much of what could be fused was.

    `traced`      TokenSums        sums over masked tokens become products
    `fuse`        Clean            folds constants, which patterns then find as weights
                  FuseElementwise  GELU and layer normalization; needs constants as weights
                  FuseAttention    attention, whatever the family; needs constants as weights
                  Clean            removes what fusion left behind
    `specialize`  SpareBiases      fewer additions; needs fused attention; fp32 that is no INT8's reference
                  Unmask           a second way where nothing is padded; needs fused attention
                  KeepFirstToken   the last layer for one token; needs fused attention, in one way or two
                  Clean            fp32 alone

Then come INT8's steps (`exporters.int8.quantize`); fp16's conversion (`exporters.fp16.half`) comes before
`specialize`, as it looks into no branches. What a step is: `exporters.onnxgraph.step`.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

from bertonnx.errors import FusionError
from bertonnx.exporters.checkpoint.checkpoint import Checkpoint
from bertonnx.exporters.checkpoint.keys import shown
from bertonnx.exporters.onnxgraph.clean import Clean, FuseElementwise
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.onnxgraph.step import run
from bertonnx.exporters.steps.attention import FuseAttention
from bertonnx.exporters.steps.biases import Moved, SpareBiases
from bertonnx.exporters.steps.first_token import KeepFirstToken
from bertonnx.exporters.steps.heads import add_heads
from bertonnx.exporters.steps.token_sums import TokenSums
from bertonnx.exporters.steps.trace import trace
from bertonnx.exporters.steps.unmasked import Unmask
from bertonnx.models.families import Family
from bertonnx.models.families import family as family_named
from bertonnx.runtime.session.session import Feeds
from bertonnx.wording import Option

__all__ = ["Fusions", "fuse", "specialize", "traced"]

Fusions = dict[str, dict[str, int]]


def traced(checkpoint: Checkpoint) -> Graph:
    """Return the checkpoint's graph with its heads."""
    graph = Graph(trace(checkpoint))
    # Whatever is optimized: a text's bits must not depend on the batch.
    run([TokenSums()], graph)
    add_heads(graph, checkpoint)
    return graph


def fuse(graph: Graph, checkpoint: Checkpoint, sample: Feeds, *, optimize: str) -> Fusions:
    """Clean the graph up and fuse what can be fused; return what was found, and what could have been.

    Args:
        graph: with its heads, to change.
        checkpoint: what it was made from.
        sample: inputs from which shapes are read.
        optimize: one of `exporters.options.OPTIMIZE`; less than "full" fuses nothing.

    Raises:
        FusionError: attention was not found in every layer of a family that should have it.
        GraphError: a step failed.
    """
    if optimize == "none":
        return {}
    run([Clean()], graph)
    if optimize == "basic":
        return {}
    found = run([FuseElementwise(), FuseAttention(_small(sample))], graph)
    fusions = _fusions(graph, found[FuseAttention.name], checkpoint)
    run([Clean()], graph)
    return fusions


def specialize(
    graph: Graph, checkpoint: Checkpoint, sample: Feeds, *, precision: str, quantized: bool = False
) -> Moved:
    """Spare a fused graph the additions and masks that nothing needs and the tokens that no head reads.

    Args:
        graph: is changed.
        checkpoint: what it was made from.
        sample: inputs from which shapes are read.
        precision: "fp32" or "fp16".
        quantized: whether INT8 is made of the graph.

    Returns:
        name -> the biases that the graph does not hold any more as they were.

    Raises:
        GraphError: a step failed.
    """
    # INT8 has a step of its own, which asks whether rows bear it; and the account of weights that a file from
    # TensorFlow keeps has them all, bit for bit. On CUDA nothing is gained.
    spared = SpareBiases()
    if precision == "fp32" and not quantized and checkpoint.source.replica is None:
        run([spared], graph)
    run([Unmask(checkpoint.max_length), KeepFirstToken(_small(sample))], graph)
    if precision == "fp32":  # the clean-up is for this CPU, and would write its casts to float32 into fp16
        run([Clean()], graph)
    return spared.moved


def _small(sample: Feeds) -> dict[str, npt.NDArray[np.int64]]:
    """Return two short rows as if nothing were padded, enough to read shapes from.

    Their numbers differ from each other and from usual numbers of heads, so that shapes tell axes apart.
    """
    rows = 1 if next(iter(sample.values())).shape[1] == 2 else 2
    small = {name: array[:rows, :10] for name, array in sample.items()}
    return small | {"attention_mask": np.ones_like(small["attention_mask"])}


def _fusions(graph: Graph, attention: int, checkpoint: Checkpoint) -> Fusions:
    """Return what was fused of what could be, after making sure of attention.

    Raises:
        FusionError: attention was not found in every layer of a family that should have it.
    """
    counts = Counter(node.op_type for node in graph.nodes)
    gelu = counts["Gelu"] + counts["FastGelu"]
    norms = counts["LayerNormalization"]
    fusions = {
        "gelu": {"found": gelu, "expected": gelu + counts["Erf"]},
        # Spelled out, a layer normalization takes two means.
        "layer_norm": {"found": norms, "expected": norms + counts["ReduceMean"] // 2},
    }
    known = family_named(checkpoint.family)
    if known is None:
        return {"attention": {"found": attention}, **fusions}
    config = checkpoint.config
    expected = known.attention * config.num_hidden_layers * getattr(config, "inner_group_num", 1)
    if attention != expected:
        _require_fusible(known, checkpoint)
        raise FusionError(
            "attention was fused in {found} of {expected} layers of this {family} model, so it would be "
            "slow; no file was written. Export with {basic}, and please report the model",
            found=attention,
            expected=expected,
            family=checkpoint.family,
            basic=Option("optimize", "basic"),
        )
    return {"attention": {"found": attention, "expected": expected}, **fusions}


def _require_fusible(known: Family, checkpoint: Checkpoint) -> None:
    """Name the key of config.json that makes another attention of a family's own.

    Raises:
        FusionError: there is such a key.
    """
    for key, why in known.keys_unfused.items():
        if getattr(checkpoint.config, key, False):
            raise FusionError(
                "config.json has {key} {value}: {why}, which no fused operator of ONNX Runtime does, so "
                "it would be slow; no file was written. Export with {basic}, which leaves it as it is",
                key=key,
                value=shown(getattr(checkpoint.config, key)),
                why=why,
                basic=Option("optimize", "basic"),
            )
