"""Checkpoint to model.onnx: the only place that imports torch, transformers, optimum and onnx."""
