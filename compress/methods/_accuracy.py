"""Accuracy of a network on held-out batches, for the tables that methods add to the report."""

from __future__ import annotations

import numpy as np
from torch import nn

from compress.data import Batches
from compress.freezing import evaluating
from compress.records import Accuracy
from compress.tasks import CLASSIFICATION, Task


def measure_accuracy(network: nn.Module, batches: Batches, task: Task = CLASSIFICATION) -> Accuracy:
    """Return the task's metric of a network, images [B, C, H, W] to logits [B, K, ...], in evaluation mode."""
    tallies, classes = [], 1
    with evaluating(network):
        for batch in batches.epoch(0):
            logits = network(batch.images).float().cpu().numpy()
            classes = max(classes, logits.shape[1])
            tallies.append(task.tally(logits, batch.labels.cpu().numpy()))
    return task.measure(np.concatenate(tallies), classes)
