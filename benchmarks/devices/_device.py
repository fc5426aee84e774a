"""The contracts of a place to run, and of one that keeps things of ours.

A device is a class named after its file whose keyword-only arguments are its options in the recipe. It runs the job folder's
own `runner.py` on that folder (see `benchmarks/runner.py`) and brings the results back; the protocol is the runner's and
therefore the same everywhere. One that is named by an address, such as `ssh://pi@pi4`, takes it as its option `at`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Progress = Callable[[int, int, str], None]
"""Told as the job goes on: steps done, steps in all, and the name of the subject that is running."""
Say = Callable[[str], None]
"""Told a line for people."""


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


@dataclass(frozen=True)
class BoardJob:
    """A job that runs or lies on a board."""

    id: str
    state: str
    """`running`, `finished`, or what ended it otherwise."""
    host: str
    """Who started it, as it called itself."""
    since: str
    """When, in UTC."""
    size_bytes: int


class Board(Device, Protocol):
    """A device that keeps things of ours, which `compress device` makes, shows and removes; each verb is optional."""

    def prepare(self, say: Say) -> None:
        """Make everything there that jobs need, and prove it; what is there already is left as it is.

        Raises:
            Unreachable: The device cannot be reached, or what it needs does not exist for it.
        """

    def describe(self) -> dict[str, str]:
        """Return what is known of the device, by what people call it; what cannot be read is `unavailable`.

        Raises:
            Unreachable: The device cannot be reached.
        """

    def list_jobs(self) -> list[BoardJob]:
        """Return what still runs or lies there.

        Raises:
            Unreachable: The device cannot be reached.
        """

    def stop_job(self, known: str) -> None:
        """End a job there, whoever started it, and remove it.

        Raises:
            CompressError: There is no such job.
            Unreachable: The device cannot be reached.
        """

    def clean(self, *, everything: bool) -> list[str]:
        """Remove jobs and files that were sent there, or with them all that is ours; return what was removed.

        Raises:
            Unreachable: The device cannot be reached.
        """


STABLE = ("address", "model", "processor", "system", "python", "packages", "missing", "state", "runtime")
"""How the names of those facts of a device begin that stay as they are while it is the same."""


def is_emulated(device: Device) -> bool:
    """Return whether a device is emulated on this machine, so that times there mean nothing."""
    return bool(getattr(device, "emulated", False))


def list_stable_facts(device: Device) -> dict[str, str]:
    """Return what a device says of itself, as far as it stays as it is; nothing where it says nothing.

    Raises:
        Unreachable: The device cannot be reached.
    """
    describe = getattr(device, "describe", None)
    known = {} if describe is None else describe()
    return {name: text for name, text in known.items() if name.lower().startswith(STABLE)}


class Detached(Exception):
    """A job was started and left alone, as was asked for."""

    def __init__(self, job: str, device: str) -> None:
        super().__init__(f"{device}: job {job} runs there")
        self.job, self.device = job, device
