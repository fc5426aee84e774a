"""Paired comparison of two ways of training on the same test images, over seeds.

A network is right or wrong on each image, so two networks are compared on each image and, where both were trained with
several seeds, within each seed. Three questions are told apart:

* these two networks, other images: McNemar's exact test on the images where they differ, for each pair;
* these images, other seeds: Student's t interval of the pairs' differences;
* other images and other seeds: a bootstrap that draws both anew.

Nothing is corrected for how many comparisons are made: of twenty pairs of equals, one may be called different. A single seed
answers for its two networks alone: which of two methods is better, other seeds would often decide otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Correct = NDArray[np.bool_]
"""Which images a network gets right, [N]."""
Verdict = Literal["better", "worse", "not distinguishable"]
Interval = tuple[float, float]

LEVEL, SIGNIFICANT = 0.95, 0.05
RESAMPLES = 4000
"""Bootstrap resamples, as for latencies."""
CHUNKS = 20
"""A part of them is in memory at a time."""


def mcnemar(this: Correct, other: Correct) -> tuple[int, int, float]:
    """Return on how many images only this, and only the other, is right, and the two-sided p-value of McNemar's exact test.

    Where the two differ, each is right as often as a fair coin if neither is better (McNemar 1947, the binomial form).
    """
    from scipy.stats import binomtest

    only_this, only_other = int((this & ~other).sum()), int((other & ~this).sum())
    differing = only_this + only_other
    return only_this, only_other, float(binomtest(only_this, differing).pvalue) if differing else 1.0


def compute_interval_over_seeds(points: Sequence[float]) -> Interval | None:
    """Return the 95 % interval of the mean of differences by Student's t, in their unit; `None` for fewer than two."""
    from scipy.stats import t

    if len(points) < 2:
        return None
    mean, error = float(np.mean(points)), float(np.std(points, ddof=1)) / len(points) ** 0.5
    half = float(t.ppf((1 + LEVEL) / 2, len(points) - 1)) * error
    return mean - half, mean + half


def compute_interval_over_images_and_seeds(differences: NDArray[np.int8], *, seed: int = 0) -> Interval:
    """Return the 95 % percentile-bootstrap interval of the mean of differences, in points.

    Images and seeds are drawn anew, each with replacement and independently of the other, because every seed sees every image
    (Owen 2007, the pigeonhole bootstrap). It is cautious about images and, with few seeds, too sure about seeds, so a verdict
    also asks `compute_interval_over_seeds`. Swapping the two networks mirrors it exactly.

    Args:
        differences: Right minus right, -1, 0 or 1, [seeds, images].
        seed: Of the draws.
    """
    seeds, images = differences.shape
    patterns, first, counts = np.unique(differences, axis=1, return_index=True, return_counts=True)  # [seeds, patterns]
    order = np.argsort(first)  # the same for both signs
    draws = np.random.default_rng(seed)
    of_seeds = draws.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds  # [resamples, seeds]
    means = []
    for some in np.array_split(of_seeds, CHUNKS):
        of_images = draws.multinomial(images, counts[order] / images, size=len(some)) / images  # [some, patterns]
        means.append(100 * ((some @ patterns[:, order]) * of_images).sum(axis=1))
    low, high = np.percentile(np.concatenate(means), (50 * (1 - LEVEL), 50 * (1 + LEVEL)))
    return float(low), float(high)


def judge_difference(ci95: Interval, ci95_over_seeds: Interval | None, p_values: Sequence[float]) -> Verdict:
    """Return what two intervals of a difference, or one and McNemar's p-value for a single pair, allow to say.

    With few images the bootstrap of one pair is too narrow, and with few seeds that of several; the second witness is exact
    for images, and knows how few the seeds are.
    """
    intervals = [ci95] if ci95_over_seeds is None else [ci95, ci95_over_seeds]
    if ci95_over_seeds is None and min(p_values) >= SIGNIFICANT:
        return "not distinguishable"
    if all(low > 0 for low, _ in intervals):
        return "better"
    return "worse" if all(high < 0 for _, high in intervals) else "not distinguishable"
