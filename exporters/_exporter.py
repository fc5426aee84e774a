"""The contract of a deployment format.

An exporter is a class named after its file whose keyword-only arguments, each with a default, are its options in the recipe. It
turns a torch module into one self-contained file and nothing else: the gate (`verification/gate.py`) judges the file, the
benchmark runner runs it. Input and output are named `images` and `logits` in every format; logits are float32 [batch, classes],
images float32 [batch, channels, height, width], normalised, or, where an exporter was asked for `preprocess: inside`, uint8
[batch, height, width, channels] as they are decoded. Asked for `postprocess: inside`, a file gives two more outputs behind the
logits: `class`, int64 [batch], which logit is the largest, and `score`, float32 [batch], its share of the softmax; of
maps of logits `class` alone, uint8 [batch, height, width], in formats whose exporter has `gives_maps = True`. Heavy
packages are imported inside functions, so that asking an exporter for the name of a file costs nothing. What a plug-in needs is
exported by the package: `from exporters import About, Exporter`.

Precision int8 is not one algorithm but a ladder of them, which `compress.quantization.ladder` tries rung by rung. An exporter
that offers it is also a `Quantizer`: it traces the network and collects statistics once, and then writes as many files as there
are rungs to try.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol, runtime_checkable

from compress.errors import CompressError
from compress.records import Precision, Preprocess

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

INPUT, OUTPUT = "images", "logits"
CLASS, SCORE = "class", "score"
BOXES = "boxes"
"""The second output of a detector, float32 [batch, cells, 4] in pixels; its logits are [batch, cells, classes]."""
FORMAT_VERSION = "1"
"""Version of the metadata that `build_metadata` returns; raised when a key changes its meaning."""


class About(NamedTuple):
    """Metadata of a file, written where its format has room for them."""

    name: str
    """Name of the network."""
    classes: tuple[str, ...]
    """Names in label order."""
    preprocess: Preprocess
    """Preprocessing of an image, by the caller or, where the exporter puts it inside, by the file itself."""
    provenance: Mapping[str, str]
    """Origin of the network: tool, method, stage."""


def build_metadata(about: About, *, takes_pixels: bool) -> dict[str, str]:
    """Return the metadata of a file by its key.

    `name`; `classes`, a JSON list in label order; `preprocess`, the JSON object of `records.Preprocess`; `preprocess_by`,
    `file` or `caller`; `provenance`, a JSON object; and `format_version`.
    """
    return {
        "name": about.name,
        "classes": json.dumps(about.classes),
        "preprocess": json.dumps(about.preprocess.model_dump(mode="json"), sort_keys=True),
        "preprocess_by": "file" if takes_pixels else "caller",
        "provenance": json.dumps(dict(about.provenance), sort_keys=True),
        "format_version": FORMAT_VERSION,
    }


@dataclass(frozen=True)
class Quantization:
    """Settings of int8 quantization: one rung of the ladder."""

    statistics: str = "default"
    """Estimator of ranges and biases; one of the quantizer's `statistics`."""
    saturation_fix: bool = False
    """Leave a bit of the weights unused, for processors whose int8 products saturate at 16 bits (x86 without VNNI)."""
    keep: tuple[str, ...] = ()
    """Layers that stay in floating point, by their names in `Quantizable.layers`."""


class Exporter(Protocol):
    """A deployment format with its options."""

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

    def name_file(self, folder: Path, stem: str) -> Path:
        """Return the path of the file that the runtime opens, for example `folder/student-fp32.onnx`."""

    def list_parts(self, path: Path) -> tuple[Path, ...]:
        """Return every file that belongs to `path`, itself included."""

    def export(self, module: nn.Module, example: Tensor, path: Path, *, about: About | None = None) -> None:
        """Write `module`, in evaluation mode and in float32 on the CPU, whole or not at all.

        Args:
            module: Maps images [batch, channels, height, width] to logits [batch, classes]; left as it was.
            example: One image, [1, channels, height, width]; only its shape is used.
            path: As `name_file` returns it.
            about: Metadata of the file; needed where it carries the preprocessing.

        Raises:
            CompressError: The format cannot hold this network; the message names the operator or weight. Or the precision is
                int8, which needs images: see `Quantizer`.
            Unreachable: The disk is full or the folder cannot be written.
        """


