"""A small real network with every kind of layer that the project's students have."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLASSES, SHAPE = 5, (3, 12, 10)


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(features + self.norm(self.conv(features)))


class TinyNet(nn.Module):
    """Every kind of layer that the project's students have; dropout shows whether the file is in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(SHAPE[0], 8, 3, padding=1)
        self.block = Residual(8)
        self.down = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.drop = nn.Dropout(0.5)
        self.classifier = nn.Linear(16, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        features = self.down(self.block(self.stem(images)))
        logits: Tensor = self.classifier(self.drop(nn.functional.adaptive_avg_pool2d(features, 1).flatten(1)))
        return logits


def build_network() -> TinyNet:
    """Return a network with uneven batch-norm statistics and logits of RMS about 4, left in training mode on purpose."""
    torch.manual_seed(0)
    made = TinyNet()
    with torch.no_grad():
        for _ in range(3):
            made(torch.randn(16, *SHAPE) + 0.3)
        made.classifier.weight.mul_(30)
    return made
