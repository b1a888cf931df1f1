"""From the outputs of the graph to results: one decoder for each task, pure NumPy."""
