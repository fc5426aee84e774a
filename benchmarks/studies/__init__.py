"""Measurements of this repository, each a command `python -m benchmarks.studies.NAME` that writes to `benchmarks/results`."""

import os

# Before any study or the runtime of another imports it, in this process and in those that it starts: as in whatever we ship.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
