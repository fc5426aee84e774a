"""Where classes are uneven: balanced accuracy and the recall of each class, for top-1 says little there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from compress.records import Accuracy, Report
from compress.text import MISSING, format_interval

MOST_CLASSES = 50
"""Classes of which the table has a line: those that the student knows worst."""


class RecallTable(NamedTuple):
    """Recall of each class on the test split, a column for each network."""

    networks: tuple[str, ...]
    balanced: tuple[str, ...]
    """Balanced accuracy with its interval, in percent."""
    lines: tuple[tuple[str, int, tuple[str, ...]], ...]
    """Class, its test images, and the recall of each network in percent; the class that the student knows worst first."""
    left_out: int
    """Classes that have no line."""


def describe_recalls(report: Report) -> RecallTable | None:
    """Return the table of a report; `None` where its classes are even or recalls are not known."""
    found = [(scores.network, scores.seeds[0].accuracy) for scores in report.scores if scores.seeds]
    known = [(network, accuracy) for network, accuracy in found if accuracy.is_uneven]
    if not known or any(len(accuracy.recall_percent) != len(report.classes) for _, accuracy in known):
        return None
    first = next((accuracy for network, accuracy in known if network == "student"), known[0][1])
    ranked = sorted(range(len(report.classes)), key=lambda label: _rank(first, label))
    return RecallTable(
        networks=tuple(network for network, _ in known),
        balanced=tuple(format_balanced(accuracy) for _, accuracy in known),
        lines=tuple(
            (report.classes[label], first.class_samples[label], _list_recalls([each for _, each in known], label))
            for label in ranked[:MOST_CLASSES]
        ),
        left_out=max(0, len(ranked) - MOST_CLASSES),
    )


class PartTable(NamedTuple):
    """The metric of each class on the test split, a column for each network, where it is a mean over classes."""

    networks: tuple[str, ...]
    lines: tuple[tuple[str, tuple[str, ...]], ...]
    """Class, and the metric of each network in percent, in the order of the classes."""


def describe_parts(report: Report) -> PartTable | None:
    """Return the table of a report; `None` where the metric is no mean over classes."""
    known = [(scores.network, scores.seeds[0].accuracy.class_percent) for scores in report.scores if scores.seeds]
    known = [(network, each) for network, each in known if len(each) == len(report.classes)]
    if not known:
        return None
    lines = (
        (name, tuple(MISSING if (value := each[label]) is None else f"{value:.1f}" for _, each in known))
        for label, name in enumerate(report.classes)
    )
    return PartTable(tuple(network for network, _ in known), tuple(lines))


def format_balanced(accuracy: Accuracy) -> str:
    """Return a balanced accuracy with its interval."""
    if accuracy.balanced_percent is None or accuracy.balanced_ci95 is None:
        return MISSING
    return f"{accuracy.balanced_percent:.1f} ({format_interval(accuracy.balanced_ci95, 1)})"


def _rank(accuracy: Accuracy, label: int) -> tuple[float, int]:
    recall = accuracy.recall_percent[label]
    return (101.0 if recall is None else recall, label)


def _list_recalls(accuracies: Sequence[Accuracy], label: int) -> tuple[str, ...]:
    recalls = (accuracy.recall_percent[label] for accuracy in accuracies)
    return tuple(MISSING if recall is None else f"{recall:.1f}" for recall in recalls)
