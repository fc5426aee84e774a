"""Calibration within the last layer: the temperature that fits best, and nothing else, divides the logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from compress import plugins
from compress.data import Batch
from compress.errors import CompressError
from compress.methods import Method
from compress.recipe import TrainSection
from compress.statistics.calibration import fit_temperature
from compress.training import evaluate, loop
from tests.tiny import Repeated, batch, setting


def build(name: str, **options: Any) -> Method:
    torch.manual_seed(3)
    method: Method = plugins.load("methods", name)(setting(), **options)
    return method


@pytest.mark.parametrize("name", ["supervised", "dist"])
def test_the_logits_of_the_student_are_divided_by_the_temperature_that_fits_best(name: str) -> None:
    """Beside the same training without, by scikit-learn's cross-entropy no other temperature is better; what is left is 1."""
    torch.manual_seed(0)
    images, labels, *_ = batch(64)
    data = Repeated(Batch(images, labels), 10)
    held_out = Repeated(Batch(images, torch.where(torch.arange(64) % 5 == 0, (labels + 1) % 4, labels)), 1)
    logits: list[Any] = []
    for calibrates in (False, True):
        method = build(name)
        fit = loop.fit(method, data, held_out, settings=TrainSection(epochs=3, lr=0.05, calibrate=calibrates))
        logits.append(evaluate.compute_logits(method.deployable(), held_out).astype(np.float64))
    assert fit.temperature is not None
    np.testing.assert_allclose(logits[1], logits[0] / fit.temperature, rtol=1e-4, atol=1e-5)  # float32
    assert fit_temperature(logits[1], held_out.batch.labels.numpy()) == pytest.approx(1, abs=1e-3)

    def measure(temperature: float) -> float:
        powers = np.exp((logits[0] - logits[0].max(axis=1, keepdims=True)) / temperature)
        return float(log_loss(held_out.batch.labels.numpy(), powers / powers.sum(axis=1, keepdims=True)))

    tried = fit.temperature * np.array([0.5, 0.8, 1.25, 2])  # the further image moves the best one a little
    assert all(measure(fit.temperature) < measure(other) for other in tried)


def test_what_cannot_be_calibrated_is_refused_before_it_is_trained() -> None:
    """A teacher's classifier is not changed; heads are calibrated by themselves."""
    data = Repeated(batch(), 1)
    with pytest.raises(CompressError, match=r"train\.calibrate: what this method ships ends in a teacher's classifier"):
        loop.fit(build("simkd"), data, data, settings=TrainSection(epochs=1, calibrate=True))
    heads = build("dih").stages()[0]
    assert not heads.schedule(TrainSection(calibrate=True)).calibrate
