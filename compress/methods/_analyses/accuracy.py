"""Accuracy of a network on held-out batches, for the tables that methods add to the report."""

from __future__ import annotations

import numpy as np
from torch import nn

from compress.data import Batches
from compress.freezing import evaluating
from compress.methods._method import Method
from compress.records import Accuracy
from compress.tasks import CLASSIFICATION, Tallies, Task


def measure_accuracy(network: nn.Module, batches: Batches, task: Task = CLASSIFICATION) -> Accuracy:
    """Return the task's metric of a network, images [B, C, H, W] to logits [B, K, ...], in evaluation mode."""
    tallies, classes = [], 1
    with evaluating(network):
        for batch in batches.epoch(0):
            logits = network(batch.images).float().cpu().numpy()
            classes = max(classes, task.count_classes(logits.shape))
            tallies.append(task.tally(logits, batch.labels.cpu().numpy()))
    return task.measure(np.concatenate(tallies), classes)


def measure_predictions(method: Method, batches: Batches) -> dict[str, Accuracy]:
    """Return the task's metric of each network or head that a method predicts with, by name, in evaluation mode."""
    tallies: dict[str, list[Tallies]] = {}
    classes = 1
    with evaluating(method):
        for batch in batches.epoch(0):
            for name, logits in method.predictions(method.step(batch)).items():
                classes = max(classes, method.task.count_classes(logits.shape))
                rows = method.task.tally(logits.float().cpu().numpy(), batch.labels.cpu().numpy())
                tallies.setdefault(name, []).append(rows)
    return {name: method.task.measure(np.concatenate(found), classes) for name, found in tallies.items()}
