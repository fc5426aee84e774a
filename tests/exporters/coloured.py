"""A real task on which every kind of damage costs accuracy, and networks that are trained on it within seconds.

Five of scikit-learn's digits, written in reddish or bluish on dark ground: ten classes that need shape and colour, so that
swapped channels, a flipped image and a lost layer all show. The gray task is the ten digits themselves. Images are higher than
wide. Everything follows from a seed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn

from benchmarks.runtimes.onnxruntime import Onnxruntime
from benchmarks.runtimes.openvino import Openvino as OpenvinoRuntime
from compress.errors import CompressError
from compress.preprocess import measure_statistics, normalise
from compress.recipe import GateSection
from compress.records import Gate, Precision, Preprocess
from exporters import About, Quantization
from exporters.bundle import bundle
from exporters.onnx import Onnx
from exporters.openvino import Openvino

HEIGHT, WIDTH, HELD_OUT = 10, 8, 250
Task = Literal["rgb", "gray"]
EXPORTERS: dict[str, type[Onnx | Openvino]] = {"onnx": Onnx, "openvino": Openvino}


class Data(NamedTuple):
    """Training and held-out images with what a manifest says of them."""

    pixels: NDArray[np.uint8]
    """[N, H, W, C]"""
    labels: NDArray[np.int64]
    held_pixels: NDArray[np.uint8]
    held_labels: NDArray[np.int64]
    preprocess: Preprocess
    classes: tuple[str, ...]

    @property
    def images(self) -> NDArray[np.float32]:
        """Held-out images as the network sees them, [N, C, H, W]."""
        return normalise(self.held_pixels, self.preprocess)


class Small(nn.Module):
    """Two convolutions and a residual one with batch-norm, average pooling, dropout and a classifier with uneven bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.down, self.down_norm = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32)
        self.block, self.block_norm = nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.drop = nn.Dropout(0.1)
        self.classifier = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.stem_norm(self.stem(images)))
        features = torch.relu(self.down_norm(self.down(features)))
        features = torch.relu(features + self.block_norm(self.block(features)))
        logits: Tensor = self.classifier(self.drop(features.mean((2, 3))))
        return logits


@cache
def data(task: Task) -> Data:
    digits = load_digits()
    random = np.random.default_rng(0)
    shapes = np.zeros((len(digits.images), HEIGHT, WIDTH))
    shapes[:, 1:-1] = digits.images / 16
    if task == "gray":
        pixels, labels, classes = (
            shapes[..., None],
            digits.target,
            tuple(f"digit {digit}" for digit in range(10)),
        )
    else:
        few = digits.target < 5
        shapes, blue = shapes[few], random.integers(0, 2, few.sum())
        colours = np.where(blue[:, None], [0.15, 0.45, 1.0], [1.0, 0.45, 0.15]) * random.uniform(0.7, 1.0, (len(blue), 1))
        pixels = 0.1 + 0.8 * shapes[..., None] * colours[:, None, None, :]  # [N, H, W, 3]
        labels = digits.target[few] + 5 * blue
        classes = tuple(f"{colour} {digit}" for colour in ("red", "blue") for digit in range(5))
    pixels = np.clip(255 * pixels + random.normal(scale=6, size=pixels.shape), 0, 255).astype(np.uint8)
    order = random.permutation(len(labels))
    pixels, labels = pixels[order], labels[order].astype(np.int64)
    mean, std = measure_statistics(pixels[HELD_OUT:])
    preprocess = Preprocess(height=HEIGHT, width=WIDTH, channels=task, mean=mean, std=std)
    return Data(pixels[HELD_OUT:], labels[HELD_OUT:], pixels[:HELD_OUT], labels[:HELD_OUT], preprocess, classes)


