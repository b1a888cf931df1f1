"""Rows of any number of callers to batches and back: the queue that all callers share."""
