"""Whether a file became slower than is allowed, as far as noise lets one say.

Numbers are times of the new file over those of the old one, so 1.05 is 5 % slower.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from compress.statistics.series import RESOLUTION, compute_median_interval, compute_paired_ratios, has_few_independent

Slowdown = Literal["pass", "fail", "not distinguishable", "unstable"]
Interval = tuple[float, float]


def compute_slowdown(
    old: Sequence[float], new: Sequence[float], launches: Sequence[int]
) -> tuple[float, Interval, bool]:  # fmt: skip
    """Return new / old of rounds that were interleaved, its 95 % interval, and whether that is doubtful.

    Raises:
        CompressError: The two were not measured in the same rounds.
    """
    ratios = compute_paired_ratios(new, old)
    middle = sorted(ratios)[len(ratios) // 2] if len(ratios) % 2 else math.sqrt(math.prod(_find_middle(ratios)))
    return middle, compute_median_interval(ratios, launches), has_few_independent(ratios, launches)


def _find_middle(values: Sequence[float]) -> list[float]:
    """Return the two values in the middle of an even number of them."""
    half = len(values) // 2
    return sorted(values)[half - 1 : half + 1]


def divide_intervals(above: float, of_above: Interval, below: float, of_below: Interval) -> tuple[float, Interval]:
    """Return above / below of two independent figures with their intervals, and its interval.

    Each end lies as far from the quotient as the two ends that lead there together, in the logarithm (Zou and Donner 2008, the
    method of variance estimates recovery, Statistics in Medicine 27:1693-1702).
    """
    middle = math.log(above / below)
    down = math.hypot(math.log(above / of_above[0]), math.log(of_below[1] / below))
    up = math.hypot(math.log(of_above[1] / above), math.log(below / of_below[0]))
    return math.exp(middle), (math.exp(middle - down), math.exp(middle + up))


def judge_slowdown(ci95: Interval, max_slower: float, *, doubtful: bool = False) -> Slowdown:
    """Return whether an interval of new / old is beyond the limit, within it, on both sides of it, or useless.

    Args:
        ci95: The interval.
        max_slower: How much slower is allowed, 0.05 for 5 %.
        doubtful: Whether the interval is too sure; then the limit must be missed or kept by `RESOLUTION`.
    """
    low, high = ci95
    room = 1 + RESOLUTION if doubtful else 1.0
    if low > (1 + max_slower) * room:
        return "fail"
    if high <= (1 + max_slower) / room:
        return "pass"
    return "unstable" if doubtful or high / low > 1 + RESOLUTION else "not distinguishable"
