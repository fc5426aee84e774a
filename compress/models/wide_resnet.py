"""Wide residual networks for small images: WRN-d-k has depth d and k times the channels 16-32-64.

Pre-activation: batch norm and ReLU stand before each convolution, so what a block group adds up is not yet activated. Taps are
the outputs of the first two groups as they are, and of the third after the final batch norm and ReLU: what the classifier
pools. The second and third group halve the size; any input from 8 × 8 pixels works.

Source: Zagoruyko and Komodakis, "Wide Residual Networks", arXiv:1605.07146, section 2 and table 1.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from compress.models import Network
from compress.recipe import Share


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        residual = F.relu(self.bn2(self.conv1(active)))
        residual = self.conv2(self.dropout(residual))
        straight = (
            x if self.shortcut is None else self.shortcut(active)
        )  # the first block of a group projects what is activated
        total: Tensor = straight + residual
        return total


class _WideResNet(nn.Module):
    def __init__(self, blocks: int, widen: int, classes: int, channels: int, dropout: float) -> None:
        super().__init__()
        first, second, third = 16 * widen, 32 * widen, 64 * widen
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.group1 = _group(blocks, 16, first, 1, dropout)
        self.group2 = _group(blocks, first, second, 2, dropout)
        self.group3 = _group(blocks, second, third, 2, dropout)
        self.bn1 = nn.BatchNorm2d(third)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(third, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        x = self.group1(self.conv1(images))  # [B, 16k, H, W]
        x = self.group3(self.group2(x))  # [B, 64k, H/4, W/4]
        x = F.adaptive_avg_pool2d(self.relu(self.bn1(x)), 1).flatten(1)  # [B, 64k]
        logits: Tensor = self.linear(x)
        return logits


def _group(blocks: int, inputs: int, outputs: int, stride: int, dropout: float) -> nn.Sequential:
    first = _Block(inputs, outputs, stride, dropout)
    return nn.Sequential(first, *(_Block(outputs, outputs, 1, dropout) for _ in range(blocks - 1)))


def _network(depth: int, widen: int, classes: int, channels: int, dropout: float) -> Network:
    module = _WideResNet((depth - 4) // 6, widen, classes, channels, dropout)
    return Network(module, taps=("group1", "group2", "relu"), classifier="linear")


def wrn_16_1(classes: int, channels: int, *, dropout: Share = 0.0) -> Network:
    """WRN-16-1 for small images, 0.2 million parameters.

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        dropout: Share of activations that is dropped between the convolutions of a block while training.
    """
    return _network(16, 1, classes, channels, dropout)


def wrn_16_2(classes: int, channels: int, *, dropout: Share = 0.0) -> Network:
    """WRN-16-2 for small images, 0.7 million parameters.

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        dropout: Share of activations that is dropped between the convolutions of a block while training.
    """
    return _network(16, 2, classes, channels, dropout)


def wrn_28_2(classes: int, channels: int, *, dropout: Share = 0.0) -> Network:
    """WRN-28-2 for small images, 1.5 million parameters.

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        dropout: Share of activations that is dropped between the convolutions of a block while training.
    """
    return _network(28, 2, classes, channels, dropout)


def wrn_40_1(classes: int, channels: int, *, dropout: Share = 0.0) -> Network:
    """WRN-40-1 for small images, 0.6 million parameters.

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        dropout: Share of activations that is dropped between the convolutions of a block while training.
    """
    return _network(40, 1, classes, channels, dropout)


def wrn_40_2(classes: int, channels: int, *, dropout: Share = 0.0) -> Network:
    """WRN-40-2 for small images, 2.2 million parameters.

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        dropout: Share of activations that is dropped between the convolutions of a block while training.
    """
    return _network(40, 2, classes, channels, dropout)
