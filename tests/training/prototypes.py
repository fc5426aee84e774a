"""A teacher that knows its classes by heart, and images of them, for tests of how a given teacher is fed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from compress.input_probes import Convention
from compress.models import Network
from compress.training.given_teacher import HeldOut

CLASSES = tuple(sorted(str(number) for number in range(12)))
NOW = Convention("", (0.3, 0.5, 0.65), (0.15, 0.25, 0.4))


class Prototypes(nn.Module):
    """Answers with the class whose prototype is nearest, in the numbers that it takes."""

    def __init__(self, prototypes: np.ndarray) -> None:
        super().__init__()
        flat = torch.from_numpy(prototypes.reshape(len(prototypes), -1)).double()
        scale = float(flat.var())
        self.weight, self.bias = nn.Parameter(2 * flat / scale), nn.Parameter(-flat.square().sum(dim=1) / scale)

    def forward(self, images: Tensor) -> Tensor:
        return (images.flatten(1).double() @ self.weight.T + self.bias).float()


def make_data(depth: int = 3, count: int = 240, noise: float = 0.15) -> tuple[np.ndarray, HeldOut]:
    """Return prototypes [K, C, 8, 8] and images of them, of several brightnesses and colours."""
    draws = np.random.default_rng(0)
    tints = draws.uniform(0.1, 0.9, (len(CLASSES), depth, 1, 1))
    prototypes = (tints + draws.uniform(-0.1, 0.1, (len(CLASSES), depth, 8, 8))).astype(np.float32)
    labels = draws.integers(len(CLASSES), size=count)
    shares = (prototypes[labels] + draws.normal(0, noise, (count, depth, 8, 8))).astype(np.float32)
    return prototypes, HeldOut(shares, labels)


def build(prototypes: np.ndarray, trained: Convention, order: np.ndarray | None = None) -> Network:
    taught = trained.apply(prototypes)
    return Network(Prototypes(taught if order is None else taught[order]), taps=())
