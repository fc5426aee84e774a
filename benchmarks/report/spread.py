"""Mean and standard deviation of a quantity over seeds, or its interval from a single run, with one format for all outputs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from compress.records import Report, Scores, SeedScore, Variant
from compress.text import MISSING, format_interval, format_number


class Spread(NamedTuple):
    """A quantity over runs, or with its interval from one run."""

    mean: float
    low: float
    high: float
    deviation: float | None
    """Sample standard deviation over seeds; `None` for a single run."""


def compute_spread(values: Sequence[tuple[float, float, float]]) -> Spread | None:
    """Return mean and deviation of values that come with their intervals, or the only one with its own."""
    if not values:
        return None
    if len(values) == 1:
        return Spread(*values[0], deviation=None)
    middles = [value for value, _, _ in values]
    mean, deviation = statistics.fmean(middles), statistics.stdev(middles)
    return Spread(mean, mean - deviation, mean + deviation, deviation)


def compute_spread_over_seeds(scores: Sequence[SeedScore]) -> Spread | None:
    """Return top-1 on the test split over seeds."""
    return compute_spread([(score.accuracy.percent, *score.accuracy.ci95) for score in scores])


def list_top1(report: Report, variant: Variant) -> list[tuple[float, float, float]]:
    """Return top-1 of a file for each seed of its network, or the only one with its interval.

    Only the first seed was exported. What the file lost there against its network, it is assumed to lose with every seed.
    """
    if variant.accuracy is None:
        return []
    own, seeds = variant.accuracy, find_scores(report, variant.network)
    if len(seeds) < 2:
        return [(own.percent, *own.ci95)]
    lost = own.percent - seeds[0].accuracy.percent
    shifted = [min(100.0, max(0.0, score.accuracy.percent + lost)) for score in seeds]
    return [(value, value, value) for value in shifted]


def find_scores(report: Report, network: str) -> tuple[SeedScore, ...]:
    """Return the scores of a network, empty where the report keeps none."""
    found: Scores | None = next((scores for scores in report.scores if scores.network == network), None)
    return found.seeds if found else ()


def format_spread(value: Spread | None, digits: int | None = None) -> str:
    """Return `98.2 ± 0.3` over seeds, or `98.2 (96.2–99.2)` for a single run."""
    if value is None:
        return MISSING
    if value.deviation is None:
        middle = format_number(value.mean) if digits is None else f"{value.mean:.{digits}f}"
        return f"{middle} ({format_interval((value.low, value.high), digits)})"
    decimals = len(format_number(value.mean).partition(".")[2]) if digits is None else digits + 1
    return f"{value.mean:.{decimals}f} ± {value.deviation:.{decimals}f}"
