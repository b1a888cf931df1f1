"""The graph steps of an export, in the order of `pipeline`."""
