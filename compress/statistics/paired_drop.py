"""Interval of a drop of accuracy: two classifiers on the same images differ only where exactly one of them is right.

The interval is Tango's score interval for the difference of paired proportions (Tango 1998, Statistics in Medicine 17:891-908,
section 4; recommended for small counts by Fagerland, Lydersen and Laake 2014, Statistics in Medicine 33:2850-2875). Unlike
Wald's it has a width where no answer changed, and unlike one from two separate accuracies it does not pay for images on
which both are right or both are wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from compress.statistics.proportions import Z_975

_HALVINGS = 60
MOST_IMAGES = 100_000
"""Nobody gathers more validation images than this for a tighter interval, so no larger number is given."""


def compute_drop_interval(only_first: float, only_second: float, images: float) -> tuple[float, float]:
    """Return the 95 % interval of accuracy of the first minus accuracy of the second, in percentage points.

    Args:
        only_first: Images that only the first gets right.
        only_second: Images that only the second gets right.
        images: All images, at least one.
    """
    return -100 * _find_upper_end(only_second, only_first, images), 100 * _find_upper_end(only_first, only_second, images)


def compute_balanced_drop(
    only_first: Sequence[int], only_second: Sequence[int], images: Sequence[int]
) -> tuple[float, float, float]:
    """Return balanced accuracy of the first minus that of the second, and its 95 % interval, in percentage points.

    The interval joins those of the classes' recalls (MOVER: Zou and Donner 2008, Statistics in Medicine 27:1693-1702).

    Args:
        only_first: Images of each class that only the first gets right, [K].
        only_second: Images of each class that only the second gets right, [K].
        images: All images of each class, [K]; a class without images is left out.
    """
    classes = [counts for counts in zip(only_first, only_second, images, strict=True) if counts[2]]
    drops = [100 * (first - second) / count for first, second, count in classes]
    ends = [compute_drop_interval(*counts) for counts in classes]
    drop, number = sum(drops) / len(drops), len(drops)
    below = math.hypot(*(each - low for each, (low, _) in zip(drops, ends, strict=True))) / number
    above = math.hypot(*(high - each for each, (_, high) in zip(drops, ends, strict=True))) / number
    return drop, max(-100.0, drop - below), min(100.0, drop + above)


def count_images_needed(only_first: int, only_second: int, images: int, limit_points: float) -> int | None:
    """Return how many images would exclude a larger drop than the limit, if answers changed on the same share of them.

    Returns:
        Two digits of it, rounded up; `None` where `MOST_IMAGES` would not exclude it either, for example as the drop itself is
        too near the limit.
    """

    def excludes(count: float) -> bool:
        scale = count / images
        return compute_drop_interval(only_first * scale, only_second * scale, count)[1] <= limit_points

    low, high = float(images), float(MOST_IMAGES)
    if low >= high or not excludes(high):
        return None
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if excludes(middle) else (middle, high)
    needed = math.ceil(high)
    unit: int = 10 ** max(len(str(needed)) - 2, 0)
    return -(-needed // unit) * unit


def _find_upper_end(only_first: float, only_second: float, images: float) -> float:
    """Return the difference above the estimate at which the score statistic reaches -1.96, by halving."""
    low, high = (only_first - only_second) / images, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        surplus = only_first - only_second - images * middle  # observed minus expected, never above 0
        inside = surplus + Z_975 * math.sqrt(images * _compute_variance(only_first, only_second, images, middle)) >= 0
        low, high = (middle, high) if inside else (low, middle)
    return high


def _compute_variance(only_first: float, only_second: float, images: float, difference: float) -> float:
    """Return the variance of one image's difference if `difference` is true (the most likely such table)."""
    linear = (2 * images - only_first + only_second) * difference - only_first - only_second
    constant = -only_second * difference * (1 - difference)
    share = (math.sqrt(max(linear * linear - 8 * images * constant, 0.0)) - linear) / (4 * images)  # only the second is right
    return max(2 * share + difference * (1 - difference), 0.0)
