"""Reading, editing, running and storing ONNX graphs."""
