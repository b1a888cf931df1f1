"""Measuring latency and throughput, and reporting them."""
