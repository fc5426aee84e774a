"""Layers of a classifier head: pooling, standardised channels, one linear layer."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.errors import CompressError

EPSILON = 1e-5
"""Added to the variance of a channel, as batch normalisation does."""
LARGEST_SQUARED_NORM = 512.0
"""Mean squared norm to which the standardised features of a head are scaled down. The Hessian of softmax regression is at most
half the second moment of its input, whose trace is this norm; so with momentum 0.9 every learning rate below
2 × 1.9 / (512 / 2) = 0.0148 is stable, for features of any size and number."""


class StandardisedLinear(nn.Linear):
    """Linear layer on standardised channels, [B, c·s] -> [B, classes]; in evaluation the statistics are part of its weight.

    Args:
        channels: Number of channels c.
        cells: Values s of each channel, which lie side by side.
        classes: Number of classes.
    """

    def __init__(self, channels: int, cells: int, classes: int) -> None:
        super().__init__(channels * cells, classes)
        self.channels, self.cells = channels, cells
        self.gain = min(1.0, math.sqrt(LARGEST_SQUARED_NORM / self.in_features))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.mean: Tensor
        self.variance: Tensor

    def forward(self, features: Tensor) -> Tensor:
        """Return logits, [B, c·s] -> [B, classes]; in training the statistics are those of the batch."""
        if self.training:
            by_channel = features.unflatten(1, (self.channels, self.cells))
            standard = F.batch_norm(by_channel, self.mean, self.variance, training=True)
            return F.linear(standard.flatten(1) * self.gain, self.weight, self.bias)
        factor = self.gain * (self.variance + EPSILON).rsqrt()
        centred = features - self.mean.repeat_interleave(self.cells)
        return F.linear(centred, self.weight * factor.repeat_interleave(self.cells), self.bias)


def build_head(kind: str, feature: Tensor, classes: int, tap: str, *, standardise: bool = True) -> nn.Module:
    """Return a head for maps [B, c, h, w], tokens [B, t, c] or vectors [B, c], that gives logits [B, classes].

    Args:
        kind: flatten, pool4, gap or conv.
        feature: What the tap gives for one image; only its shape is read.
        classes: Number of classes.
        tap: Its name, for messages.
        standardise: Standardise the channels before the linear layer, and before the convolution.

    Raises:
        CompressError: The kind of head does not fit the shape.
    """
    side = {"flatten": None, "pool4": 4, "gap": 1, "conv": 1}[kind]
    if feature.dim() not in (2, 3, 4):
        raise CompressError(
            f"method.dih.taps: {tap!r} gives {list(feature.shape)}; name taps with maps [B, c, h, w], tokens [B, t, c] or "
            "vectors [B, c]"
        )
    if kind == "conv" and feature.dim() != 4:
        raise CompressError(
            f"method.dih.head: 'conv' needs maps [B, c, h, w], and {tap!r} gives {list(feature.shape)}; use gap"
        )
    channels = feature.shape[2] if feature.dim() == 3 else feature.shape[1]
    before = _list_layers_before_pool(feature, convolve=kind == "conv", standardise=standardise)
    pool, cells = _build_pool(feature, side)
    linear = StandardisedLinear(channels, cells, classes) if standardise else nn.Linear(channels * cells, classes)
    return nn.Sequential(_Widen(), *before, *pool, nn.Flatten(), linear)


def _list_layers_before_pool(feature: Tensor, *, convolve: bool, standardise: bool) -> list[nn.Module]:
    if feature.dim() == 3:
        return [_ChannelsFirst()]
    if not convolve:
        return []
    channels = feature.shape[1]
    standard = [nn.BatchNorm2d(channels, affine=False)] if standardise else []
    return [*standard, nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]


def _build_pool(feature: Tensor, side: int | None) -> tuple[list[nn.Module], int]:
    """Return the pool of a head and the number of values that it leaves of each channel.

    Args:
        feature: What the tap gives for one image; only its shape is read.
        side: Of the pooled map; `None` keeps the whole.
    """
    if feature.dim() == 2:
        return [], 1
    if feature.dim() == 3:
        tokens = feature.shape[1]
        cells = tokens if side is None else min(side**2, tokens)
        return ([] if side is None else [nn.AdaptiveAvgPool1d(cells)]), cells
    height, width = feature.shape[2:]
    if side is None:
        return [], height * width
    height, width = min(side, height), min(side, width)
    return [nn.AdaptiveAvgPool2d((height, width))], height * width


def build_dense_head(feature: Tensor, classes: int, tap: str, *, standardise: bool = True) -> nn.Module:
    """Return a head of one 1×1 convolution on maps [B, c, h, w], that gives dense logits [B, classes, h, w].

    Args:
        feature: What the tap gives for one image; only its shape is read.
        classes: Number of classes.
        tap: Its name, for messages.
        standardise: Standardise the channels first.

    Raises:
        CompressError: The tap gives no map.
    """
    if feature.dim() != 4:
        raise CompressError(f"method.dih.taps: {tap!r} gives {list(feature.shape)}; dense heads need maps [B, c, h, w]")
    channels = feature.shape[1]
    standard = [nn.BatchNorm2d(channels, affine=False)] if standardise else []
    return nn.Sequential(_Widen(), *standard, nn.Conv2d(channels, classes, 1))


class _Widen(nn.Module):
    """Half precision as float32, so that a map gives the same whether it was just computed or kept on disk."""

    def forward(self, features: Tensor) -> Tensor:
        return features.float()


class _ChannelsFirst(nn.Module):
    """Tokens [B, t, c] as [B, c, t], which is what pools read."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.transpose(1, 2)
