"""The interval of a median whose rounds were made by several processes, which may differ, and may resemble each other.

Three processes are few to tell how far processes lie apart, and fifteen rounds are few to tell whether a round resembles the
one before it. So neither is decided: what the rounds may be like is a handful of models, each has an interval of its own, and
the models are weighed by how well they explain the rounds (Hoeting et al., "Bayesian model averaging: a tutorial", Statistical
Science 14:382-417, 1999). Where nothing speaks for resemblance, its wide intervals hardly count.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from compress.errors import CompressError

RESEMBLANCES = {0.0: 3.0, 0.95: 2.0}
"""Correlation of a round with the one before it, whichever process made that, to the weight of such models before the rounds
are seen. The strong one stands for all: where rounds resemble each other less, its interval is too wide and not too short. The
weights were chosen by `benchmarks.studies.coverage`, on the kinds of rounds that it reports: of three processes of five rounds
at least 95 % of the stable intervals hold the median, of five processes of three 91 % in the worst kind."""
DIFFERENCES = (0.0, 2.0, 8.0)
"""Variance between processes over that of the rounds of one process; all are held for equally likely before."""
CLIPPED = 3.0
"""A round counts as no farther from the median of its process than so many standard deviations: one accident does no harm."""
MAD_SCALE = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
HALVINGS = 40
"""Of the bracket of an end: more than its digits."""


def compute_launch_interval(rounds: Sequence[float], launches: Sequence[int], *, level: float = 0.95) -> tuple[float, float]:
    """Return an interval of the median of what the rounds of several processes are drawn from, over models of these rounds.

    Each model says how the logarithms of the rounds are correlated: not at all or strongly with the round before, and by
    how processes differ. Within it, the middle has Student's t distribution about its generalised least-squares estimate; the
    interval is the middle part of the average of these, weighed by the models' restricted likelihoods.

    Args:
        rounds: In order, each above 0.
        launches: How many of them each of at least two processes made, in order.
        level: How much of the average lies within.

    Raises:
        CompressError: There are not as many rounds as the processes made, or some are not above 0.
    """
    from scipy.special import stdtr, stdtrit

    if sum(launches) != len(rounds) or min(rounds) <= 0:
        raise CompressError(f"{len(rounds)} rounds above 0 are needed for processes that made {list(launches)}; measure again")
    values = _clip(np.log(np.asarray(rounds, dtype=np.float64)), launches)  # [rounds]
    centre = float(values.mean())
    values = values - centre
    if not np.ptp(values):
        return math.exp(centre), math.exp(centre)
    free = len(values) - 1
    middles, scales, scores = [], [], []
    for inverse, log_determinant, prior in _list_models(tuple(launches)):
        weight = float(inverse.sum())
        middle = float(inverse.sum(axis=0) @ values) / weight
        rest = values - middle
        misfit = float(rest @ inverse @ rest)
        middles.append(middle)
        scales.append(math.sqrt(misfit / free / weight))
        scores.append(math.log(prior) - (log_determinant + math.log(weight) + free * math.log(misfit)) / 2)
    at, widths = np.array(middles), np.array(scales)  # [models]
    weights = np.exp(np.array(scores) - max(scores))
    weights /= weights.sum()

    shares = np.array([[(1 - level) / 2], [(1 + level) / 2]])
    farthest = widths * stdtrit(free, (1 + level) / 2)  # beyond the end of each model lies no end of their average
    low, high = np.full((2, 1), (at - farthest).min()), np.full((2, 1), (at + farthest).max())
    for _ in range(HALVINGS):
        half = (low + high) / 2
        below = (stdtr(free, (half - at) / widths) @ weights)[:, None] < shares
        low, high = np.where(below, half, low), np.where(below, high, half)
    first, last = centre + (low + high)[:, 0] / 2
    return math.exp(first), math.exp(last)


@functools.lru_cache(maxsize=64)
def _list_models(launches: tuple[int, ...]) -> tuple[tuple[NDArray[np.float64], float, float], ...]:
    """Return the inverse of each model's correlations [rounds, rounds], the logarithm of their determinant, and its weight."""
    made_by = np.repeat(np.arange(len(launches)), launches)
    together = made_by[:, None] == made_by[None, :]  # [rounds, rounds]
    apart = np.abs(np.subtract.outer(np.arange(len(made_by)), np.arange(len(made_by))))
    models = []
    for (resemblance, prior), difference in itertools.product(RESEMBLANCES.items(), DIFFERENCES):
        covariance = np.power(resemblance, apart) + difference * together
        models.append((np.linalg.inv(covariance), float(np.linalg.slogdet(covariance)[1]), prior))
    return tuple(models)


def _clip(values: NDArray[np.float64], launches: Sequence[int]) -> NDArray[np.float64]:
    """Return the values, with those far from the median of their process moved nearer."""
    middles = np.concatenate([np.full(len(part), np.median(part)) for part in _cut(values, launches) if len(part)])
    rest = values - middles
    most = CLIPPED * MAD_SCALE * float(np.median(np.abs(rest)))
    clipped: NDArray[np.float64] = middles + np.clip(rest, -most, most)
    return clipped


def _cut(values: NDArray[np.float64], launches: Sequence[int]) -> list[NDArray[np.float64]]:
    return np.split(values, np.cumsum(launches)[:-1])
