"""bertonnx beside its peers; `python benchmarks/peers --help` says more."""
