"""The contract of a deployment format.

An exporter is a class named after its file whose keyword-only arguments, each with a default, are its options in the recipe. It
turns a torch module into one self-contained file and nothing else: proving the file is the work of `verification/gate.py`,
running it the runner's. Input and output are named `images` and `logits` in every format; logits are float32 [batch, classes],
images float32 [batch, channels, height, width], normalised, or, where an exporter was asked for `preprocess: inside`, uint8
[batch, height, width, channels] as they are decoded. Asked for `postprocess: inside`, a file gives two more outputs behind the
logits: `class`, int64 [batch], which logit is the largest, and `score`, float32 [batch], its share of the softmax. Heavy
packages are imported inside functions, so that asking an exporter for a path costs nothing.

Precision int8 is not one algorithm but a ladder that `compress.quantization.ladder` climbs. An exporter that offers it is
also a `Quantiser`: it traces the network and collects statistics once, and then writes as many files as there are rungs to try.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from compress.errors import CompressError
from compress.records import Precision, Preprocess

if TYPE_CHECKING:
    from torch import Tensor, nn

INPUT, OUTPUT = "images", "logits"
CLASS, SCORE = "class", "score"


class About(NamedTuple):
    """What a file says of itself, where its format has room for it."""

    name: str
    """What the network is called."""
    classes: tuple[str, ...]
    """Names in label order."""
    preprocess: Preprocess
    """What happens to an image before the network sees it; carried out by the file itself with `preprocess: inside`."""
    provenance: Mapping[str, str]
    """Where the network comes from."""


@dataclass(frozen=True)
class Quantisation:
    """How a network becomes int8: one rung of the ladder."""

    statistics: str = "default"
    """How ranges and biases are estimated; one of the quantiser's `statistics`."""
    saturation_fix: bool = False
    """Leave a bit of the weights unused, for processors whose int8 products saturate at 16 bits (x86 without VNNI)."""
    keep: tuple[str, ...] = ()
    """Layers that stay in floating point, by their names in `Quantisable.layers`."""


class Exporter(Protocol):
    """What every exporter does."""

    runtime: ClassVar[str]
    """The runtime (`benchmarks/runtimes`) on which its files are gated."""
    inert: ClassVar[bool]
    """Whether a file is data only. One whose loading can run code never enters a bundle, for bundles come from strangers."""
    batch_size: int | None
    """The only number of images that its files take in a call; `None` takes any."""
    precision: Precision
    """Precision of the weights in the file."""
    takes_pixels: bool
    """Whether the file carries the preprocessing, and so takes uint8 [batch, height, width, channels]."""
    gives_class: bool
    """Whether the file carries the postprocessing, and so also gives `class` and `score`."""

    def path(self, folder: Path, stem: str) -> Path:
        """Return the path of the file that the runtime opens, for example `folder/student-fp32.onnx`."""

    def parts(self, path: Path) -> tuple[Path, ...]:
        """Return every file that belongs to `path`, itself included."""

    def export(self, module: nn.Module, example: Tensor, path: Path, *, about: About | None = None) -> None:
        """Write `module`, in evaluation mode and in float32 on the CPU, whole or not at all.

        Args:
            module: Maps images [batch, channels, height, width] to logits [batch, classes]; left as it was.
            example: One image, [1, channels, height, width]; only its shape is used.
            path: As `path` returns it.
            about: What the file says of itself; needed where it carries the preprocessing.

        Raises:
            CompressError: The format cannot hold this network; the message names the operator or weight. Or the precision is
                int8, which needs images: see `Quantiser`.
            Unreachable: The disk is full or the folder cannot be written.
        """


class Quantisable(Protocol):
    """A traced network whose activations were seen on real images; int8 files of it are made quickly."""

    layers: tuple[str, ...]
    """What can be kept in floating point, from input to output."""

    def write(self, path: Path, quantisation: Quantisation) -> None:
        """Write the int8 file, whole or not at all.

        Raises:
            CompressError: The format cannot hold this network in int8; the message names the operator or layer.
            Unreachable: The disk is full or the folder cannot be written.
        """


@runtime_checkable
class Simulated(Quantisable, Protocol):
    """A traced network whose files take long to write, and which can tell in torch how they would answer."""

    def simulate(self, quantisation: Quantisation, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of the file that `write` would write, as far as torch computes the same, [N, K].

        Good for comparing layers; a file is judged by what its own runtime says.

        Args:
            quantisation: As for `write`.
            images: Normalised, float32 [N, C, H, W].

        Raises:
            CompressError: As `write`.
        """


class Quantiser(Exporter, Protocol):
    """An exporter that also makes int8 files."""

    statistics: ClassVar[tuple[str, ...]]
    """Names of the ways to estimate ranges and biases: first `default`, then those that are worth a trial, best bet first."""
    no_spare_bit: ClassVar[str]
    """Why its runtime never needs `Quantisation.saturation_fix`, which is then refused; empty where it may need it."""

    def quantisable(
        self, module: nn.Module, example: Tensor, images: NDArray[np.float32], *, about: About | None = None
    ) -> Quantisable:
        """Trace the network and keep the images for calibration.

        Args:
            module: As for `export`.
            example: As for `export`.
            images: Normalised images of the training split, float32 [N, C, H, W], on which ranges are estimated.
            about: As for `export`.

        Raises:
            CompressError: The format cannot hold this network, or there are no images, or they are not finite.
        """


def only_batch(where: str, batch: str | int) -> int | None:
    """Return the only number of images that the files of an exporter take in a call; `None` takes any.

    Args:
        where: The exporter, for the message.
        batch: As it was asked for.

    Raises:
        CompressError: It is neither `dynamic` nor a number of images.
    """
    if batch == "dynamic":
        return None
    if type(batch) is not int or batch < 1:
        raise CompressError(f"{where}: batch {batch!r} is not offered; use 'dynamic' or a number of images, at least 1")
    return batch
