"""The two graph steps that ONNX Runtime itself brings: basic clean-up, and GELU and LayerNorm fusion.

Requires: a model that loads. Ensures: the same outputs, constants folded into weights, and every
GELU and layer normalisation that ONNX Runtime knows as one node each. Layer normalisation stays
apart from the addition before it: the fused `SkipLayerNormalization` pays on CUDA, where ONNX
Runtime makes it at load, and is several times slower on CPU.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx

from bertonnx.exporters.onnxgraph.files import load_proto, restore_weights, save_proto, without_large_weights
from bertonnx.runtime.session.bare import open_bare
from bertonnx.runtime.session.session import import_onnxruntime

__all__ = ["clean", "fuse_elementwise"]


def clean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model after ONNX Runtime's basic optimisations: folding, and removing what is unused."""
    with tempfile.TemporaryDirectory(prefix="bertonnx-") as folder:
        source, target = Path(folder) / "in.onnx", Path(folder) / "out.onnx"
        save_proto(model, source)
        open_bare(source, level="basic", optimized_to=target)
        return load_proto(target)


def fuse_elementwise(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with GELU and layer normalisation fused by ONNX Runtime's transformer optimizer.

    Its attention fusion is not used: it misses layers of most families without a word (one of two
    in ALBERT, every one in DistilBERT or MPNet), see `exporters.steps.attention`.
    """
    with _quiet():
        options = import_onnxruntime("transformers.fusion_options").FusionOptions("bert")
        options.enable_attention = False
        options.enable_embed_layer_norm = False
        options.enable_skip_layer_norm = False
        options.enable_bias_skip_layer_norm = False
        options.enable_bias_gelu = False
        options.enable_qordered_matmul = False
        # The optimizer copies the model several times over, and never looks into the weights.
        bert = import_onnxruntime("transformers.onnx_model_bert")
        optimizer = bert.BertOnnxModel(without_large_weights(model))
        optimizer.optimize(options)
        fused: onnx.ModelProto = optimizer.model
        restore_weights(fused, model)
        return fused


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
