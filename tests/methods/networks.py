"""Networks with feature maps of chosen widths and sizes, and settings that pair them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress import freezing
from compress.data import Batch
from compress.methods import Method, Setting, Step
from compress.models import Network

CLASSES = 4


class Stages(nn.Module):
    """One convolution with ReLU for each width, named stage1, stage2, …, and a classifier on the pooled last map."""

    def __init__(self, widths: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        inputs = [1, *widths]
        for i, (width, stride) in enumerate(zip(widths, strides, strict=True)):
            self.add_module(f"stage{i + 1}", nn.Sequential(nn.Conv2d(inputs[i], width, 3, stride, padding=1), nn.ReLU()))
        self.classifier = nn.Linear(widths[-1], CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        for name, stage in self.named_children():
            images = stage(images) if name != "classifier" else images
        logits: Tensor = self.classifier(images.mean(dim=(2, 3)))
        return logits


def network(widths: Sequence[int], strides: Sequence[int]) -> Network:
    return Network(Stages(widths, strides), taps=[f"stage{i + 1}" for i in range(len(widths))], classifier="classifier")


def student() -> Network:
    """Maps of 8, 4 and 2 pixels a side."""
    return network((2, 3, 4), (1, 2, 2))


def wide() -> Network:
    """Maps of 8, 4 and 2 pixels a side."""
    return network((4, 5, 6), (1, 2, 2))


def coarse() -> Network:
    """Maps of 4, 4 and 1 pixels a side."""
    return network((3, 7, 5), (2, 1, 4))


def setting(*teachers: Network, learner: Network | None = None) -> Setting:
    return Setting(learner or student(), teachers or (wide(),), torch.randn(1, 1, 8, 8), CLASSES)


def batch(size: int = 6) -> Batch:
    return Batch(torch.randn(size, 1, 8, 8), torch.arange(size) % CLASSES)


def training(method: Method, data: Batch) -> Step:
    """Return one batch as the loop would give it, with batch-norm of the method's modules in training mode."""
    freezing.freeze_all_but(method, method.phases()["student"])
    return method.step(data)


class Small(nn.Module):
    """A convolution of some stride with batch norm and an activation, then a head."""

    def __init__(self, width: int, stride: int = 1, *, signed: bool = False, head: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, stride=stride, padding=1, bias=False)
        self.last = nn.Sequential(nn.BatchNorm2d(width), nn.Identity() if signed else nn.ReLU())
        self.head = head or nn.Linear(width, 4)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(F.adaptive_avg_pool2d(self.last(self.conv(images)), 1).flatten(1))
        return logits


def small(width: int, stride: int = 1, *, signed: bool = False) -> Network:
    return unsettled(Network(Small(width, stride, signed=signed), taps=("last",), classifier="head"))


def unsettled(network: Network) -> Network:
    """Return a network whose batch-norm statistics, scales and shifts are not those of a fresh one."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            unsettle(module)
    return network


def unsettle(norm: nn.BatchNorm2d) -> None:
    with torch.no_grad():
        norm.running_mean.normal_(0, 0.3)
        norm.running_var.uniform_(0.5, 1.5)
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_(0, 0.3)


def between(student: Network, *teachers: Network, size: int = 8) -> Setting:
    return Setting(student, teachers, torch.randn(1, 1, size, size), 4)
