"""The segmenters of the study, and how each is trained on scenes: shortly, but until it finds digits."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from compress import plugins
from compress.data import Dataset, InMemory, Split
from compress.events import Events
from compress.methods import Setting
from compress.models import Network, build_model
from compress.preprocess import normalise
from compress.recipe import TrainSection
from compress.records import Preprocess
from compress.tasks import load_task
from compress.training import loop

SIZE, CLASSES, SEED = 48, 11, 0
CPU = torch.device("cpu")
BATCH_SIZE = 16
PLAIN = Preprocess(height=SIZE, width=SIZE, channels="rgb", mean=(0.0,) * 3, std=(1.0,) * 3)


class Kind(NamedTuple):
    """A network and how long it is trained."""

    model: str
    options: Mapping[str, Any]
    epochs: int
    lr: float = 3e-3


KINDS = {
    "tiny": Kind("segmenter.tiny", {}, 24, 6e-3),
    "small": Kind("segmenter.small", {}, 14),
    "mobilenet_v3_small": Kind("segmenter.any", {"backbone": "torchvision.mobilenet_v3_small"}, 14),
    "mobilenetv4_conv_small": Kind("segmenter.timm", {"architecture": "mobilenetv4_conv_small"}, 14),
    "resnet8": Kind("segmenter.any", {"backbone": "resnet_cifar.resnet8", "output_stride": 4}, 14),
}
"""Plain convolutions, residual blocks, squeeze-excite with hard-swish, depthwise convolutions of timm, and a network made for
32 pixels, of which only the deepest map is decoded."""


class Scenes(NamedTuple):
    """Images for training, and images on which files are judged."""

    data: Dataset
    preprocess: Preprocess

    @property
    def judged(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Normalised images, [N, C, H, W]."""
        return normalise(self.data.test.images, self.preprocess)


def load_scenes(train: int, test: int) -> Scenes:
    """Return scenes with one digit each, normalised by the mean and deviation of those for training."""
    source = plugins.load("data", "digit_scenes")(size=SIZE, train_scenes=train, test_scenes=test, digits=1)
    data = source.load(PLAIN)
    shares = data.train.images.reshape(-1, 3) / 255
    mean, std = (tuple(map(float, values)) for values in (shares.mean(axis=0), shares.std(axis=0)))
    return Scenes(data, PLAIN.model_copy(update={"mean": mean, "std": std}))


def train(name: str, scenes: Scenes, folder: Path, events: Events) -> tuple[Network, float]:
    """Return a trained network in evaluation mode and the seconds that it took; one that lies in the folder is taken from it.

    Args:
        name: A key of `KINDS`.
        scenes: What it is trained on.
        folder: Where weights are kept.
        events: Where progress goes.
    """
    kind, kept = KINDS[name], folder / f"{name}.pt"
    torch.manual_seed(SEED)
    network = build_model(kind.model, CLASSES, torch.zeros(1, 3, SIZE, SIZE), dict(kind.options))
    if kept.is_file():
        found = torch.load(kept, weights_only=True)
        network.load_state_dict(found["weights"])
        return network.eval(), float(found["seconds"])
    begun = time.process_time()
    settings = TrainSection(epochs=kind.epochs, batch_size=BATCH_SIZE, optimizer="adamw", lr=kind.lr, weight_decay=1e-2)
    _fit(network, scenes, settings, events)
    seconds = time.process_time() - begun
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"weights": network.state_dict(), "seconds": seconds}, kept)
    return network.eval(), seconds


def _fit(network: Network, scenes: Scenes, settings: TrainSection, events: Events) -> None:
    shown = scenes.data.train
    batches = InMemory(
        shown, scenes.preprocess, batch_size=BATCH_SIZE, device=CPU, shuffle=True, seed=SEED, crop_padding=4
    )  # fmt: skip
    few = Split(shown.images[: 4 * BATCH_SIZE], shown.labels[: 4 * BATCH_SIZE])
    image = torch.zeros(1, 3, SIZE, SIZE)
    method = plugins.load("methods", "supervised")(Setting(network, (), image, CLASSES, task=load_task("segmentation")))
    loop.fit(
        method, batches, InMemory(few, scenes.preprocess, batch_size=64, device=CPU), seed=SEED, events=events,
        settings=settings.model_copy(update={"select": "last"}),
    )  # fmt: skip
