"""INT8 beside what else there is; `python benchmarks/quantization --help` says more."""
