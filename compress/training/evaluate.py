"""Evaluate a network or a stage on the images of a split."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from compress.data import Batch, Batches
from compress.freezing import evaluating
from compress.methods import Method, Signals
from compress.records import Accuracy, Calibration
from compress.statistics.calibration import BINS, compute_calibration_error, compute_cross_entropy, fit_temperature
from compress.tasks import CLASSIFICATION, Labels, Logits, Tallies, Task

SPILLED_BYTES = 1 << 28
"""Of logits from which on they are kept in a file."""


def measure_accuracy(logits: Logits, labels: Labels, task: Task = CLASSIFICATION) -> Accuracy:
    """Return the task's metric of logits [N, K, ...] against labels [N, ...]."""
    return task.measure(task.tally(logits, labels), task.count_classes(logits.shape))


def measure_calibration(logits: tuple[Logits, Logits], labels: tuple[Labels, Labels], task: Task) -> Calibration | None:
    """Return how well scores of the test split are calibrated, and the temperature that fits those of the validation split.

    Args:
        logits: Of the validation and of the test split, [N, K] each.
        labels: Of the same, [N] each.
        task: What is done; where that is no classification of whole images, there is no one score for an image, and no result.
    """
    if task.name != CLASSIFICATION.name:
        return None
    (validation, test), (of_validation, of_test) = logits, labels
    temperature = fit_temperature(validation, of_validation)
    scaled = test / temperature
    return Calibration(
        samples=len(of_test),
        nll=compute_cross_entropy(test, of_test),
        ece_percent=100 * compute_calibration_error(test, of_test),
        bins=BINS,
        temperature=temperature,
        scaled_nll=compute_cross_entropy(scaled, of_test),
        scaled_ece_percent=100 * compute_calibration_error(scaled, of_test),
    )


def compute_logits(module: nn.Module, batches: Batches, *, images: int | None = None) -> Logits:
    """Return the logits of every image in order, [N, K, ...], computed in evaluation mode and float32; modes are restored.

    Args:
        module: The network.
        batches: The images.
        images: How many there are, where it is known: logits that would fill the memory are then kept in a file without a name,
            which is gone when nobody reads it any more.
    """
    with evaluating(module):
        outputs = (module(batch.images).float().cpu().numpy() for batch in batches.epoch(0))
        first = next(outputs)
        if images is None or images * first[0].nbytes < SPILLED_BYTES:
            return np.concatenate([first, *outputs])
        with tempfile.TemporaryFile() as file:
            kept = np.memmap(file, dtype=np.float32, mode="w+", shape=(images, *first.shape[1:]))
        begin = 0
        for some in chain([first], outputs):
            kept[begin : begin + len(some)] = some
            begin += len(some)
        return kept


def compute_all_logits(modules: Sequence[nn.Module], batches: Batches) -> tuple[list[Logits], Labels]:
    """Return the logits of several networks, [N, K, ...] each, with the labels of the same images, [N, ...].

    All is read in one pass: many loaders give another order in each, which would part logits from labels.

    Args:
        modules: The networks; each is held in evaluation mode and gets its modes back.
        batches: The images.
    """
    outputs: list[list[Tensor]] = [[] for _ in modules]
    labels: list[Tensor] = []
    with evaluating(nn.ModuleList(modules)):
        for batch in batches.epoch(0):
            labels.append(batch.labels.cpu())
            for module, collected in zip(modules, outputs, strict=True):
                collected.append(module(batch.images).float().cpu())
    return [torch.cat(collected).numpy() for collected in outputs], torch.cat(labels).numpy()


def collect_labels(batches: Batches) -> Labels:
    """Return the labels of every image in order, [N, ...]."""
    result: Labels = torch.cat([batch.labels.cpu() for batch in batches.epoch(0)]).numpy()
    return result


def validate(
    method: Method, batches: Batches, get_signals: Callable[[Batch], Signals | None] = lambda _batch: None
) -> dict[str, Accuracy]:
    """Return the accuracy of each network or head that the method validates, in evaluation mode; modes are restored.

    Args:
        method: The stage.
        batches: Held-out images, whole and in order.
        get_signals: Returns outputs of frozen teachers for a batch; those that it does not give are computed.
    """
    tallies: dict[str, list[Tallies]] = {}
    classes, task = 1, method.task
    with evaluating(method):
        for batch in batches.epoch(0):
            labels = batch.labels.cpu().numpy()
            for name, given in method.predictions(method.step(batch, signals=get_signals(batch))).items():
                classes = max(classes, task.count_classes(given.shape))
                tallies.setdefault(name, []).append(task.tally(given.float().cpu().numpy(), labels))
    return {name: task.measure(np.concatenate(found), classes) for name, found in tallies.items()}
