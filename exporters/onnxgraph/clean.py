"""The two graph steps that ONNX Runtime itself brings: basic clean-up, and GELU and LayerNorm fusion.

Both make a model anew; the graph takes it in place of its own, so that for a caller they are steps in place.
Layer normalization stays apart from the addition before it: the fused `SkipLayerNormalization` pays on CUDA,
where ONNX Runtime makes it at load, and is several times slower on CPU.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx

from bertonnx.exporters.onnxgraph.files import (
    hollow_weights,
    is_large,
    load_proto,
    save_proto,
    with_large_inputs,
    without_large_weights,
)
from bertonnx.exporters.onnxgraph.graph import Graph, branches, reads
from bertonnx.exporters.onnxgraph.step import Step, need
from bertonnx.runtime.session.bare import open_bare
from bertonnx.runtime.session.session import import_onnxruntime

__all__ = ["Clean", "FuseElementwise"]


class Clean(Step):
    """ONNX Runtime's basic optimizations: what is constant is folded, and what is unused removed.

    Requires: a graph that ONNX Runtime loads. Ensures: the same outputs; constants are weights.
    """

    name = "clean"

    def apply(self, graph: Graph) -> int:
        """Clean up; returns how many nodes are no longer there as they were."""
        before = _signatures(graph)
        # Large weights stay out of it: nothing in ONNX Runtime's basic optimizations changes one, but for
        # folding, and writing and reading them would take longer than all else.
        shell = _optimized(with_large_inputs(graph.model))
        large = {tensor.name for tensor in graph.proto.initializer if is_large(tensor)}
        if _folds(shell, large):
            graph.take(_optimized(graph.model))
        else:
            graph.adopt(shell)
        return (before - _signatures(graph)).total()

    def ensures(self, graph: Graph) -> None:
        """Constants are weights, where later steps look for them."""
        need(all(node.op_type != "Constant" for node in graph.nodes), "a constant is no weight")


class FuseElementwise(Step):
    """GELU and layer normalization fused, as ONNX Runtime's transformer optimizer knows them.

    Its attention fusion is not used: it misses layers of most families without a word (one of two
    in ALBERT, every one in DistilBERT or MPNet), see `exporters.steps.attention`.

    Requires: a clean graph. Ensures: the same outputs but for rounding; every weight has its numbers.
    """

    name = "elementwise"

    def requires(self, graph: Graph) -> None:
        """Constants are weights: the optimizer's patterns look into those alone."""
        need(all(node.op_type != "Constant" for node in graph.nodes), "a constant is no weight")

    def apply(self, graph: Graph) -> int:
        """Fuse; returns how many nodes are no longer there as they were."""
        before = _signatures(graph)
        with _quiet():
            bert = import_onnxruntime("transformers.onnx_model_bert")
            # The optimizer copies the model several times over, and never looks into the weights.
            optimizer = bert.BertOnnxModel(without_large_weights(graph.model))
            optimizer.infer_runtime_shape = _Shapes(optimizer)
            optimizer.optimize(_fusion_options())
            fused: onnx.ModelProto = optimizer.model
        graph.adopt(fused)
        graph.finish()  # the optimizer leaves nodes out of order
        return (before - _signatures(graph)).total()

    def ensures(self, graph: Graph) -> None:
        """No large weight was left without the numbers that the optimizer was not shown."""
        hollow = hollow_weights(graph.model)
        need(not hollow, f"the weights {', '.join(hollow)} have no numbers")


class _Shapes:
    """The optimizer's shapes, inferred once for as long as each value that nodes make has one.

    The optimizer infers them anew three times, though fusing changes no value that stays, and each time takes
    longer than all of its fusions.
    """

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self._infer = optimizer.infer_runtime_shape
        self._found: Any = None

    def __call__(self, axes: Mapping[str, int] | None = None, *, update: bool = False) -> Any:
        """Return what `OnnxModel.infer_runtime_shape` does, None where shapes cannot be inferred."""
        if self._found is not None and not axes:
            known = self._found.known_vi_
            if all(not name or name in known for node in self._optimizer.nodes() for name in node.output):
                return self._found
        self._found = self._infer(axes or {}, update=update)
        return self._found


def _optimized(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model as ONNX Runtime's basic optimizations leave it."""
    # ONNX Runtime gives an optimized graph away as a file only.
    with tempfile.TemporaryDirectory(prefix="bertonnx-") as folder:
        source, target = Path(folder) / "in.onnx", Path(folder) / "out.onnx"
        save_proto(model, source)
        open_bare(source, level="basic", optimized_to=target)
        return load_proto(target)


def _folds(model: onnx.ModelProto, large: set[str]) -> bool:
    """Say whether a node is left that reads nothing but weights, large ones among them."""
    weights = large | {tensor.name for tensor in model.graph.initializer}
    waiting = list(model.graph.node)
    for node in waiting:
        waiting.extend(child for branch in branches(node) for child in branch.node)
        read = set(reads(node))
        if read & large and read <= weights:
            return True
    return False


def _fusion_options() -> Any:
    options = import_onnxruntime("transformers.fusion_options").FusionOptions("bert")
    options.enable_attention = False
    options.enable_embed_layer_norm = False
    options.enable_skip_layer_norm = False
    options.enable_bias_skip_layer_norm = False
    # On CPU BiasGelu is slower than Add and Gelu apart, and others look for the Add (`onnxgraph.linear`).
    options.enable_bias_gelu = False
    options.enable_qordered_matmul = False
    return options


def _signatures(graph: Graph) -> Counter[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """Return what tells a node from others: what it does, what it reads, what it makes."""
    return Counter((node.op_type, tuple(node.input), tuple(node.output)) for node in graph.nodes)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the optimizer's log and prints, which speak of every pattern that it did not find."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
