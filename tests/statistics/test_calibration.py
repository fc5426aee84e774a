"""Calibration: scikit-learn's figures, what can be computed by hand, and the temperature that labels were drawn with."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from compress.statistics.calibration import BINS, compute_calibration_error, compute_cross_entropy, fit_temperature


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


@pytest.mark.parametrize("bins", [5, BINS])
def test_calibration_error_is_that_of_the_curve_of_scikit_learn(bins: int) -> None:
    """Scores and shares of each bin are scikit-learn's; the error is their difference, weighed by the images of the bin."""
    draws = np.random.default_rng(2)
    logits, labels = 2 * draws.normal(size=(500, 4)), draws.integers(4, size=500)
    shares = softmax(logits, axis=1)
    scores, right = shares.max(axis=1), shares.argmax(axis=1) == labels
    of_bins, score_of_bins = calibration_curve(right, scores, n_bins=bins, strategy="uniform")  # without empty bins
    sizes = np.histogram(scores, bins=np.linspace(0, 1, bins + 1))[0]
    expected = np.abs(of_bins - score_of_bins) @ sizes[sizes > 0] / len(labels)
    assert compute_calibration_error(logits, labels, bins=bins) == pytest.approx(expected)


def test_calibration_error_by_hand() -> None:
    """Two of four images at a score of 0.9 are right, and one at a score of one half: |0.9 − 0.5| × 4/5 + |0.5 − 1| / 5."""
    sure, torn = np.log([0.9, 0.1]), np.log([0.5, 0.5])
    logits, labels = np.stack([sure] * 4 + [torn]), np.array([0, 0, 1, 1, 0])
    assert compute_calibration_error(logits, labels) == pytest.approx(0.4 * 4 / 5 + 0.5 / 5)


def test_sure_and_right_has_no_error() -> None:
    """A score of 1 belongs to the last bin, however large the logits are."""
    assert compute_calibration_error(np.array([[1e4, 0.0], [0.0, 1e4]]), np.array([0, 1])) == 0


@pytest.mark.parametrize("images", [50, 5000])
def test_a_network_that_is_always_right_does_not_become_certain(images: int) -> None:
    """Where all of N images are right, scores go no further than one wrong in N allows."""
    labels = np.arange(images) % 10
    logits = 3.0 * np.eye(10)[labels]
    scores = softmax(logits / fit_temperature(logits, labels), axis=1).max(axis=1)
    assert 1 - 2 / images < scores.mean() < 1 - 0.5 / images


def test_scaled_logits_never_fit_the_validation_images_worse() -> None:
    """On the images that it was fitted on, a temperature does not raise the cross-entropy, whatever the logits."""
    draws = np.random.default_rng(3)
    for size in np.geomspace(0.01, 100, 20):
        for images in (4, 40):
            labels = draws.integers(3, size=images)
            logits = size * (np.eye(3)[labels] + draws.normal(size=(images, 3)))
            temperature = fit_temperature(logits, labels)
            assert compute_cross_entropy(logits / temperature, labels) <= compute_cross_entropy(logits, labels)
