"""`manifest.json` of a bundle, and the record beside an exported file."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from compress.records.base import Document, Factor, Precision, Record
from compress.records.report import Gate, Variant
from compress.records.timing import Environment

DEPTHS = {"gray": 1, "rgb": 3}
"""Number of channels of an image by its `channels`."""

PILLOW_MODES = {"gray": "L", "rgb": "RGB"}
"""Pillow's name of each."""

Geometry = Literal["squeeze", "center_crop", "letterbox"]
CropFraction = Annotated[float, Field(ge=0.1, le=1)]
Byte = Annotated[int, Field(ge=0, le=255)]
CROP_FRACTION = 0.875
"""224 of 256 pixels, as most networks for photographs are tested."""
FILL = 114
"""The gray that detectors fill with, near the middle of most photographs."""
_FIELDS_OF_GEOMETRY: dict[Geometry, set[str]] = {
    "squeeze": set(),
    "center_crop": {"geometry", "crop_fraction"},
    "letterbox": {"geometry", "fill"},
}


class Preprocess(Record):
    """The one contract of what happens to an image before the network sees it (`compress.preprocess` carries it out).

    The image is decoded to `channels`, its values of more than 8 bits brought to 8 between `black_level` and `white_level`,
    resized with Pillow's `interpolation` and brought to exactly `height` × `width` by its `geometry` (`compress.geometry`), and
    normalised as `(value / 255 - mean) / std` in float32.
    """

    height: int
    width: int
    channels: Literal["gray", "rgb"]
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    mean: tuple[float, ...]
    std: tuple[float, ...]
    black_level: int = 0
    """In pictures of more than 8 bits, the value that becomes 0."""
    white_level: int | None = None
    """In pictures of more than 8 bits, the value that becomes 255; `None` is 65535, and refuses gray integers of 32 bits."""
    geometry: Geometry = "squeeze"
    """How a picture of another shape is brought to the size: both sides resized, the middle cut out, or the rest filled."""
    crop_fraction: CropFraction = CROP_FRACTION
    """Of `center_crop`: share of the shorter side that is left."""
    fill: Byte = FILL
    """Of `letterbox`: value of each channel where there is no picture."""

    @property
    def depth(self) -> int:
        """Number of channels, 1 or 3."""
        return DEPTHS[self.channels]

    @model_serializer(mode="wrap")
    def _leave_out_unused(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what the geometry does not use, so that contracts without one read and compare as they always did."""
        unused = {name for names in _FIELDS_OF_GEOMETRY.values() for name in names}
        unused -= _FIELDS_OF_GEOMETRY[self.geometry]
        return {name: value for name, value in write(self).items() if name not in unused}


class SampleDifferences(Record):
    """Differences of a file from the network that it was made of on the samples of a bundle, when it was handed over.

    They bound the file from then on: `compress verify` and `predict.py --self-test` refuse one that differs by more than twice
    as much.
    """

    max_abs_diff: float
    """The largest of any logit."""
    median_abs_diff: float
    """Median over samples of the largest of a sample."""
    lost: int
    """Samples that the file classifies wrongly and the network rightly, less those where it is the other way round."""


class BundleFile(Record):
    """One model file of a bundle."""

    path: str
    """Relative to the bundle; the file that the runtime opens."""
    parts: dict[str, str]
    """sha256 of every file that belongs to it, `path` included."""
    format: str
    runtime: str
    precision: Precision
    size_bytes: int
    batch_size: int | None = None
    """The only number of images that the file takes in a call; `None` takes any."""
    takes_pixels: bool = False
    """Whether the file carries the preprocessing, and so takes uint8 [batch, height, width, channels]."""
    gives_class: bool = False
    """Whether the file also gives, behind the logits, `class`, int64 [batch] (LiteRT: int32), which logit is the largest, and
    `score`, float32 [batch], its share of the softmax of the logits as they are, without `temperature`; of maps of logits
    `class` alone, uint8 [batch, height, width]."""
    temperature: Factor | None = None
    """Divides the logits before the softmax, so that scores are as often right as they say: fitted on validation images.
    `None` where no labels were known: scores are then the softmax of the logits as they are."""
    gate: Gate
    logits: str = "logits"
    """Name, in the samples, of the logits of the network that the file was made of; not `logits` where that network was adapted
    to int8."""
    on_samples: SampleDifferences | None = None
    """Differences from that network on the samples; none where there are no samples beside the file."""
    measured: Variant | None = None
    """What was measured where the file was made; `compress verify` and `compress bench` measure anew."""
    elsewhere: tuple[Variant, ...] = ()
    """What was found on other devices; what is emulated there has no times."""


class Manifest(Document):
    """`manifest.json` of a bundle: all that a device needs to know."""

    carries_checksum: ClassVar[bool] = False

    name: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    input: str = "images"
    """Name of the input: float32 [batch, channels, height, width], normalised; where the file carries the preprocessing uint8
    [batch, height, width, channels]."""
    output: str = "logits"
    """Name of the output: float32 [batch, *logits_shape]."""
    task: str = "classification"
    """What the network is for."""
    logits_shape: tuple[int, ...] = ()
    """Of the answer to one image: [classes]; of a segmentation [classes, height, width] at the network's output stride; of a
    detection [cells, classes + 4], which files give as two outputs, `logits` [batch, cells, classes] and `boxes` [batch, cells,
    4], left, top, right and bottom in pixels of the input; empty in older manifests, which are of classification."""
    files: tuple[BundleFile, ...]
    gate: dict[str, float | str | None]
    """What the files were held to; fields of the recipe's section `gate`."""
    samples: str
    """npz with `images` uint8 [N, H, W, C], `labels` int64 [N], or of a segmentation uint8 [N, H, W], and `logits` float32
    [N, *logits_shape] of the torch network."""
    samples_count: int
    """Images in it; with fewer, a file could not be proved as well as when it was handed over."""
    samples_sha256: str
    provenance: dict[str, str]
    """Recipe, weights and package versions."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the logits of one image."""
        return self.logits_shape or (len(self.classes),)


class Exported(Document):
    """`FILE.json` beside a file that `compress export` wrote: what is known of it."""

    file: BundleFile
    """Paths are relative to this record; what failed its gate lies in `rejected`."""
    weights_sha256: str
    """Of the shipped student, from which it was made or adapted."""
    environment: Environment
    """Where it was made and proved."""
