"""Calibration of predicted probabilities: cross-entropy, expected calibration error, and the temperature that fits best."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.floating]

BOUNDS = (0.05, 20.0)
"""Temperatures among which `fit_temperature` looks."""
BINS = 15
"""Bins of equal width of the expected calibration error, as in its source."""


def compute_cross_entropy(logits: Logits, labels: NDArray[np.int64]) -> float:
    """Return the mean negative log-likelihood of the labels [N] by logits [N, K], in nats."""
    from scipy.special import log_softmax

    logarithms = log_softmax(logits.astype(np.float64), axis=1)
    return float(-logarithms[np.arange(len(labels)), labels].mean())


def compute_calibration_error(logits: Logits, labels: NDArray[np.int64], *, bins: int = BINS) -> float:
    """Return the expected calibration error of logits [N, K] against labels [N], a share from 0 to 1.

    The images are sorted by the score of their first class into bins of equal width, the upper edge belonging to a bin; the
    error is the mean over images of how far the mean score of their bin is from the share of it that is right.

    Source:
        Guo et al., 1706.04599, equation 3.
    """
    from scipy.special import softmax

    shares = softmax(logits.astype(np.float64), axis=1)
    score, right = shares.max(axis=1), shares.argmax(axis=1) == labels
    place = np.clip(np.ceil(score * bins).astype(np.int64) - 1, 0, bins - 1)
    excess = np.bincount(place, weights=score - right, minlength=bins)  # over the images of a bin
    return float(np.abs(excess).sum() / len(labels))


def fit_temperature(logits: Logits, labels: NDArray[np.int64]) -> float:
    """Return the temperature at which logits [N, K] fit labels [N] best, between 0.05 and 20.

    What is minimised is the cross-entropy of the images and of one more whose label is any class alike: where a network is
    right on all N images, it may be wrong on one in N still, and the cross-entropy of these alone would have every score 1.
    Where the cross-entropy of the images alone is no better by the temperature so found, it is 1.

    Source:
        Guo et al., 1706.04599, section 4.2; the further image is ours.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    widened, doubt = logits.astype(np.float64), 1 / (len(labels) + 1)

    def compute_cautious(power: float) -> float:
        logarithms = log_softmax(widened / math.exp(power), axis=1)
        of_labels = logarithms[np.arange(len(labels)), labels].mean()
        return -float((1 - doubt) * of_labels + doubt * logarithms.mean())

    bounds = (math.log(BOUNDS[0]), math.log(BOUNDS[1]))
    found = minimize_scalar(compute_cautious, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    temperature = math.exp(found.x)
    better = compute_cross_entropy(widened / temperature, labels) <= compute_cross_entropy(widened, labels)
    return temperature if better else 1.0
