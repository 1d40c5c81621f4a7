"""Benchmarks and studies; run from a checkout, not installed."""
