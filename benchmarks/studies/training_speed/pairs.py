"""Pairs of teacher and student in the speed benchmark.

Networks have random weights: the speed of a step does not depend on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from compress import Network, plugins
from compress.records import Record


class Pair(Record):
    """Teacher, student, and images."""

    name: str
    teacher: str
    """A plug-in of `compress/models`, or `torchvision.` and one of the names in `TORCHVISION`."""
    student: str
    size: int
    """Height and width of the images, in pixels."""
    classes: int
    batch_size: int
    padding: int
    """Pixels of border for random crops."""
    images: int


PAIRS = {
    pair.name: pair
    for pair in (
        Pair(
            name="resnet56-resnet20", teacher="resnet_cifar.resnet56", student="resnet_cifar.resnet20",
            size=32, classes=100, batch_size=128, padding=4, images=2048,
        ),
        Pair(
            name="resnet32x4-resnet8x4", teacher="resnet_cifar.resnet32x4", student="resnet_cifar.resnet8x4",
            size=32, classes=100, batch_size=128, padding=4, images=1024,
        ),
        Pair(
            name="resnet50-mobilenet_v3_small", teacher="torchvision.resnet50", student="torchvision.mobilenet_v3_small",
            size=224, classes=1000, batch_size=32, padding=28, images=256,
        ),
    )
}  # fmt: skip

TORCHVISION: Mapping[str, tuple[tuple[str, ...], str]] = {
    "resnet50": (("layer1", "layer2", "layer3", "layer4"), "fc"),
    "mobilenet_v3_small": (("features.1", "features.3", "features.8", "features.12"), "classifier.3"),
}
"""Taps, the last module of each resolution, and the classifier of the networks that we take from torchvision."""


def make_network(name: str, classes: int, *, seed: int) -> Network:
    """Return a network for RGB images with random weights that depend on the seed."""
    torch.manual_seed(seed)
    family, _, short = name.partition(".")
    if family != "torchvision":
        made: Network = plugins.load("models", name)(classes, 3)
        return made
    from torchvision import models

    taps, classifier = TORCHVISION[short]
    return Network(models.get_model(short, weights=None, num_classes=classes), taps=taps, classifier=classifier)


def settle(module: nn.Module, batches: Iterable[Tensor]) -> None:
    """Let batch norms take the mean statistics of batches [B, C, H, W], so that logits are of a usual size."""
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # a plain mean over all batches
    module.train()
    with torch.no_grad():
        for images in batches:
            module(images)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
