"""The networks that are timed and their files. Weights are random: how long a call takes does not depend on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compress import plugins
from exporters import export

if TYPE_CHECKING:
    from compress.models import Network

IMAGES = 64
"""Images for calibration and, the first 16 of them, for timing."""
PRECISIONS = ("fp32", "int8")
FORMATS = {"onnxruntime": "onnx", "openvino": "openvino"}
"""By runtime."""


@dataclass(frozen=True)
class TimedNetwork:
    """A network by its plug-in and the shape of its images."""

    model: str
    classes: int
    channels: int
    size: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of one image, [1, C, H, W]."""
        return 1, self.channels, self.size, self.size


NETWORKS = {
    "digits": TimedNetwork("resnet_cifar.resnet8", classes=10, channels=1, size=16),
    "resnet20": TimedNetwork("resnet_cifar.resnet20", classes=10, channels=3, size=32),
    "mobilenet_v3_small": TimedNetwork("torchvision.mobilenet_v3_small", classes=1000, channels=3, size=224),
}
"""The student of `recipes/digits.yaml`, and two that others know."""


class File(NamedTuple):
    """One file of a network on one runtime."""

    network: str
    precision: str
    runtime: str
    path: Path


def make_images(candidate: TimedNetwork) -> NDArray[np.float32]:
    """Return random images, [64, C, H, W]."""
    return np.random.default_rng(0).standard_normal((IMAGES, *candidate.shape[1:]), dtype=np.float32)


def write_files(name: str, folder: Path) -> Iterator[File]:
    """Write a network in every precision for every runtime, int8 on the first rung of the ladder, and yield each file.

    Raises:
        CompressError: A format cannot hold the network.
        Unreachable: A package is missing or the disk is full.
    """
    import torch

    candidate = NETWORKS[name]
    network, images = build_network(candidate), make_images(candidate)
    for precision in PRECISIONS:
        for runtime, file_format in FORMATS.items():
            options = {"precision": precision}
            path = plugins.load("exporters", file_format)(**options).name_file(folder, name)
            calibration = images if precision == "int8" else None
            export(
                network,
                torch.zeros(candidate.shape),
                path,
                format=file_format,
                options=options,
                calibration=calibration,
            )
            yield File(name, precision, runtime, path)


def build_network(candidate: TimedNetwork) -> Network:
    """Return a network whose activations are of the size that they have in a trained one.

    Batch norm sees random images for that: left alone, deep activations may become numbers that processors are slow with.
    """
    import torch

    torch.manual_seed(0)
    network: Network = plugins.load("models", candidate.model)(candidate.classes, candidate.channels)
    images = torch.from_numpy(make_images(candidate))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    network.train()
    with torch.no_grad():
        for batch in images.split(16):
            network(batch)
    return network.eval()
