"""Calibration of predicted probabilities: their cross-entropy, and the temperature that fits best."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

Logits = NDArray[np.floating]

BOUNDS = (0.05, 20.0)
"""Temperatures among which `fit_temperature` looks."""


def compute_cross_entropy(logits: Logits, labels: NDArray[np.int64]) -> float:
    """Return the mean negative log-likelihood of the labels [N] by logits [N, K], in nats."""
    logarithms = log_softmax(logits.astype(np.float64), axis=1)
    return float(-logarithms[np.arange(len(labels)), labels].mean())


def fit_temperature(logits: Logits, labels: NDArray[np.int64]) -> float:
    """Return the temperature of the least cross-entropy of logits [N, K] against labels [N], between 0.05 and 20.

    Source:
        Guo et al., 1706.04599, section 4.2.
    """
    widened = logits.astype(np.float64)
    found = minimize_scalar(
        lambda power: compute_cross_entropy(widened / math.exp(power), labels),
        bounds=(math.log(BOUNDS[0]), math.log(BOUNDS[1])),
        method="bounded",
        options={"xatol": 1e-4},
    )
    return float(math.exp(found.x))
