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
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from bertonnx.exporters.onnxgraph.files import load_proto, restore_weights, save_proto, without_large_weights
from bertonnx.runtime.session.session import import_onnxruntime

__all__ = ["clean", "float_values", "fuse_elementwise", "run_graph"]


def clean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model after ONNX Runtime's basic optimisations: folding, and removing what is unused."""
    ort = import_onnxruntime()
    with tempfile.TemporaryDirectory(prefix="bertonnx-") as folder:
        source, target = Path(folder) / "in.onnx", Path(folder) / "out.onnx"
        save_proto(model, source)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(target)
        options.log_severity_level = 3
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{target.name}.data"
        )
        ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        return load_proto(target)


def fuse_elementwise(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with GELU and layer normalisation fused by ONNX Runtime's transformer optimizer.

    Its attention fusion is not used: it misses layers of most families without a word (one of two
    in ALBERT, every one in DistilBERT or MPNet), see `exporters.steps.attention`.
    """
    import_onnxruntime()
    with _quiet():
        from onnxruntime.transformers.fusion_options import FusionOptions
        from onnxruntime.transformers.onnx_model_bert import BertOnnxModel

        options = FusionOptions("bert")
        options.enable_attention = False
        options.enable_embed_layer_norm = False
        options.enable_skip_layer_norm = False
        options.enable_bias_skip_layer_norm = False
        options.enable_bias_gelu = False
        options.enable_qordered_matmul = False
        # The optimizer copies the model several times over, and never looks into the weights.
        optimizer = BertOnnxModel(without_large_weights(model))
        optimizer.optimize(options)
        fused: onnx.ModelProto = optimizer.model
        restore_weights(fused, model)
        return fused


def run_graph(
    model: onnx.ModelProto, feeds: dict[str, npt.NDArray[np.int64]], values: list[str]
) -> dict[str, npt.NDArray[Any]]:
    """Run a model on the CPU, as it is, and return the named values, whether outputs or inside."""
    ort = import_onnxruntime()
    with tempfile.TemporaryDirectory(prefix="bertonnx-") as folder:
        path = Path(folder) / "probe.onnx"
        with _outputs(model, values):
            save_proto(model, path)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        inputs = {item.name for item in session.get_inputs()}
        names = [item.name for item in session.get_outputs()]
        results = session.run(names, {key: value for key, value in feeds.items() if key in inputs})
    return dict(zip(names, results, strict=True))


def float_values(model: onnx.ModelProto) -> list[str]:
    """Return the names of the float32 values inside the graph, its outputs aside."""
    ort = import_onnxruntime()
    ends = {output.name for output in model.graph.output}
    values = [value for node in model.graph.node for value in node.output if value]
    with tempfile.TemporaryDirectory(prefix="bertonnx-") as folder:
        path = Path(folder) / "probe.onnx"
        with _outputs(model, values):
            save_proto(model, path)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    floats = [item.name for item in session.get_outputs() if item.type == "tensor(float)"]
    return [name for name in floats if name not in ends]


@contextlib.contextmanager
def _outputs(model: onnx.ModelProto, values: list[str]) -> Iterator[None]:
    """Lend the model other outputs; a copy of the model would take gigabytes."""
    before = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in model.graph.output]
    try:
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=value) for value in dict.fromkeys(values))
        yield
    finally:
        del model.graph.output[:]
        model.graph.output.extend(before)


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