@cache
def trained(task: Task, seed: int = 0, epochs: int = 12) -> nn.Module:
    """Return the network in evaluation mode; callers copy it before they change it."""
    known = data(task)
    images, labels = torch.from_numpy(normalise(known.pixels, known.preprocess)), torch.from_numpy(known.labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Small(images.shape[1])
        optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
        for _ in range(epochs):
            for rows in torch.randperm(len(labels)).split(64):
                loss = nn.functional.cross_entropy(network(images[rows]), labels[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    return network.eval()


@torch.no_grad()
def logits(network: nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = copy.deepcopy(network).eval()(torch.from_numpy(images)).numpy()
    return found


class File(NamedTuple):
    """An exported file, and what it is."""

    path: Path
    task: Task
    seed: int
    precision: Precision
    takes_pixels: bool
    gives_class: bool = False

    @property
    def fed(self) -> NDArray[np.float32] | NDArray[np.uint8]:
        """Held-out images as the file takes them."""
        return data(self.task).held_pixels if self.takes_pixels else data(self.task).images


_exported: dict[tuple[object, ...], File] = {}


def export(
    folder: Path, task: Task, name: str, precision: Precision = "fp32", *, seed: int = 0, takes_pixels: bool = False,
    gives_class: bool = False,
) -> File:  # fmt: skip
    """Export a trained network into any folder that outlives the tests; what is there already is not made again."""
    asked = (task, name, precision, seed, takes_pixels, gives_class)
    if asked not in _exported or not _exported[asked].path.is_file():
        known, network = data(task), trained(task, seed)
        exporter = _exporter(name, precision, takes_pixels=takes_pixels, gives_class=gives_class)
        path, example = exporter.name_file(folder, f"{task}{seed}"), torch.zeros(1, *known.images.shape[1:])
        about = About("student", known.classes, known.preprocess, {"made by": "a test"})
        if precision == "int8":
            images = normalise(known.pixels[:100], known.preprocess)
            exporter.prepare_int8(network, example, images, about=about).write(path, Quantization())
        else:
            exporter.export(network, example, path, about=about)
        _exported[asked] = File(path, task, seed, precision, takes_pixels, gives_class)
    return _exported[asked]


def _exporter(name: str, precision: Precision, *, takes_pixels: bool, gives_class: bool) -> Onnx | Openvino:
    places = {"preprocess": "inside" if takes_pixels else "outside", "postprocess": "inside" if gives_class else "outside"}
    return EXPORTERS[name](precision=precision, **places)  # type: ignore[arg-type]


PASSED = Gate(status="passed", reason="", samples=250, agreement_percent=100.0, max_abs_diff=1e-6, top1_drop_points=0.0)


class Said(NamedTuple):
    """What a file answers."""

    logits: Any
    further: dict[str, Any]


RUNTIMES: dict[str, Any] = {".onnx": Onnxruntime, ".xml": OpenvinoRuntime}
CALL = 50
"""Images in a call, where a file takes any number."""


def here(path: Path) -> Callable[[Any, Sequence[tuple[int, int]] | None], Said]:
    """Run a file as the runner does, without its process."""

    def run(images: Any, calls: Sequence[tuple[int, int]] | None) -> Said:
        made = calls or [(start, CALL) for start in range(0, len(images), CALL)]
        total = sum(count for _, count in made) if calls else len(images)
        try:
            loaded = RUNTIMES[path.suffix](str(path), threads=1, batch_size=None if calls else CALL)
            rows = [np.arange(start, start + count) % len(images) for start, count in made]
            parts = [loaded.outputs(np.ascontiguousarray(images[each])) for each in rows]
            whole = {name: np.concatenate([part[name] for part in parts])[:total] for name in parts[0]}
            return Said(whole.pop("logits"), whole)
        except Exception as error:  # as the runner does with whatever a runtime raises
            raise CompressError(f"{path}: {error}") from error

    return run


def write_bundle(folder: Path, files: Sequence[File]) -> Path:
    """Write files of one network as a bundle with a hundred samples; they claim that they passed their gate."""
    task, seed = files[0].task, files[0].seed
    known = data(task)
    found = logits(trained(task, seed), known.images)
    deployable = []
    for file in files:
        name = {".onnx": "onnx", ".xml": "openvino"}[file.path.suffix]
        exporter = _exporter(name, file.precision, takes_pixels=file.takes_pixels, gives_class=file.gives_class)
        outputs = here(file.path)(file.fed[:100], None).logits
        deployable.append(bundle.Deployable(file.path, name, exporter, PASSED, outputs))
    bundle.write_bundle(
        folder, name="coloured digits", classes=known.classes, preprocess=known.preprocess, files=deployable,
        samples=bundle.Samples(known.held_pixels[:100], known.held_labels[:100], found[:100]), gate=GateSection(),
        provenance={},
    )  # fmt: skip
    return folder
