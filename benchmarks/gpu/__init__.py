"""The whole GPU measurement in one sitting; `python benchmarks/gpu --help` says more."""
