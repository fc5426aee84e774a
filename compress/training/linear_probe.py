"""Linear probe: the classifier of a frozen network, fitted to features that are computed once.

It makes a teacher of a network that does not know the classes: a self-supervised backbone, or one that was trained on others.
The features are what the classifier reads. Each is brought to mean 0 and standard deviation 1 over the training images; a
multinomial logistic regression by scikit-learn (L-BFGS) is fitted for each strength of its L2 penalty, from the strongest on,
each from the one before; the best on the held-out images is kept, and the scaling becomes part of its weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.data import Batches
from compress.errors import CompressError
from compress.freezing import evaluating
from compress.models import Network
from compress.statistics.calibration import compute_cross_entropy
from compress.system.memory import measure_available_bytes
from compress.text import format_bytes

MOST_STEPS = 500
"""Of L-BFGS, for each penalty."""
COPIES = 3
"""Of the features that are in memory at a time."""

Features = NDArray[np.float32]
"""[N, D]."""


class LabelledFeatures(NamedTuple):
    """Features of the images of a split."""

    values: Features
    labels: NDArray[np.int64]
    """[N]."""


class Attempt(NamedTuple):
    """What one strength of the penalty came to."""

    ridge: float
    top1_percent: float
    """On the held-out images."""
    cross_entropy: float
    """The same."""
    steps: int
    weight: NDArray[np.float32]
    """[K, D]."""
    bias: NDArray[np.float32]
    """[K]."""

    @property
    def has_converged(self) -> bool:
        """Whether the fit ended before its last step."""
        return self.steps < MOST_STEPS


def compute_features(network: Network, batches: Batches, images: int) -> LabelledFeatures:
    """Return what the classifier of a network reads of every image, in order, computed in evaluation mode.

    Raises:
        CompressError: The network names no linear classifier, its classifier does not read one vector for each image, or the
            features do not fit into memory or are not finite.
    """
    layer, read = network.classifier, list[Tensor]()
    needed, free = COPIES * 4 * images * layer.in_features, measure_available_bytes()
    if needed > free:
        raise CompressError(
            f"probe: {images} images with {layer.in_features} features each need {format_bytes(needed)} of memory, and "
            f"{format_bytes(free)} is free; set data.train_images, or take a smaller teacher"
        )
    handle = layer.register_forward_pre_hook(lambda _layer, inputs: read.append(inputs[0].detach().float().cpu()))
    labels: list[Tensor] = []
    try:
        with evaluating(network):
            for batch in batches.epoch(0):
                network(batch.images)
                labels.append(batch.labels.cpu())
    finally:
        handle.remove()
    if len(read) != len(labels) or any(each.dim() != 2 for each in read):
        raise CompressError(
            f"probe: the classifier {network.classifier_name!r} does not read one vector for each image, as that of a "
            "classification does; take another network"
        )
    values = torch.cat(read).numpy()
    if not np.isfinite(values).all():
        raise CompressError("probe: the teacher's features are not finite; check its weights, and its mean and std")
    return LabelledFeatures(values, torch.cat(labels).numpy())


def fit_probe(
    train: LabelledFeatures, held_out: LabelledFeatures, *, classes: int, ridges: Sequence[float]
) -> tuple[Attempt, list[Attempt]]:
    """Return the attempt that is best on the held-out images, and all of them, the strongest penalty first.

    Args:
        train: What is fitted to.
        held_out: What chooses: by top-1, of equals by cross-entropy.
        classes: How many there are; one without a training image gets the mean of the others' weights, and so never answers.
        ridges: Strengths: of the L2 penalty ½·ridge·‖W‖² beside the mean cross-entropy, for features of standard deviation 1.

    Raises:
        CompressError: The training images are all of one class.
    """
    if len(np.unique(train.labels)) < 2:
        raise CompressError("probe: the training images are all of one class, and two are needed")
    tried = list(_try_ridges(train, held_out, classes, sorted(ridges, reverse=True)))
    return max(tried, key=lambda each: (each.top1_percent, -each.cross_entropy)), tried


def _try_ridges(
    train: LabelledFeatures, held_out: LabelledFeatures, classes: int, ridges: Sequence[float]
) -> Iterator[Attempt]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, std = train.values.mean(axis=0), train.values.std(axis=0)
    std = np.where(std > 1e-6 * max(float(std.max()), 1e-30), std, np.float32(np.inf))  # what never changes says nothing
    scaled = (train.values - mean) / std
    model = LogisticRegression(max_iter=MOST_STEPS, warm_start=True)
    for ridge in ridges:
        model.set_params(C=1 / (ridge * len(scaled)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the number of steps is told instead
            model.fit(scaled, train.labels)
        weight, bias = _place_classes(model.coef_, model.intercept_, model.classes_, classes, len(scaled))
        weight = weight / std
        bias = bias - weight @ mean
        logits = (held_out.values @ weight.T + bias).astype(np.float32)
        right = float((logits.argmax(axis=1) == held_out.labels).mean())
        entropy = compute_cross_entropy(logits, held_out.labels)
        steps = int(np.max(model.n_iter_))
        yield Attempt(ridge, 100 * right, entropy, steps, weight.astype(np.float32), bias.astype(np.float32))


def _place_classes(
    weight: NDArray[np.float64], bias: NDArray[np.float64], present: NDArray[np.int64], classes: int, images: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return weights [K, D] and biases [K] of all classes, given those of the present ones; of two, sklearn has one row."""
    if len(present) == 2 and len(weight) == 1:
        weight, bias = np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    whole = np.tile(weight.mean(axis=0), (classes, 1))
    levels = np.full(classes, bias.mean() - np.log(images + 1))
    whole[present], levels[present] = weight, bias
    return whole, levels


def set_classifier(network: Network, attempt: Attempt) -> None:
    """Put weights [K, D] and biases [K] into the classifier of a network.

    Raises:
        CompressError: It has no bias.
    """
    layer: nn.Linear = network.classifier
    if layer.bias is None:
        raise CompressError(f"probe: the classifier {network.classifier_name!r} has no bias; take another network")
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(attempt.weight))
        layer.bias.copy_(torch.from_numpy(attempt.bias))
