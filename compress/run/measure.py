"""Time all files of a run together, in interleaved rounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from pydantic import Field

import exporters
from benchmarks.devices import Device
from benchmarks.energy import measure_energy
from benchmarks.environment import read_environment
from benchmarks.protocol import Inputs, Measurement, Subject, compute_ratio, measure
from compress import records
from compress.errors import CompressError, Interrupted, Unwritable
from compress.fingerprint import hash_sources, make_key
from compress.quantization.ladder import describe_ladder
from compress.records import Document, Energy, Environment, Ladder, Latency, Ratio, Variant
from compress.run import cache
from compress.run.context import Run
from compress.run.export import ExportedFile
from compress.run.int8 import set_speedups, time_candidates
from compress.run.verify import HARNESS, make_subject
from compress.system.files import hash_file
from exporters import Exporter

TIMING, MEASUREMENTS = "timing.json", "measurements"


class RunTiming(Document):
    """Record of what was measured, by the variant's name."""

    latency_ms: dict[str, Latency]
    ratio: dict[str, Ratio]
    throughput_per_s: dict[str, float]
    energy: dict[str, Energy] = Field(default_factory=dict)
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

    def take_verdicts(self, files: Sequence[ExportedFile]) -> MeasuredFiles:
        """Return the same rows with the verdicts of files that were held to more since."""
        rows = dict(self.variants)
        for item in files:
            verdict = {"status": item.variant.status, "reason": item.variant.reason}
            rows[item.variant.name] = rows[item.variant.name].model_copy(update=verdict)
        return self._replace(variants=rows)


def measure_files(run: Run, files: Sequence[ExportedFile], *, shown: str = MEASUREMENTS) -> MeasuredFiles:
    """Return the rows of all files that run, with latency, throughput, and their ratio to the reference of their runtime.

    A file is compared as `measure.against` says. What could not be timed is tried again next time.

    Args:
        run: Run context.
        files: Of all networks.
        shown: Name of the folder of the run that shows the raw series.
    """
    runnable = [item for item in files if item.variant.accuracy is not None]
    settings = run.recipe.measure
    machine = read_environment()
    key = make_key(
        files=[[item.variant.name, hash_file(item.path)] for item in runnable],
        measure=settings.model_dump(mode="json", exclude={"devices"}), packages=machine.packages, cpu=machine.cpu,
        source=hash_sources(*HARNESS),
    )  # fmt: skip

    def make(folder: Path) -> None:
        records.save(folder / TIMING, time_files(run, runnable, folder))

    rows = {item.variant.name: item.variant for item in files}
    if not runnable:
        return MeasuredFiles(rows)
    try:
        made = run.cache.make(key, "measurements", make)
    except (Interrupted, Unwritable):
        raise
    except CompressError as error:
        report_ladders(run, rows.values())
        return MeasuredFiles(rows, problem=error)
    cache.publish(made, run.folder / shown)
    timing = records.read(made / TIMING, RunTiming)
    for field in ("latency_ms", "ratio", "throughput_per_s", "energy"):
        for name, value in getattr(timing, field).items():
            rows[name] = rows[name].model_copy(update={field: value})
    latencies = {
        _hash_file(item): timing.latency_ms[item.variant.name] for item in runnable if item.variant.name in timing.latency_ms
    }
    for item in files:
        rows[item.variant.name] = add_speedups(run, item, rows[item.variant.name], latencies)
    report_ladders(run, rows.values())
    return MeasuredFiles(rows, timing.seconds, timing.environment)


def add_speedups(run: Run, item: ExportedFile, row: Variant, latencies: Mapping[str, Latency]) -> Variant:
    """Return the row of a file with the speed of its int8 candidates, against the same network in float32.

    Args:
        run: Run context.
        item: The file.
        row: Its row.
        latencies: Of files that were timed in the same rounds, by the sha256 of all that belongs to them; what is among them is
            not timed again.

    Raises:
        CompressError: A file does not fit its runtime.
        Unreachable: A runtime is not there, or crashed.
    """
    if row.ladder is None:
        return row
    ladder = row.ladder if item.float32 is None else _time_ladder(run, item, row.ladder, item.float32, latencies)
    return row.model_copy(update={"ladder": ladder})


