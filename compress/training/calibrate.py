"""Calibration of a trained network within its last layer: the scores of a file made of it need no temperature any more."""

from __future__ import annotations

import torch
from torch import nn

from compress.data import Batches
from compress.errors import CompressError
from compress.methods import Method
from compress.models import Network
from compress.statistics.calibration import fit_temperature
from compress.tasks import CLASSIFICATION
from compress.training import evaluate


def find_classifier(method: Method) -> nn.Linear:
    """Return the layer that gives the logits of what a stage ships.

    Raises:
        CompressError: There is no one layer, it belongs to a teacher, or the task is no classification.
    """
    network = method.deployable()
    if method.task.name != CLASSIFICATION.name:
        raise CompressError(f"train.calibrate: answers of {method.task.name} have no one score for an image; remove it")
    if network is not method.student or not isinstance(network, Network):
        raise CompressError(
            "train.calibrate: what this method ships ends in a teacher's classifier, which is not changed; remove it, and "
            "divide logits by the temperature in the manifest"
        )
    try:
        return network.classifier
    except CompressError as error:
        raise CompressError(f"train.calibrate: {error}") from error


def calibrate(method: Method, validation: Batches) -> float:
    """Divide the logits of what a stage ships by the temperature that fits the held-out images best, and return that.

    Args:
        method: The finished stage, with its selected weights.
        validation: The held-out images, whole and in order.

    Raises:
        CompressError: The logits come from no layer of the student.
    """
    layer = find_classifier(method)
    labels = torch.cat([batch.labels for batch in validation.epoch(0)]).cpu().numpy()
    temperature = fit_temperature(evaluate.compute_logits(method.deployable(), validation), labels)
    with torch.no_grad():
        layer.weight.div_(temperature)
        if layer.bias is not None:
            layer.bias.div_(temperature)
    return temperature
