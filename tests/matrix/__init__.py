"""Checkpoints of every kind, saved by one version of their library and read under another."""
