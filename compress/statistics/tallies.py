"""Intervals and tests of a metric that follows from one row of numbers for each image: one bootstrap for every task.

A metric is given as a function of weights: how often each image counts in each draw, [R, N], to its value in each, [R]. Images
are drawn anew with replacement (percentile bootstrap). Two networks are drawn with the same weights, since both saw the same
images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]
Weights = NDArray[np.integer[Any]]
Score = Callable[[Weights], NDArray[np.float64]]
"""From weights [R, N] to the metric in percent, [R]."""
RESAMPLES = 2000
"""Draws: the ends of a 95 % interval then wobble by a few hundredths of its width."""
CHUNK_BYTES = 1 << 24
"""Of weights that are in memory at a time."""


def compute_interval(score: Score, images: int, *, seed: int = 0, draws: int = RESAMPLES) -> Interval:
    """Return the 95 % interval of a metric over the images, in its unit."""
    return _find_ends(_draw(score, images, seed, draws))


def compute_paired_interval(first: Score, second: Score, images: int, *, seed: int = 0, draws: int = RESAMPLES) -> Interval:
    """Return the 95 % interval of the first metric minus the second, on the same images."""
    return _find_ends(_draw(lambda weights: first(weights) - second(weights), images, seed, draws))


def compute_interval_over_images_and_seeds(
    pairs: Sequence[tuple[Score, Score]], images: int, *, seed: int = 0, draws: int = RESAMPLES
) -> Interval:
    """Return the 95 % interval of the mean difference of pairs of networks, images and pairs drawn anew.

    Args:
        pairs: The metric of this and of the other network, for each seed.
        images: How many there are.
        seed: Of the draws.
        draws: How many.
    """
    random = np.random.default_rng([seed, len(pairs)])

    def differ(weights: Weights) -> NDArray[np.float64]:
        shares = random.multinomial(len(pairs), np.full(len(pairs), 1 / len(pairs)), size=len(weights)) / len(pairs)  # [R, P]
        each = np.stack([this(weights) - other(weights) for this, other in pairs], axis=1)  # [R, P]
        mean: NDArray[np.float64] = (shares * each).sum(axis=1)
        return mean

    return _find_ends(_draw(differ, images, seed, draws))


def compute_swap_p_value(score: Score, images: int, *, seed: int = 0, draws: int = RESAMPLES) -> float:
    """Return the p-value that two networks are alike, two-sided: their rows are exchanged at random, image by image.

    Args:
        score: The metric of both networks' rows, one behind the other, by weights [R, 2·N].
        images: How many there are, N.
        seed: Of the exchanges.
        draws: How often they are exchanged.
    """
    random = np.random.default_rng(seed)
    whole = np.ones((1, images), np.int64)
    measured = abs(_differ(score, np.zeros_like(whole)))[0]
    as_large = 0
    for size in _split(images, draws):
        swapped = random.integers(0, 2, size=(size, images))
        as_large += int((np.abs(_differ(score, swapped)) >= measured - 1e-12).sum())
    return (1 + as_large) / (1 + draws)


def _differ(score: Score, swapped: Weights) -> NDArray[np.float64]:
    """Return first minus second network, [R], where the rows of some images are exchanged, [R, N]."""
    one, other = np.concatenate([1 - swapped, swapped], axis=1), np.concatenate([swapped, 1 - swapped], axis=1)
    return score(one) - score(other)


def _draw(score: Score, images: int, seed: int, draws: int) -> NDArray[np.float64]:
    """Return the metric of each bootstrap draw, [draws]."""
    random = np.random.default_rng(seed)
    shares = np.full(images, 1 / images)
    return np.concatenate([score(random.multinomial(images, shares, size=size)) for size in _split(images, draws)])


def _split(images: int, draws: int) -> list[int]:
    """Return how many draws are made at a time."""
    most = max(1, CHUNK_BYTES // (8 * images))
    return [min(most, draws - begin) for begin in range(0, draws, most)]


def _find_ends(values: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)
