"""The INT8 step: calibration, smoothing, rounding, and the nodes that it puts in."""
