"""Tests of the examples in docs/vectors.md with FAISS and DuckDB."""
