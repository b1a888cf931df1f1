"""The fp16 step, and its gate."""