class Quantizable(Protocol):
    """A traced network with calibration images, of which several int8 files can be written."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that can be kept in floating point, from input to output, as far as is known."""

    @property
    def always_float(self) -> tuple[str, ...]:
        """Names of the layers that stay in floating point in every file, as far as the files so far have shown."""

    def write(self, path: Path, quantization: Quantization) -> None:
        """Write the int8 file, whole or not at all.

        Raises:
            CompressError: The format cannot hold this network in int8; the message names the operator or layer.
            Unreachable: The disk is full or the folder cannot be written.
        """


@runtime_checkable
class Simulated(Quantizable, Protocol):
    """A quantizable network whose files take long to write, so that their logits can be simulated in torch."""

    def simulate(self, quantization: Quantization, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute in torch, approximately, the logits of the file that `write` would write.

        Good for comparing layers; a file itself is judged by the logits on its own runtime.

        Args:
            quantization: As for `write`.
            images: Normalised, float32 [N, C, H, W].

        Returns:
            Logits, float32 [N, K].

        Raises:
            CompressError: As `write`.
        """


class Quantizer(Exporter, Protocol):
    """An exporter that also makes int8 files."""

    statistics: ClassVar[tuple[str, ...]]
    """Names of the estimators of ranges and biases: first `default`, then those that are worth a trial, the likeliest first."""
    no_spare_bit: ClassVar[str]
    """Reason why its runtime never needs `Quantization.saturation_fix`, which is then refused; empty where it may need it."""

    def prepare_int8(
        self, module: nn.Module, example: Tensor, images: NDArray[np.float32], *, about: About | None = None
    ) -> Quantizable:
        """Trace the network and keep the images for calibration.

        Args:
            module: As for `export`.
            example: As for `export`.
            images: Normalised images of the training split, float32 [N, C, H, W], on which ranges are estimated.
            about: As for `export`.

        Raises:
            CompressError: The format cannot hold this network, or there are no images, or they are not finite.
        """


def check_option(where: str, option: str, value: str, offered: Sequence[str]) -> None:
    """Refuse a value that an exporter does not offer.

    Args:
        where: The exporter, for the message.
        option: Name of the option.
        value: Its value in the recipe.
        offered: All values that are offered.

    Raises:
        CompressError: It is none of these.
    """
    if value not in offered:
        *others, last = map(repr, offered)
        choices = f"{', '.join(others)} or {last}" if others else last
        raise CompressError(f"{where}: {option} {value!r} is not offered; use {choices}")


def parse_places(where: str, preprocess: str, postprocess: str) -> tuple[bool, bool]:
    """Return `takes_pixels` and `gives_class` of an exporter, from its options `preprocess` and `postprocess`.

    Raises:
        CompressError: One of them is neither `outside` nor `inside`.
    """
    for option, value in (("preprocess", preprocess), ("postprocess", postprocess)):
        check_option(where, option, value, ("outside", "inside"))
    return preprocess == "inside", postprocess == "inside"


def parse_batch(where: str, batch: str | int) -> int | None:
    """Return `batch_size` of an exporter, from its option `batch`.

    Args:
        where: The exporter, for the message.
        batch: As in the recipe.

    Raises:
        CompressError: It is neither `dynamic` nor a number of images.
    """
    if batch == "dynamic":
        return None
    if type(batch) is not int or batch < 1:
        raise CompressError(f"{where}: batch {batch!r} is not offered; use 'dynamic' or a number of images, at least 1")
    return batch


def refuse_without_images(precision: Precision, name: str) -> None:
    """Refuse to write int8 by `export`, which is given no images.

    Args:
        precision: Of the exporter.
        name: What is exported, for the message.

    Raises:
        CompressError: The precision is int8.
    """
    if precision == "int8":
        raise CompressError(
            f"export of {name}: precision int8 needs images to estimate ranges; give calibration images, or use fp16 or fp32"
        )


def name_options(batch_size: int | None, *, usual: int | None = None, takes_pixels: bool, gives_class: bool) -> str:
    """Return what a file's name says of options that are not the default, such as `-batch4-pixels`.

    Args:
        batch_size: Images in every call; `None` for any number.
        usual: The batch size that is not mentioned.
        takes_pixels: Whether the file normalises.
        gives_class: Whether the file gives class and score.
    """
    batch = "" if batch_size == usual else f"-batch{batch_size}"
    return batch + "-pixels" * takes_pixels + "-scores" * gives_class
