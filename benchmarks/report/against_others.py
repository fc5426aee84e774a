"""Compare the students of several runs with that of the first, paired where they were tested on the same images.

Runs that differ only in their seed count as one student with several seeds, as in the tables beside this. Students that were
tested on different images, or tell other classes apart, are not compared: a difference would be one of the tasks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.report import paired, wording
from benchmarks.report.spread import find_scores
from compress.records import Accuracy, Paired, Report, Scores, SeedScore

STUDENT = "student"
SHOWN = 3
"""Classes that a message names."""


class _Side(NamedTuple):
    """The student of one run, or of several that differ in their seed."""

    name: str
    scores: tuple[SeedScore, ...]
    """Empty where a report keeps none."""
    accuracies: tuple[Accuracy, ...]
    classes: frozenset[tuple[str, ...]]
    tests: frozenset[str]
    """Fingerprints of the test images; of a report that has none, what stands for it."""


def compare_with_first(groups: Sequence[tuple[str, Sequence[Report]]]) -> tuple[tuple[Paired, ...], tuple[str, ...]]:
    """Return the student of each run against that of the first, in order, and why others are not compared with it.

    Args:
        groups: Runs that count as one, with the name of the group.
    """
    sides = [side for name, reports in groups if (side := _collect_side(name, reports)).accuracies]
    reasons = [_find_obstacle(side, sides[0]) for side in sides[1:]]
    pairs = tuple(_pair(side, sides[0]) for side, why in zip(sides[1:], reasons, strict=True) if not why)
    return pairs, tuple(why for why in reasons if why)


def _find_obstacle(this: _Side, other: _Side) -> str:
    """Return why two students cannot be compared, or nothing."""
    if len(this.classes | other.classes) > 1:
        why = f"their classes differ ({_name_classes(this)}; {_name_classes(other)})"
    elif len(this.tests | other.tests) > 1:
        why = "they were tested on different images"
    else:
        return ""
    return f"{this.name} and {other.name} are not compared: {why}, so a difference in accuracy would be one of the tasks."


def _name_classes(side: _Side) -> str:
    listed = min(side.classes)
    return f"{len(listed)}: {', '.join(listed[:SHOWN])}{', …' if len(listed) > SHOWN else ''}"


def _collect_side(name: str, reports: Sequence[Report]) -> _Side:
    scores = [find_scores(report, STUDENT) for report in reports]
    kept = tuple(score for each in scores for score in each) if all(scores) else ()
    accuracies = [score.accuracy for score in kept] or [found for report in reports if (found := _find_file_accuracy(report))]
    classes = frozenset(report.classes for report in reports)
    return _Side(name, kept, tuple(accuracies), classes, frozenset(_identify_test(report) for report in reports))


def _identify_test(report: Report) -> str:
    """Return what identifies the test images: their fingerprint, or else the data section and their number."""
    return report.test_key or json.dumps([report.recipe.get("data"), report.images.get("test")], sort_keys=True)


def _find_file_accuracy(report: Report) -> Accuracy | None:
    """Return the accuracy of the student in a report without scores: as torch runs it, or else of its first file."""
    own = [variant for variant in report.variants if variant.network == STUDENT and variant.accuracy]
    return min(own, key=lambda variant: variant.format != "torch").accuracy if own else None


def _pair(this: _Side, other: _Side) -> Paired:
    silent = [side.name for side in (this, other) if not side.scores]
    if silent:
        return _compare_unpaired(
            this, other, f"the report of {' and '.join(silent)} keeps no result for each image; run it again"
        )
    one, two = (Scores(network=STUDENT, method="", seeds=side.scores) for side in (this, other))
    return paired.pair(one, two, names=(this.name, other.name))


def _compare_unpaired(this: _Side, other: _Side, note: str) -> Paired:
    """Compare mean accuracies by their Wilson intervals; each counts its images once, however many seeds there are."""
    one, two = (_average(side.accuracies) for side in (this, other))
    found = wording.compute_difference(one, two)
    return Paired(
        this=this.name, other=other.name, pairing="none", note=note,
        seeds=min(len(this.accuracies), len(other.accuracies)), images=min(one.samples, two.samples),
        points=found.points, ci95=(found.low, found.high), verdict=found.verdict,
    )  # fmt: skip


def _average(accuracies: Sequence[Accuracy]) -> Accuracy:
    share = sum(each.percent for each in accuracies) / len(accuracies) / 100
    samples = min(each.samples for each in accuracies)
    return Accuracy.from_hits(round(share * samples), samples)
