"""Peak memory of one of our training steps, in a process of its own.

    python -m benchmarks.studies.training_speed.memory FOLDER SUBJECT DEVICE

The folder is a workshop's, whose store is complete, so that nobody runs the teacher to fill it. Prints one JSON object.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import click

from benchmarks.machine import read, read_memory_bytes
from compress.errors import CompressError

STEPS = 4
"""The peak is reached in the second step, when momentum exists."""


class Peak(NamedTuple):
    """Of the process that trained, Python and torch included."""

    peak_bytes: int | None
    """Most resident memory at any time; None where the system does not show it."""
    mapped_bytes: int
    """Resident pages of the store's files at the end, which the system takes back when it needs them."""


def measure_peak(folder: Path, subject: str, device: str) -> Peak:
    """Return the peak of a fresh process that does some steps of a subject.

    Raises:
        CompressError: It failed, or computed outputs of the teacher that the store should have had.
    """
    command = [sys.executable, "-m", "benchmarks.studies.training_speed.memory", str(folder), subject, device]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    if done.returncode != 0:
        said = " / ".join(done.stderr.strip().splitlines()[-1:])
        raise CompressError(f"memory of {subject}: its process ended with status {done.returncode}: {said}")
    return Peak(**json.loads(done.stdout))


def count_mapped_bytes(folder: Path) -> int:
    """Return the resident bytes of this process's mappings of files in a folder; 0 where there is no /proc."""
    total, ours, place = 0, False, f"{folder.resolve()}/"
    for line in read("/proc/self/smaps").splitlines():
        name, _, rest = line.partition(" ")
        if not name.endswith(":"):
            ours = place in rest and not rest.endswith("(deleted)")  # which is of weights that were paged out
        elif ours and name == "Rss:":
            total += int(rest.split()[0]) * 1024
    return total


def _print_peak(folder: Path, name: str, device: str) -> None:
    import torch

    from benchmarks.studies.training_speed.ours import Workshop

    workshop = Workshop(folder, torch.device(device))
    before = workshop.measure_store_bytes()
    subject = workshop.make_subject(name)
    if workshop.measure_store_bytes() != before:
        raise CompressError(f"{name}: the store lacked outputs; time this subject before its memory is measured")
    steps = subject.steps()
    for _ in range(STEPS):
        next(steps)
    click.echo(json.dumps({"peak_bytes": read_memory_bytes("VmHWM"), "mapped_bytes": count_mapped_bytes(folder / "targets")}))


if __name__ == "__main__":
    _print_peak(Path(sys.argv[1]), *sys.argv[2:4])
