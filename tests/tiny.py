"""The smallest networks, settings, batches and splits that tests of several folders share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from compress import plugins
from compress.data import Batch, InMemory, Split
from compress.methods import Forward, Method, Setting
from compress.models import Network, Outputs
from compress.records import Preprocess

CPU = torch.device("cpu")

PREPROCESS = Preprocess(height=8, width=8, channels="gray", mean=(0.5,), std=(0.25,))


class Tiny(nn.Module):
    """Two convolutional stages with batch-norm and a linear classifier."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.second = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU()
        )
        self.dropout = nn.Dropout(0.1)
        self.linear = nn.Linear(2 * width, 4)

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.second(self.first(images)).mean(dim=(2, 3))
        logits: Tensor = self.linear(self.dropout(pooled))
        return logits


def tiny(width: int) -> Network:
    return Network(Tiny(width), taps=("first", "second"), classifier="linear")


def is_dense(name: str) -> bool:
    """Tell whether a network that a recipe names so is one for segmentation."""
    return name.partition(".")[0] in {"segmenter", "torchvision_segmentation"}


def setting(teachers: int = 1) -> Setting:
    """Return a student, teachers of different widths, and how to build one more student."""
    widths = [8 - 2 * index for index in range(teachers)]
    return Setting(tiny(2), tuple(tiny(width) for width in widths), torch.zeros(1, 1, 8, 8), 4, lambda _role: tiny(2))


def batch(size: int = 16) -> Batch:
    return Batch(torch.randn(size, 1, 8, 8), torch.arange(size) % 4)


class Repeated:
    """The same batch again and again."""

    def __init__(self, batch: Batch, count: int) -> None:
        self.batch, self.count = batch, count

    def __len__(self) -> int:
        return self.count

    def epoch(self, _epoch: int, start: int = 0) -> Iterator[Batch]:
        yield from [self.batch] * (self.count - start)


def split(count: int = 70) -> Split:
    random = np.random.default_rng(0)
    labels = np.arange(count, dtype=np.int64) % 4
    images = random.integers(0, 64, size=(count, 8, 8, 1), dtype=np.uint8)
    images[np.arange(count), labels * 2] += 150  # each class has a bright row, so there is something to learn
    return Split(images, labels)


def data(size: int = 16) -> InMemory:
    return InMemory(split(), PREPROCESS, batch_size=size, device=CPU, shuffle=True, seed=3, crop_padding=1, flip=True)


def held_out() -> InMemory:
    return InMemory(split(), PREPROCESS, batch_size=32, device=CPU)


def fresh(name: str = "kd", where: Setting | None = None) -> Method:
    torch.manual_seed(0)
    method: Method = plugins.load("methods", name)(where or setting())
    return method


def weights(method: Method) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in method.state_dict().items()}


class Counted:
    """A forward pass that counts how often it is asked."""

    def __init__(self, forward: Forward) -> None:
        self.forward, self.steps = forward, 0

    def __call__(self, images: Tensor) -> Outputs:
        self.steps += 1
        return self.forward(images)


TRIED = 3
"""Passes of an engine that settings name, before the first step: one that compiles, one that is timed, one that is compared."""