def _time_ladder(run: Run, item: ExportedFile, ladder: Ladder, float32: Path, latencies: Mapping[str, Latency]) -> Ladder:
    """Return the ladder with the speed of its candidates: from the rounds where all were timed in them, else timed now."""
    exporter, row = exporters.load(item.section), item.variant
    reference = make_subject(f"{row.network}-{row.format}-fp32", float32, exporter)
    candidates = {
        number: make_subject(f"{row.name}, rung {number}", path, exporter) for number, path in item.candidates.items()
    }
    subjects = (reference, *candidates.values())
    timed = [found for each in subjects if (found := latencies.get(_hash_parts(exporter, each.path)))]
    if len(timed) < len(subjects):
        return time_candidates(run, row.name, ladder, reference, candidates, source=hash_sources(*HARNESS))
    first, *others = timed
    return set_speedups(
        ladder, {number: compute_ratio(reference.name, first, each) for number, each in zip(candidates, others, strict=True)}
    )


def report_ladders(run: Run, rows: Iterable[Variant]) -> None:
    """Tell people and programs how the search for each int8 file went."""
    for row in rows:
        if row.ladder is None:
            continue
        for line in describe_ladder(row.name, row.ladder):
            run.events.say(line)
        run.events.emit("ladder", file=row.name, **row.ladder.model_dump())


def _hash_file(item: ExportedFile) -> str:
    return _hash_parts(exporters.load(item.section), item.path)


def _hash_parts(exporter: Exporter, path: Path) -> str:
    """Return the sha256 over all that belongs to a file, whatever its parts are called."""
    return make_key(parts=[hash_file(part) for part in exporter.list_parts(path)])


def time_files(run: Run, files: Sequence[ExportedFile], folder: Path, *, device: Device | None = None) -> RunTiming:
    """Time all files; the raw series of every call are left in the folder.

    Args:
        run: Run context.
        files: Their names differ.
        folder: For the raw series.
        device: Where; default: here.

    Raises:
        CompressError: A file does not fit its runtime.
        Unreachable: A runtime or the device is not there.
        Unstable: The rounds scatter so much that they mean nothing.
    """
    settings, begun = run.recipe.measure, monotonic()
    launches, bulk_raw = min(settings.launches, settings.rounds), folder / "throughput-raw.json"
    single = _run_rounds(run, files, settings.batch_size, folder / "latency-raw.json", launches=launches, device=device)
    bulk = _run_rounds(run, files, settings.throughput_batch_size, bulk_raw, launches=1, device=device)
    latency = {name: found.latency for name, found in single.items()}
    pairs = {item.variant.name: _find_reference(item, files, run.recipe.opponent) for item in files}
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
        energy=_measure_energy(run, files, device) if settings.energy else {},
        seconds=monotonic() - begun,
        environment=next(iter(single.values())).machine if single else read_environment(),
    )


def _run_rounds(
    run: Run, files: Sequence[ExportedFile], batch_size: int, raw: Path, *, launches: int, device: Device | None
) -> dict[str, Measurement]:
    """Time all files that take this many images in a call."""
    settings, fitting = run.recipe.measure, _choose_fitting(files, batch_size)
    return measure(
        fitting, _choose_inputs(run), against=None, threads=settings.threads,
        batch_size=batch_size, rounds=settings.rounds, seconds=settings.seconds, launches=launches, device=device,
        events=run.events if device is None else None, raw=raw,
    ) if fitting else {}  # fmt: skip


def _choose_fitting(files: Sequence[ExportedFile], batch_size: int) -> list[Subject]:
    """Return the files that take so many images in a call."""
    subjects = [make_subject(item.variant.name, item.path, exporters.load(item.section)) for item in files]
    return [each for each in subjects if each.batch_size in (None, batch_size)]


def _choose_inputs(run: Run) -> Inputs:
    return Inputs.from_pixels(run.data.validation.images[:256], run.data.preprocess)


def _measure_energy(run: Run, files: Sequence[ExportedFile], device: Device | None) -> dict[str, Energy]:
    """Return the energy of a call of all files that take batches of latency, or why there is none."""
    settings, fitting = run.recipe.measure, _choose_fitting(files, run.recipe.measure.batch_size)
    return measure_energy(
        fitting, _choose_inputs(run), threads=settings.threads, batch_size=settings.batch_size, device=device,
        meter=settings.meter,
        events=run.events if device is None else None,
    ) if fitting else {}  # fmt: skip


def _find_reference(item: ExportedFile, files: Sequence[ExportedFile], network: str) -> str | None:
    """Return the name of the file that this one is compared with: the first teacher's alike, or the student's in float32."""
    precision = item.variant.precision if network == "teacher" else "fp32"
    like = [
        other
        for other in files
        if other.variant.network.startswith(network)
        and (other.variant.format, other.variant.precision) == (item.variant.format, precision)
    ]
    return like[0].variant.name if like and like[0] is not item else None
