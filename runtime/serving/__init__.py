"""`bertonnx serve`: models over HTTP, in the words of several kinds of clients. Imported by `serve` alone."""
