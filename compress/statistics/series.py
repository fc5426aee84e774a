"""Intervals and verdicts of latencies that were measured in interleaved rounds.

Calls of one round share the state of the machine, so a round, not a call, is the unit of every interval. Rounds of one process
share its layout of memory and its moment, so where there are several processes an interval also says how these differ. Two
files are compared by the ratio of their medians within each round: what slows both, such as heat or a neighbour, cancels there.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from compress.errors import CompressError
from compress.statistics.launches import compute_launch_interval
from compress.statistics.proportions import Z_975

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
FEWEST_TO_TEST = 5
"""Of fewer values nothing can be said about their order."""
STRETCH = {1: 0.25, 2: 0.25, 3: 0.25, 4: 0.25, 5: 0.25, 6: 0.1, 7: 0.1}
"""By which part of their range the interval of so few rounds is longer at each end, in the logarithm."""
FEWEST_LAUNCHES = 3
"""From so many processes on the interval of their medians is good for something."""
Z_99 = 2.3263478740408408
"""99 % quantile of the standard normal distribution."""
FEWEST_BEYOND = 10
"""A percentile is reported only where at least so many calls are expected beyond it; with fewer it is chance."""


def compute_drift(rounds: Sequence[float]) -> float:
    """Return by which share the median of the last third lies above that of the first; negative when it fell."""
    third = max(1, len(rounds) // 3)
    return float(np.median(rounds[-third:]) / np.median(rounds[:third]) - 1)


def explain_instability(rounds: Sequence[float], launches: Sequence[int] = ()) -> str:
    """Return why the rounds of one file do not determine its median, or nothing where they do.

    They do with a narrow interval, without a drift, and where a round does not resemble the one before it or that does not
    matter, for several processes were asked.

    Args:
        rounds: In order.
        launches: Of which so many were made by each process.
    """
    low, high = compute_median_interval(rounds, launches)
    signs = {
        f"its interval is wider than {100 * STABLE_INTERVAL:g} % of it": high - low
        > STABLE_INTERVAL * float(np.median(rounds)),
        f"it drifts by more than {100 * STABLE_DRIFT:g} %": abs(compute_drift(rounds)) > STABLE_DRIFT,
        "each round resembles the one before it": has_few_independent(rounds, launches),
    }
    return "; ".join(reason for reason, met in signs.items() if met)


def compute_serial_correlation(values: Sequence[float]) -> float:
    """Return how much a value resembles the one before it: about 0 for independent ones, 1 for the same.

    It is the correlation at lag 1 of the ranks, which one accident cannot hide: 1 less half of Bartels' ratio (1982, Journal of
    the American Statistical Association 77:40-46). Values that are all equal have none.
    """
    return 1 - _compute_rank_ratio(values) / 2


def is_correlated(values: Sequence[float]) -> bool:
    """Return whether values in order resemble the ones before them by more than chance, by Bartels' test at 1 %, one-sided."""
    count = len(values)
    if count < FEWEST_TO_TEST:
        return False
    variance = 4 * (count - 2) * (5 * count**2 - 2 * count - 9) / (5 * count * (count + 1) * (count - 1) ** 2)
    return _compute_rank_ratio(values) < 2 - Z_99 * math.sqrt(variance)


def has_few_independent(values: Sequence[float], launches: Sequence[int]) -> bool:
    """Return whether values count for fewer than they are, and too few processes made them to allow for that."""
    return len(launches) < FEWEST_LAUNCHES and is_correlated(values)


def _compute_rank_ratio(values: Sequence[float]) -> float:
    """Return the mean squared step from rank to rank over the variance of the ranks (von Neumann's ratio of ranks)."""
    _, places, counts = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]  # [values], the mean rank where some are equal
    spread = float(np.square(ranks - ranks.mean()).sum())
    return float(np.square(np.diff(ranks)).sum()) / spread if spread else 2.0


def compute_median_interval(rounds: Sequence[float], launches: Sequence[int] = ()) -> tuple[float, float]:
    """Return an interval that holds the median of what the rounds are drawn from in at least 95 of 100 measurements.

    Its ends are rounds: as many lie beyond each as chance allows to (the sign test's interval, exact for independent rounds of
    any distribution). Where rounds resemble the ones before them, they count for fewer, and it is wider; where they do beyond
    chance, it is their whole range. Up to seven rounds it is
    their whole range and a part of it at each end (`STRETCH`), as no two of them cover enough, or would after those that look
    unstable were set aside; from nine on, one disturbed round does not matter.

    Where several processes made the rounds, it also holds the interval of `compress.statistics.launches`, which allows for
    processes that differ and for what is carried from one to the next. A bootstrap over processes, then rounds, would be
    shorter, but of three it hardly reaches beyond their medians. `benchmarks.studies.coverage` simulates what each covers.

    Args:
        rounds: In order, each above 0.
        launches: How many of them each process made, in order; none: one process.

    Raises:
        CompressError: There are no rounds, or another number than the processes made.
    """
    values = np.sort(np.asarray(rounds, dtype=np.float64))  # [rounds]
    if not len(values):
        raise CompressError("an interval needs rounds, and there are none; measure at least five")
    beyond = 0 if is_correlated(rounds) else _count_beyond(len(values), compute_serial_correlation(rounds))
    low, high = float(values[beyond]), float(values[-1 - beyond])
    longer = (
        (high / low) ** STRETCH.get(len(values), 0.0) if low > 0 else 1.0
    )  # in the logarithm, so a ratio may be turned over
    ends = low / longer, high * longer
    if len(launches) < 2:
        return ends
    found = compute_launch_interval(rounds, launches, level=LEVEL)
    return min(ends[0], found[0]), max(ends[1], found[1])


def _count_beyond(count: int, correlation: float) -> int:
    """Return how many values may lie beyond each end of an interval of their median."""
    if correlation >= 1:
        return 0
    exact = 0
    while 2 * exact + 1 < count and 1 - 2 * _add_up_binomials(count, exact + 1) >= LEVEL:
        exact += 1
    inflation = math.sqrt((1 + correlation) / (1 - correlation)) if correlation > 0 else 1.0
    normal = math.floor((count - 1 - Z_975 * inflation * math.sqrt(count)) / 2)
    return max(0, min(exact, normal))


def _add_up_binomials(count: int, most: int) -> float:
    """Return the probability of at most so many heads among fair coins."""
    return math.fsum(math.comb(count, heads) for heads in range(most + 1)) / math.pow(2, count)


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
        raise CompressError("a ratio needs rounds, and there are none; measure at least five")
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


def judge_ratio(ci95: tuple[float, float], *, doubtful: bool = False) -> Verdict:
    """Return what an interval of the ratio other / own allows to say of the own file.

    Args:
        ci95: The interval.
        doubtful: Whether the interval is too sure, as where each round's ratio resembles the one before it beyond chance, or
            other work disturbed one of the two alone. Only a difference of more than `RESOLUTION` is one then.
    """
    low, high = ci95
    margin = RESOLUTION if doubtful else MARGIN
    if low > 1 + margin:
        return "faster"
    if high < 1 / (1 + margin):
        return "slower"
    return "not distinguishable" if high / low <= 1 + RESOLUTION and not doubtful else "unstable"
