"""Measurements of this repository, each a command `python -m benchmarks.studies.NAME` that writes to `benchmarks/results`."""
