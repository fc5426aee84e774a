"""Intervals and verdicts of latencies that were measured in interleaved rounds.

Calls of one round share the state of the machine, so a round, not a call, is the unit of every interval. Two files are
compared by the ratio of their medians within each round: what slows both, such as heat or a neighbour, cancels there.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from compress.errors import CompressError

Verdict = Literal["faster", "slower", "not distinguishable", "unstable"]

LEVEL = 0.95
RESAMPLES = 4000
"""Bootstrap resamples: the ends of a 95 % interval then wobble by less than one order statistic between seeds."""
MARGIN = 0.02
"""Ratios nearer to 1 are no difference: one file that is loaded twice differs from itself by up to about this much."""
RESOLUTION = 0.20
"""An interval around 1 that is wider than this share cannot call two files alike; the ratios are unstable."""
STABLE_INTERVAL = 0.10
"""The interval of the median may be this share of it wide: a few disturbed rounds then do not hide a figure that is known."""
STABLE_DRIFT = 0.10
"""The last third of the rounds may differ from the first by this share."""
FEWEST_BEYOND = 10
"""A percentile is reported only where at least so many calls are expected beyond it; with fewer it is chance."""


def compute_drift(rounds: Sequence[float]) -> float:
    """Return by which share the median of the last third lies above that of the first; negative when it fell."""
    third = max(1, len(rounds) // 3)
    return float(np.median(rounds[-third:]) / np.median(rounds[:third]) - 1)


def is_stable(rounds: Sequence[float]) -> bool:
    """Return whether the rounds of one file determine its median: with a narrow interval, and without a drift."""
    low, high = compute_median_interval(rounds)
    return high - low <= STABLE_INTERVAL * float(np.median(rounds)) and abs(compute_drift(rounds)) <= STABLE_DRIFT


def compute_median_interval(rounds: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile-bootstrap interval of the median over rounds.

    For a median it agrees with the exact interval of order statistics; with 15 rounds it covers 95 to 96 %, with the
    fewest that a recipe accepts, 5, it is the whole range and covers 94 %.

    Raises:
        CompressError: There are no rounds.
    """
    return _compute_ends(_resample_medians(rounds, np.random.default_rng(seed)))


def find_percentile(calls: Sequence[float], percent: int) -> float | None:
    """Return a percentile of all calls, linear between ranks; `None` for fewer than `count_calls_needed`."""
    if len(calls) < count_calls_needed(percent):
        return None
    return statistics.quantiles(calls, n=100, method="inclusive")[percent - 1]


def count_calls_needed(percent: int) -> int:
    """Return the number of calls from which on a percentile is reported."""
    return math.ceil(100 * FEWEST_BEYOND / (100 - percent))


def compute_unpaired_ratio(other: Sequence[float], own: Sequence[float], *, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Return median of other / median of own, with its 95 % interval; the two have nothing in common, round by round.

    Raises:
        CompressError: One of them is empty.
    """
    random = np.random.default_rng(seed)
    ends = _compute_ends(_resample_medians(other, random) / _resample_medians(own, random))
    return float(np.median(other) / np.median(own)), ends


def _resample_medians(rounds: Sequence[float], random: np.random.Generator) -> NDArray[np.float64]:
    """Return the median of each bootstrap resample, [resamples]."""
    values: NDArray[np.float64] = np.asarray(rounds, dtype=np.float64)  # [rounds]
    if not len(values):
        raise CompressError("an interval needs rounds, and there are none; measure at least five")
    picks = random.integers(len(values), size=(RESAMPLES, len(values)))
    medians: NDArray[np.float64] = np.median(values[picks], axis=1)
    return medians


def _compute_ends(found: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(found, (50 * (1 - LEVEL), 50 * (1 + LEVEL)))
    return float(low), float(high)


def compute_paired_ratios(other: Sequence[float], own: Sequence[float]) -> list[float]:
    """Return other / own for each round; above 1 the own file is faster.

    Raises:
        CompressError: The two were not measured in the same rounds.
    """
    if len(other) != len(own):
        raise CompressError(f"{len(other)} and {len(own)} rounds cannot be paired; measure both files in one call of measure()")
    return [theirs / ours for theirs, ours in zip(other, own, strict=True)]


def judge_ratio(ci95: tuple[float, float]) -> Verdict:
    """Return what an interval of the ratio other / own allows to say of the own file."""
    low, high = ci95
    if low > 1 + MARGIN:
        return "faster"
    if high < 1 / (1 + MARGIN):
        return "slower"
    return "not distinguishable" if high / low <= 1 + RESOLUTION else "unstable"
