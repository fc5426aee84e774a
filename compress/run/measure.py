"""Timing all files of a run together, in interleaved rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import exporters
from benchmarks.environment import read_environment
from benchmarks.protocol import Measurement, compute_ratio, measure
from compress import records
from compress.errors import CompressError
from compress.fingerprint import hash_sources, make_key
from compress.preprocess import normalise
from compress.records import Document, Environment, Latency, Ratio, Variant
from compress.run import cache
from compress.run.context import Run
from compress.run.export import ExportedFile
from compress.run.verify import HARNESS, make_subject
from compress.system.files import sha256_of

TIMING = "timing.json"


class RunTiming(Document):
    """What was measured, by the variant's name."""

    latency_ms: dict[str, Latency]
    ratio: dict[str, Ratio]
    throughput_per_s: dict[str, float]
    seconds: float
    environment: Environment
    """The machine when it was measured."""


class MeasuredFiles(NamedTuple):
    """All files with what was measured."""

    variants: Mapping[str, Variant]
    seconds: float = 0.0
    """How long measuring took when it was done."""
    environment: Environment | None = None
    """The machine when it was measured."""
    problem: CompressError | None = None
    """Why nothing could be timed."""


def measure_files(run: Run, delivered: Sequence[ExportedFile]) -> MeasuredFiles:
    """Return the rows of all files that run, with latency, throughput, and their ratio to the reference of their runtime.

    A file is compared as `measure.against` says. What could not be timed is tried again next time.
    """
    runnable = [item for item in delivered if item.variant.accuracy is not None]
    settings = run.recipe.measure
    machine = read_environment()
    key = make_key(
        files=[[item.variant.name, sha256_of(item.path)] for item in runnable],
        measure=settings.model_dump(mode="json", exclude={"devices"}), packages=machine.packages, cpu=machine.cpu,
        source=hash_sources(*HARNESS),
    )  # fmt: skip

    def make(folder: Path) -> None:
        records.save(folder / TIMING, _measure(run, runnable, folder))

    rows = {item.variant.name: item.variant for item in delivered}
    if not runnable:
        return MeasuredFiles(rows)
    try:
        made = run.cache.make(key, make)
    except CompressError as error:
        return MeasuredFiles(rows, problem=error)
    cache.publish(made, run.folder / "measurements")
    timing = records.read(made / TIMING, RunTiming)
    for field in ("latency_ms", "ratio", "throughput_per_s"):
        for name, value in getattr(timing, field).items():
            rows[name] = rows[name].model_copy(update={field: value})
    return MeasuredFiles(rows, timing.seconds, timing.environment)


def _measure(run: Run, delivered: Sequence[ExportedFile], folder: Path) -> RunTiming:
    """Time all files; the raw series of every call are left in the folder."""
    settings, begun = run.recipe.measure, monotonic()
    single = _run_rounds(run, delivered, settings.batch_size, folder / "latency-raw.json")
    bulk = _run_rounds(run, delivered, settings.throughput_batch_size, folder / "throughput-raw.json")
    latency = {name: found.latency for name, found in single.items()}
    pairs = {item.variant.name: _find_reference(item, delivered, settings.against) for item in delivered}
    ratios = {
        name: compute_ratio(other, latency[other], latency[name])
        for name, other in pairs.items()
        if name in latency and other is not None and other in latency
    }
    throughput = {name: found.throughput_per_s for name, found in bulk.items()}
    return RunTiming(
        latency_ms=latency,
        ratio=ratios,
        throughput_per_s=throughput,
        seconds=monotonic() - begun,
        environment=read_environment(),
    )


def _run_rounds(run: Run, delivered: Sequence[ExportedFile], batch_size: int, raw: Path) -> dict[str, Measurement]:
    """Time all files that take this many images in a call."""
    settings = run.recipe.measure
    subjects = [make_subject(item.variant.name, item.path, exporters.load(item.section)) for item in delivered]
    fitting = [each for each in subjects if each.batch_size in (None, batch_size)]
    pixels = run.data.validation.images[:256]
    return measure(
        fitting, normalise(pixels, run.data.preprocess), pixels=pixels, against=None, threads=settings.threads,
        batch_size=batch_size, rounds=settings.rounds, seconds=settings.seconds, events=run.events, raw=raw,
    ) if fitting else {}  # fmt: skip


def _find_reference(item: ExportedFile, delivered: Sequence[ExportedFile], network: str) -> str | None:
    """Return the name of the file that this one is compared with: the first teacher's alike, or the student's in float32."""
    precision = item.variant.precision if network == "teacher" else "fp32"
    like = [
        other
        for other in delivered
        if other.variant.network.startswith(network)
        and (other.variant.format, other.variant.precision) == (item.variant.format, precision)
    ]
    return like[0].variant.name if like and like[0] is not item else None
