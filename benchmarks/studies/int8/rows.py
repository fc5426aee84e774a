"""The files of one network on one runtime: ours, and what the defaults of others make of the same float32 file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import protocol
from benchmarks.protocol import Measurement, Subject
from benchmarks.studies.int8 import defaults as _int8_plain
from benchmarks.studies.int8.defaults import Plain
from benchmarks.studies.int8.records import OURS, Row, difference
from benchmarks.studies.int8.runs import FLOAT, Finished, portable
from compress.errors import CompressError, Interrupted, Unstable
from compress.events import Events
from compress.preprocess import normalise
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


def rows(
    run: Finished, file_format: str, folder: Path, *, rounds: int, seconds: float, events: Events
) -> tuple[list[Row], list[str]]:
    """Return the rows of one format, float32 first, and what went wrong in timing them.

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
    variants = sorted(run.rows()[file_format].values(), key=lambda each: each.precision != FLOAT)
    entries = [_ours(run, variant, events) for variant in variants]
    source = entries[0].subject
    if file_format in _int8_plain.TOOLS and source is not None:
        entries.append(_plain(run, file_format, source, folder, events))
    judged = _judged(entries, run.data.test.labels)
    try:
        timed = _measured(run, [each.subject for each in entries if each.subject], rounds, seconds, events)
    except Unstable as error:
        return judged, [f"{judged[0].runtime}: no speed is known ({error})."]
    return [_with_speed(row, timed.get(row.name)) for row in judged], []


def _ours(run: Finished, variant: Variant, events: Events) -> Entry:
    """Run a file of ours once more, for which images it gets right."""
    subject, known = run.files.get(variant.name), variant.accuracy
    row = Row(
        name=f"{variant.format} {variant.precision}", format=variant.format, runtime=variant.runtime,
        precision=variant.precision, made_by=OURS, status="passed" if variant.status == "passed" else "failed",
        reason=portable(variant.reason), size_bytes=variant.size_bytes, seconds=variant.seconds, **_climb(variant.ladder),
    )  # fmt: skip
    if subject is None or known is None:
        return Entry(row)
    entry = _answered(run, row, replace(subject, name=row.name), events)
    found = entry.row.accuracy
    if found is None or found.samples != known.samples or abs(found.top1_percent - known.top1_percent) > SAME_POINTS:
        now = "unknown" if found is None else f"{found.top1_percent:.2f} % of {found.samples} images"
        told = f"{known.top1_percent:.2f} % of {known.samples}"
        raise CompressError(f"{subject.path}: top-1 is {now}, and its report says {told}; run its recipe again here")
    return entry


def _climb(ladder: Ladder | None) -> dict[str, Any]:
    """Return the fields that only a file of the ladder has."""
    if ladder is None:
        return {}
    taken = None if ladder.chosen is None else ladder.rungs[ladder.chosen]
    return {
        "rung": taken.rung if taken else "",
        "detail": taken.detail if taken else "",
        "tries": sum(each.size_bytes is not None for each in ladder.rungs),
        "climb_seconds": sum(each.seconds for each in ladder.rungs),
    }


def _plain(run: Finished, file_format: str, source: Subject, folder: Path, events: Events) -> Entry:
    """Quantise the float32 file by the defaults of others, and run what they make; what fails is a row, too."""
    name = _int8_plain.NAMES[file_format]
    with events.task(f"{run.name}: {name}", total=1) as task:
        made = _int8_plain.make(file_format, source.path, run.calibration.images, folder)
        task.advance()
    row = Row(
        name=f"{file_format} int8 by {name}", format=file_format, runtime=source.runtime, precision="int8", made_by=name,
        status="not gated", size_bytes=_size(made), seconds=made.seconds,
    )  # fmt: skip
    if made.path is None:
        return Entry(row.model_copy(update={"status": "failed", "reason": portable(f"no file was made: {made.reason}")}))
    try:
        return _answered(run, row, replace(source, name=row.name, path=made.path), events)
    except Interrupted:
        raise
    except CompressError as error:
        reason = portable(f"{row.runtime} cannot run it: {error}")
        return Entry(row.model_copy(update={"status": "failed", "reason": reason}))


def _size(made: Plain) -> int | None:
    """Return the bytes of a file with all that belongs to it."""
    return None if made.path is None else sum(part.stat().st_size for part in made.path.parent.glob(f"{made.path.stem}.*"))


def _answered(run: Finished, row: Row, subject: Subject, events: Events) -> Entry:
    """Run all test images through a file."""
    logits = protocol.evaluate(subject, run.test(), pixels=run.data.test.images[:], events=events).logits
    classes = logits.argmax(axis=1)
    accuracy = Accuracy.from_hits(int((classes == run.data.test.labels).sum()), len(classes))
    return Entry(row.model_copy(update={"accuracy": accuracy}), subject, classes)


def _judged(entries: Sequence[Entry], labels: NDArray[np.int64]) -> list[Row]:
    """Compare every file with float32, and our int8 file with that of the others; labels are [N]."""
    reference = entries[0].classes
    others = next((each.classes for each in entries if each.row.made_by != OURS), None)
    return [_compared(each, labels, reference, others) for each in entries]


def _compared(
    entry: Entry, labels: NDArray[np.int64], reference: NDArray[np.intp] | None, others: NDArray[np.intp] | None
) -> Row:
    row, classes = entry.row, entry.classes
    if classes is None or reference is None:
        return row
    right = classes == labels  # [N]
    update: dict[str, Any] = {"agreement_percent": 100 * float((classes == reference).mean())}
    if row.precision != FLOAT:
        update["to_float"] = difference(right, reference == labels)
    if row.precision == "int8" and row.made_by == OURS and others is not None:
        update["to_defaults"] = difference(right, others == labels)
    return row.model_copy(update=update)


def _measured(
    run: Finished, subjects: Sequence[Subject], rounds: int, seconds: float, events: Events
) -> dict[str, Measurement]:
    """Time files in interleaved rounds on one thread, image by image, against the first."""
    pixels = run.data.validation.images[:TIMED]
    return protocol.measure(
        subjects, normalise(pixels, run.data.preprocess), pixels=pixels, against=subjects[0].name, threads=1, batch_size=1,
        rounds=rounds, seconds=seconds, events=events,
    )  # fmt: skip


def _with_speed(row: Row, found: Measurement | None) -> Row:
    return row if found is None else row.model_copy(update={"latency_ms": found.latency, "ratio": found.ratio})
