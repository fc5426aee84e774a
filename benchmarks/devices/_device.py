"""The contract of a place to run.

A device is a class named after its file whose keyword-only arguments are its options in the recipe. It runs
`benchmarks/runner.py` on one job and brings the answer back; the protocol is the runner's and therefore the same everywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Device(Protocol):
    """What every device does."""

    name: str
    """How reports call it."""

    def run(self, job: Path, *, timeout_seconds: float) -> None:
        """Run the runner on a job folder (see `benchmarks/runner.py`) and leave its results in the same folder.

        Raises:
            CompressError: The runner said what is wrong with the job.
            Unreachable: The device did not answer, ran out of memory or time, or the runner died; the message says which.
        """
