"""The network of the tiny run: without batch norm, so that its ONNX graph holds its weights as they are."""

from __future__ import annotations

from torch import nn


def build_tiny(classes: int, channels: int) -> nn.Module:
    """Return a network of two convolutions for images [B, C, 8, 8], with logits [B, K].

    Args:
        classes: K.
        channels: C.
    """
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(64, classes),
    )  # fmt: skip
