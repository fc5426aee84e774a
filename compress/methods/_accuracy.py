"""Accuracy of a network on held-out batches, for the tables that methods add to the report."""

from __future__ import annotations

from torch import nn

from compress.data import Batches
from compress.freezing import evaluating
from compress.records import Accuracy


def measure_accuracy(network: nn.Module, batches: Batches) -> Accuracy:
    """Return the top-1 accuracy of a network, images [B, C, H, W] to logits [B, K], in evaluation mode."""
    hits = samples = 0
    with evaluating(network):
        for batch in batches.epoch(0):
            hits += int((network(batch.images).argmax(dim=1) == batch.labels).sum())
            samples += len(batch.labels)
    return Accuracy.from_hits(hits, samples)
