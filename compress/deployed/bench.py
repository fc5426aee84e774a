"""Measure files against each other in interleaved rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compress import plugins
from compress.deployed.files import choose_inputs, find_subjects
from compress.errors import CompressError, Unstable
from compress.records import Latency, Ratio, Record

if TYPE_CHECKING:
    from compress.events import Events


class FileTiming(Record):
    """Figures of one measured file."""

    path: str
    runtime: str
    latency_ms: Latency
    ratio: Ratio | None = None
    throughput_per_s: float
    effective: dict[str, str]
    """What really ran, as the runtime reports it."""


def measure_files(
    paths: Sequence[Path],
    *,
    against: str | None = None,
    device: str = "local",
    threads: int = 1,
    batch_size: int = 1,
    rounds: int = 15,
    seconds: float = 12.0,
    shape: str | None = None,
    events: Events,
) -> dict[str, FileTiming]:
    """Measure files against each other in interleaved rounds.

    Args:
        paths: Files, bundles or runs; a bundle or run stands for all its files.
        against: Name of the file that the others are compared with; default the first.
        device: Where to measure.
        threads: Threads of the runtime.
        batch_size: Images per call.
        rounds: Interleaved rounds.
        seconds: Time for all files together.
        shape: `channels,height,width` of a file that is in no bundle.
        events: Where progress is reported.

    Raises:
        CompressError: A file is not what it is said to be, or the files take images of different shapes.
        Unreachable: A file, runtime or device is not there.
    """
    from benchmarks import protocol

    subjects, shown = find_subjects(paths), choose_inputs(paths, shape)
    names = [subject.name for subject in subjects]
    if against is not None and against not in names:
        raise CompressError(f"--against {against}: is not measured; {plugins.suggest_name(against, names)}")
    measured = protocol.measure(
        subjects,
        shown.images,
        pixels=shown.pixels,
        against=against or names[0],
        threads=threads,
        batch_size=batch_size,
        rounds=rounds,
        seconds=seconds,
        device=plugins.load("devices", device)(),
        events=events,
    )
    return {
        subject.name: FileTiming(
            path=str(subject.path),
            runtime=subject.runtime,
            latency_ms=measured[subject.name].latency,
            ratio=measured[subject.name].ratio,
            throughput_per_s=measured[subject.name].throughput_per_s,
            effective=measured[subject.name].effective,
        )
        for subject in subjects
    }


def refuse_unstable(measured: Mapping[str, FileTiming]) -> None:
    """Raise if a measurement never settled.

    Raises:
        Unstable: The message names each file.
    """
    shaky = [name for name, timing in measured.items() if not timing.latency_ms.stable]
    if shaky:
        raise Unstable(f"{', '.join(shaky)}: the rounds disagree; stop what else runs on this machine, or give more --seconds")
