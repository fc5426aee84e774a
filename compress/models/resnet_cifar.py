"""Residual networks for small images: ResNet-8 to ResNet-110 with 16-32-64 channels, and the four times wider 8x4 and 32x4.

Three stages of n basic blocks (depth 6n + 2); the second and third halve the size; global average pooling, so any input from
8 × 8 pixels works. Taps are the outputs of the stages, after their last ReLU.

Source: He et al., "Deep Residual Learning for Image Recognition", arXiv:1512.03385, section 4.2. Names of layers follow
akamaster/pytorch_resnet_cifar10, so its weights load. The wide ones are those of Tian et al., "Contrastive Representation
Distillation", arXiv:1910.10699 (RepDistiller): 32 channels in the stem, stages 64-128-256, projections where sizes change.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from compress.models import Network


class _Subsample(nn.Module):
    """Shortcut A: every second pixel, and channels of zeros on both sides; it has no parameters."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (outputs - inputs) // 2
        self.after = outputs - inputs - self.before

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))


def _build_projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Shortcut B."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = (_Subsample if shortcut == "A" else _build_projection)(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        residual = F.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        return F.relu(residual + self.shortcut(x))


class _ResNet(nn.Module):
    def __init__(self, blocks: int, widths: tuple[int, int, int, int], classes: int, channels: int, shortcut: str) -> None:
        super().__init__()
        stem, first, second, third = widths
        self.conv1 = nn.Conv2d(channels, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = _build_stage(blocks, stem, first, 1, shortcut)
        self.layer2 = _build_stage(blocks, first, second, 2, shortcut)
        self.layer3 = _build_stage(blocks, second, third, 2, shortcut)
        self.linear = nn.Linear(third, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))  # [B, stem, H, W]
        x = self.layer3(self.layer2(self.layer1(x)))  # [B, third, H/4, W/4]
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)  # [B, third]
        logits: Tensor = self.linear(x)
        return logits


def _build_stage(blocks: int, inputs: int, outputs: int, stride: int, shortcut: str) -> nn.Sequential:
    first = _Block(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(_Block(outputs, outputs, 1, shortcut) for _ in range(blocks - 1)))


def _build_network(
    depth: int, classes: int, channels: int, shortcut: str, widths: tuple[int, int, int, int] = (16, 16, 32, 64)
) -> Network:
    module = _ResNet((depth - 2) // 6, widths, classes, channels, shortcut)
    return Network(module, taps=("layer1", "layer2", "layer3"), classifier="linear")


def resnet8(classes: int, channels: int, *, shortcut: Literal["A", "B"] = "A") -> Network:
    """ResNet-8 for small images, 0.08 million parameters.

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        shortcut: Where sizes change: `A` subsamples and pads with zeros, `B` is a 1 × 1 convolution with batch norm.
    """
    return _build_network(8, classes, channels, shortcut)


def resnet14(classes: int, channels: int, *, shortcut: Literal["A", "B"] = "A") -> Network:
    """ResNet-14 for small images, 0.17 million parameters.

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        shortcut: Where sizes change: `A` subsamples and pads with zeros, `B` is a 1 × 1 convolution with batch norm.
    """
    return _build_network(14, classes, channels, shortcut)


def resnet20(classes: int, channels: int, *, shortcut: Literal["A", "B"] = "A") -> Network:
    """ResNet-20 for small images, 0.27 million parameters.

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        shortcut: Where sizes change: `A` subsamples and pads with zeros, `B` is a 1 × 1 convolution with batch norm.
    """
    return _build_network(20, classes, channels, shortcut)


def resnet32(classes: int, channels: int, *, shortcut: Literal["A", "B"] = "A") -> Network:
    """ResNet-32 for small images, 0.46 million parameters.

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        shortcut: Where sizes change: `A` subsamples and pads with zeros, `B` is a 1 × 1 convolution with batch norm.
    """
    return _build_network(32, classes, channels, shortcut)


def resnet44(classes: int, channels: int, *, shortcut: Literal["A", "B"] = "A") -> Network:
    """ResNet-44 for small images, 0.66 million parameters.

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        shortcut: Where sizes change: `A` subsamples and pads with zeros, `B` is a 1 × 1 convolution with batch norm.
    """
    return _build_network(44, classes, channels, shortcut)


def resnet56(classes: int, channels: int, *, shortcut: Literal["A", "B"] = "A") -> Network:
    """ResNet-56 for small images, 0.85 million parameters.

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        shortcut: Where sizes change: `A` subsamples and pads with zeros, `B` is a 1 × 1 convolution with batch norm.
    """
    return _build_network(56, classes, channels, shortcut)


def resnet110(classes: int, channels: int, *, shortcut: Literal["A", "B"] = "A") -> Network:
    """ResNet-110 for small images, 1.73 million parameters.

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        shortcut: Where sizes change: `A` subsamples and pads with zeros, `B` is a 1 × 1 convolution with batch norm.
    """
    return _build_network(110, classes, channels, shortcut)


def resnet8x4(classes: int, channels: int) -> Network:
    """ResNet-8 for small images with four times the channels, 1.2 million parameters.

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
    """
    return _build_network(8, classes, channels, "B", widths=(32, 64, 128, 256))


def resnet32x4(classes: int, channels: int) -> Network:
    """ResNet-32 for small images with four times the channels, 7.4 million parameters.

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
    """
    return _build_network(32, classes, channels, "B", widths=(32, 64, 128, 256))
