"""The one seam to ONNX Runtime: opening and running a model on each provider, and what the machine offers."""
