"""The contract of a place to run.

A device is a class named after its file whose keyword-only arguments are its options in the recipe. It runs the job folder's
own `runner.py` on that folder (see `benchmarks/runner.py`) and brings the results back; the protocol is the runner's and
therefore the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

Progress = Callable[[int, int, str], None]
"""Told as the job goes on: steps done, steps in all, and the name of the subject that is running."""


class Device(Protocol):
    """A place where job folders are run."""

    name: str
    """How reports call it."""

    def run(self, job: Path, *, timeout_seconds: float, progress: Progress) -> None:
        """Run `job/runner.py` with `job` as its argument and leave its results in `job`.

        Raises:
            CompressError: The runner reported what is wrong with the job.
            Unreachable: The device did not answer, ran out of memory or time, or the runner died; the message says which.
        """
