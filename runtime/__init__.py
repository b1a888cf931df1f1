"""Text to prediction: numpy, tokenizers and ONNX Runtime, and nothing else."""
