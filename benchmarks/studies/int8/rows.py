"""Measure the files of one network on one runtime: ours, and those by the defaults of others from the same float32 file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import protocol
from benchmarks.protocol import Measurement, Subject
from benchmarks.studies.int8.defaults import NAMES, TOOLS, DefaultFile, make_default_file
from benchmarks.studies.int8.records import OURS, Row, compare_correct
from benchmarks.studies.int8.runs import FLOAT, Finished, shorten_paths
from compress.errors import CompressError, Interrupted, Unstable
from compress.events import Events
from compress.records import Accuracy, Ladder, Variant

SAME_POINTS = 0.1
"""Top-1 of a file may differ from its report by so much: another processor rounds otherwise. More is another file or data."""
TIMED = 256
"""Validation images that are fed while timing."""


@dataclass(frozen=True)
class Entry:
    """A row and what it was measured on."""

    row: Row
    subject: Subject | None = None
    """`None` where there is no file that runs."""
    classes: NDArray[np.intp] | None = None
    """The class that it gives each test image, [N]."""


def measure_rows(
    run: Finished, file_format: str, folder: Path, *, rounds: int, seconds: float, events: Events
) -> tuple[list[Row], list[str]]:
    """Return the rows of one format, float32 first, and problems in timing them.

    Args:
        run: The finished run.
        file_format: Of the files.
        folder: Where the file by the defaults of others is made.
        rounds: Interleaved rounds of timing.
        seconds: Of timing, for all files together.
        events: Where progress goes.

    Raises:
        CompressError: A file is not what the run's report says.
        Unreachable: A runtime is not installed, or the disk is full.
    """
    variants = sorted(run.group_by_format()[file_format].values(), key=lambda each: each.precision != FLOAT)
    entries = [_measure_own(run, variant, events) for variant in variants]
    source = entries[0].subject
    if file_format in TOOLS and source is not None:
        entries.append(_measure_defaults(run, file_format, source, folder, events))
    judged = _compare_all(entries, run.data.test.labels)
    try:
        timed = _time(run, [each.subject for each in entries if each.subject], rounds, seconds, events)
    except Unstable as error:
        return judged, [f"{judged[0].runtime}: no speed is known ({error})."]
    return [_add_speed(row, timed.get(row.name)) for row in judged], []


def _measure_own(run: Finished, variant: Variant, events: Events) -> Entry:
    """Run one of our files again, to know which images it gets right."""
    subject, known = run.files.get(variant.name), variant.accuracy
    row = Row(
        name=f"{variant.format} {variant.precision}", format=variant.format, runtime=variant.runtime,
        precision=variant.precision, made_by=OURS, status="passed" if variant.status == "passed" else "failed",
        reason=shorten_paths(variant.reason), size_bytes=variant.size_bytes, seconds=variant.seconds,
        **_describe_ladder(variant.ladder),
    )  # fmt: skip
    if subject is None or known is None:
        return Entry(row)
    entry = _evaluate(run, row, replace(subject, name=row.name), events)
    found = entry.row.accuracy
    if found is None or found.samples != known.samples or abs(found.top1_percent - known.top1_percent) > SAME_POINTS:
        now = "unknown" if found is None else f"{found.top1_percent:.2f} % of {found.samples} images"
        told = f"{known.top1_percent:.2f} % of {known.samples}"
        raise CompressError(f"{subject.path}: top-1 is {now}, and its report says {told}; run its recipe again here")
    return entry


def _describe_ladder(ladder: Ladder | None) -> dict[str, Any]:
    """Return the fields that only a file of the ladder has."""
    if ladder is None:
        return {}
    chosen = None if ladder.chosen is None else ladder.rungs[ladder.chosen]
    return {
        "rung": chosen.rung if chosen else "",
        "detail": chosen.detail if chosen else "",
        "tries": sum(each.size_bytes is not None for each in ladder.rungs),
        "ladder_seconds": sum(each.seconds for each in ladder.rungs),
    }


def _measure_defaults(run: Finished, file_format: str, source: Subject, folder: Path, events: Events) -> Entry:
    """Quantize the float32 file by the defaults of others and run the result; a failure is a row, too."""
    name = NAMES[file_format]
    with events.task(f"{run.name}: {name}", total=1) as task:
        made = make_default_file(file_format, source.path, run.calibration.images, folder)
        task.advance()
    row = Row(
        name=f"{file_format} int8 by {name}", format=file_format, runtime=source.runtime, precision="int8", made_by=name,
        status="not gated", size_bytes=_sum_sizes(made), seconds=made.seconds,
    )  # fmt: skip
    if made.path is None:
        return Entry(row.model_copy(update={"status": "failed", "reason": shorten_paths(f"no file was made: {made.reason}")}))
    try:
        return _evaluate(run, row, replace(source, name=row.name, path=made.path), events)
    except Interrupted:
        raise
    except CompressError as error:
        reason = shorten_paths(f"{row.runtime} cannot run it: {error}")
        return Entry(row.model_copy(update={"status": "failed", "reason": reason}))


def _sum_sizes(made: DefaultFile) -> int | None:
    """Return the bytes of a file with all that belongs to it."""
    return None if made.path is None else sum(part.stat().st_size for part in made.path.parent.glob(f"{made.path.stem}.*"))


def _evaluate(run: Finished, row: Row, subject: Subject, events: Events) -> Entry:
    """Run all test images through a file."""
    logits = protocol.evaluate(subject, run.normalise_test(), pixels=run.data.test.images[:], events=events).logits
    classes = logits.argmax(axis=1)
    accuracy = Accuracy.from_hits(int((classes == run.data.test.labels).sum()), len(classes))
    return Entry(row.model_copy(update={"accuracy": accuracy}), subject, classes)


def _compare_all(entries: Sequence[Entry], labels: NDArray[np.int64]) -> list[Row]:
    """Compare every file with float32, and our int8 file with that of the others; labels are [N]."""
    reference = entries[0].classes
    others = next((each.classes for each in entries if each.row.made_by != OURS), None)
    return [_compare(each, labels, reference, others) for each in entries]


def _compare(
    entry: Entry, labels: NDArray[np.int64], reference: NDArray[np.intp] | None, others: NDArray[np.intp] | None
) -> Row:
    row, classes = entry.row, entry.classes
    if classes is None or reference is None:
        return row
    right = classes == labels  # [N]
    update: dict[str, Any] = {"agreement_percent": 100 * float((classes == reference).mean())}
    if row.precision != FLOAT:
        update["to_float"] = compare_correct(right, reference == labels)
    if row.precision == "int8" and row.made_by == OURS and others is not None:
        update["to_defaults"] = compare_correct(right, others == labels)
    return row.model_copy(update=update)


def _time(run: Finished, subjects: Sequence[Subject], rounds: int, seconds: float, events: Events) -> dict[str, Measurement]:
    """Time files in interleaved rounds on one thread, image by image, against the first."""
    pixels = run.data.validation.images[:TIMED]
    return protocol.measure(
        subjects, protocol.Inputs.from_pixels(pixels, run.data.preprocess), against=subjects[0].name, threads=1, batch_size=1,
        rounds=rounds, seconds=seconds, events=events,
    )  # fmt: skip


def _add_speed(row: Row, found: Measurement | None) -> Row:
    return row if found is None else row.model_copy(update={"latency_ms": found.latency, "ratio": found.ratio})
