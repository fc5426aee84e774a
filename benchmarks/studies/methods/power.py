"""Power of a comparison over seeds: the smallest difference that it finds, more often than not."""

from __future__ import annotations

import math

from scipy.optimize import brentq
from scipy.stats import nct, t

LEVEL, POWER = 0.95, 0.8


def compute_power(difference: float, deviation: float, seeds: int) -> float:
    """Return how often Student's t over the differences of some pairs tells a true difference from none, from 0 to 1.

    Args:
        difference: The true one, at least 0.
        deviation: Standard deviation of a pair's difference over seeds, in the same unit.
        seeds: Pairs.
    """
    freedom, shift = seeds - 1, difference * seeds**0.5 / deviation
    bound = float(t.ppf((1 + LEVEL) / 2, freedom))
    found = float(1 - nct.cdf(bound, freedom, shift) + nct.cdf(-bound, freedom, shift))
    return 1.0 if math.isnan(found) else found  # far beyond what the function can compute


def find_detectable_difference(deviation: float, seeds: int, *, power: float = POWER) -> float:
    """Return the smallest true difference that is told from none so often, in the unit of the deviation.

    Args:
        deviation: Standard deviation of a pair's difference over seeds.
        seeds: Pairs, at least 2.
        power: How often it shall be found.
    """
    return float(brentq(lambda difference: compute_power(difference, deviation, seeds) - power, 0.0, 30 * deviation))
