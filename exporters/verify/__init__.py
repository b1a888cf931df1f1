"""Is the result right? Against PyTorch (`parity`), and of smaller numbers against fp32 (`gate`)."""
