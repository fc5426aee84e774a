"""The students of several runs against that of the first: paired where they were tested on the same images.

Runs that differ only in their seed count as one student with several seeds, as in the tables beside this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.report import paired, wording
from benchmarks.report.spread import seeds_of
from compress.records import Accuracy, Paired, Report, Scores, SeedScore

STUDENT = "student"


class _Side(NamedTuple):
    """The student of one run, or of several that differ in their seed."""

    name: str
    scores: tuple[SeedScore, ...]
    """Empty where a report keeps none."""
    accuracies: tuple[Accuracy, ...]
    test_keys: frozenset[str]


def against_first(groups: Sequence[tuple[str, Sequence[Report]]]) -> tuple[Paired, ...]:
    """Return the student of each run against that of the first, in order.

    Args:
        groups: Runs that count as one, with what they are called.
    """
    sides = [side for name, reports in groups if (side := _side(name, reports)).accuracies]
    return tuple(_pair(side, sides[0]) for side in sides[1:])


def _side(name: str, reports: Sequence[Report]) -> _Side:
    scores = [seeds_of(report, STUDENT) for report in reports]
    kept = tuple(score for each in scores for score in each) if all(scores) else ()
    accuracies = [score.accuracy for score in kept] or [found for report in reports if (found := _of_a_file(report))]
    return _Side(name, kept, tuple(accuracies), frozenset(report.test_key for report in reports))


def _of_a_file(report: Report) -> Accuracy | None:
    """Return the accuracy of the student in an older report: as torch runs it, or else of its first file."""
    own = [variant for variant in report.variants if variant.network == STUDENT and variant.accuracy]
    return min(own, key=lambda variant: variant.format != "torch").accuracy if own else None


def _pair(this: _Side, other: _Side) -> Paired:
    silent = [side.name for side in (this, other) if not side.scores]
    if silent:
        return _unpaired(this, other, f"the report of {' and '.join(silent)} keeps no answers for each image; run it again")
    if len(this.test_keys | other.test_keys) > 1:
        return _unpaired(this, other, "their test images differ")
    one, two = (Scores(network=STUDENT, method="", seeds=side.scores) for side in (this, other))
    return paired.pair(one, two, names=(this.name, other.name))


def _unpaired(this: _Side, other: _Side, note: str) -> Paired:
    """Compare mean accuracies by their Wilson intervals; each counts its images once, however many seeds there are."""
    one, two = (_mean(side.accuracies) for side in (this, other))
    found = wording.compute_difference(one, two)
    return Paired(
        this=this.name, other=other.name, pairing="none", note=note,
        seeds=min(len(this.accuracies), len(other.accuracies)), images=min(one.samples, two.samples),
        points=found.points, ci95=(found.low, found.high), verdict=found.verdict,
    )  # fmt: skip


def _mean(accuracies: Sequence[Accuracy]) -> Accuracy:
    share = sum(each.top1_percent for each in accuracies) / len(accuracies) / 100
    samples = min(each.samples for each in accuracies)
    return Accuracy.of(round(share * samples), samples)
