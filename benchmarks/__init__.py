"""Measurements of speed and memory. `python -m benchmarks [NAME ...]` runs them; docs/performance.md shows them."""
