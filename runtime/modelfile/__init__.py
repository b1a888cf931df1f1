"""Reading a model file by itself: metadata, weights, external data, without ONNX and without ONNX Runtime."""
