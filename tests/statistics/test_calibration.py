"""Calibration: cross-entropy against scikit-learn, and the temperature that a distribution was made with."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss

from compress.statistics.calibration import compute_cross_entropy, fit_temperature


def test_cross_entropy_is_that_of_scikit_learn() -> None:
    """The same number from probabilities."""
    draws = np.random.default_rng(0)
    logits, labels = 4 * draws.normal(size=(200, 7)), draws.integers(7, size=200)
    expected = log_loss(labels, softmax(logits, axis=1), labels=range(7))
    assert compute_cross_entropy(logits, labels) == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
def test_the_temperature_is_found_at_which_labels_were_drawn(temperature: float) -> None:
    """Labels drawn from logits give back the factor by which those were enlarged."""
    draws = np.random.default_rng(1)
    logits = 2 * draws.normal(size=(20_000, 5))
    labels = (logits + draws.gumbel(size=logits.shape)).argmax(axis=1)  # draws by softmax
    assert fit_temperature(temperature * logits, labels) == pytest.approx(temperature, rel=0.05)
