"""Table of what adaptation did to teachers, for the report of ATSC."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from compress.records import Analysis

COLLAPSE_POINTS = 20.0
"""A teacher that loses so much top-1 by adapting no longer knows what it shall teach."""

log = logging.getLogger(__name__)


class Adaptation(NamedTuple):
    """One teacher before and after; accuracies are top-1 in percent on the validation split."""

    teacher: str
    before: float
    after: float
    drift: float
    student: float
    """Of the student through the adapted classifier of this teacher."""


def describe_adaptations(adaptations: Sequence[Adaptation], *, shipped: tuple[str, float] | None = None) -> Analysis:
    """Return the table, and warn of teachers that lost more than `COLLAPSE_POINTS`.

    Args:
        adaptations: One for each teacher.
        shipped: What is shipped of several paths, and its top-1 in percent.
    """
    rows = []
    for each in adaptations:
        if each.after < each.before - COLLAPSE_POINTS:
            log.warning(
                "method.atsc: %s fell from %.1f to %.1f %% while it adapted; raise drift_weight, lower train.lr, or set "
                "teacher_bn: frozen", each.teacher, each.before, each.after,
            )  # fmt: skip
        change = f"{each.after - each.before:+.2f}".replace("-", "−")
        figures = (f"{each.before:.2f}", f"{each.after:.2f}", change, f"{each.drift:.4g}", f"{each.student:.2f}")
        rows.append((each.teacher, *figures))
    if shipped is not None:
        rows.append((f"shipped ({shipped[0]})", "", "", "", "", f"{shipped[1]:.2f}"))
    return Analysis(
        title="Adaptation of the teachers",
        note=(
            "Top-1 in percent on the validation split, with the selected weights. Drift is the sum of squared changes "
            "of the penalised weights. The student is measured through the adapted classifier of each teacher."
        ),
        columns=("teacher", "before", "after", "change, points", "drift", "student by its classifier"),
        rows=tuple(rows),
    )
