"""Preprocessing of pictures for the network, as `records.Preprocess` says, with NumPy and Pillow only.

Training, validation, calibration, verification, benchmarking and `compress predict` all call these functions, so a picture
gives the same numbers everywhere. What is decided here for pictures that are not plain 8-bit gray or RGB:

* Formats are PNG, JPEG, WebP, GIF, BMP, TIFF and PPM. Others are refused: some of Pillow's decoders start other programs.
* An EXIF orientation is applied. Of a camera's multi-picture JPEG the main picture is taken; animations are refused.
* Transparency is laid over white. Palettes are expanded. CMYK is converted without a colour profile, as Pillow does.
* Of 16-bit values the upper byte is kept. 32-bit integer and float pictures are refused, for their range is unknown.
* More than `MAX_PIXELS` pixels are refused before anything is decoded: a file of some kilobytes can expand to gigabytes.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from compress.errors import CompressError, Unreachable
from compress.records import PILLOW_MODES, Preprocess

MAX_PIXELS = 89_478_485
"""A quarter of a gigabyte as RGB; Pillow's own limit, there only a warning."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

_BROKEN = (
    OSError, ValueError, SyntaxError, TypeError, EOFError, OverflowError, struct.error,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
"""What Pillow raises for damaged files; a test mutates files to see that there is nothing else."""

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


CHUNK_BYTES = 1 << 24
"""How much of a collection of images is looked at together."""


class Images(Protocol):
    """Images [N, H, W, C] in uint8: an array, or what reads its rows from a disk when it is indexed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, H, W, C]."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Always uint8; `compress.data` checks it."""

    @property
    def ndim(self) -> int:
        """Always 4."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: int | slice | NDArray[np.integer], /) -> NDArray[np.uint8]: ...

    def transpose(self, *axes: int) -> NDArray[np.uint8]:
        """Return all images, in memory, with the axes of [N, H, W, C] in another order."""


def iterate_chunks(images: Images) -> Iterator[NDArray[np.uint8]]:
    """Yield all images in order, some at a time, [n, H, W, C]."""
    rows = max(1, CHUNK_BYTES // max(1, math.prod(images.shape[1:])))
    for start in range(0, len(images), rows):
        yield images[start : start + rows]


def decode(source: bytes | Path | Image.Image, preprocess: Preprocess, where: str) -> NDArray[np.uint8]:
    """Return a picture as uint8 [H, W, C], decoded to `preprocess.channels` and resized to its size.

    Args:
        source: Encoded bytes, a file, or a Pillow image.
        preprocess: Size, channels and interpolation.
        where: What the picture is called in messages.

    Raises:
        CompressError: It is not a picture, is damaged, animated or too large, or its values have no known range.
        Unreachable: The file cannot be read.
    """
    if isinstance(source, Path):
        source = _read(source, where)
    try:
        image = _open(source) if isinstance(source, bytes) else source
        _accept(image, where)
        image = _flatten_mode(ImageOps.exif_transpose(image), PILLOW_MODES[preprocess.channels])
    except _BROKEN as error:
        reason = "" if "BytesIO" in str(error) else f" ({error})"  # Pillow names the buffer where it knows nothing better
        raise CompressError(f"{where}: cannot be decoded as a picture{reason}; replace or remove it") from error
    size = (preprocess.width, preprocess.height)
    if image.size != size:
        image = image.resize(size, _RESAMPLING[preprocess.interpolation])
    return np.array(image).reshape(preprocess.height, preprocess.width, preprocess.depth)


def normalise(images: Images, preprocess: Preprocess) -> NDArray[np.float32]:
    """Return what the network sees, contiguous [N, C, H, W], of images [N, H, W, C]; all of it is then in memory.

    Raises:
        CompressError: The images are not uint8 of the contract's size, or its mean and std do not fit.
    """
    expected = (preprocess.height, preprocess.width, preprocess.depth)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected:
        shown = f"{images.dtype} {list(images.shape)}"
        raise CompressError(f"images are {shown}; uint8 [N, {', '.join(map(str, expected))}] is needed: use `decode`")
    scale, shift = compute_scale_shift(preprocess)
    values = np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32)  # [N, C, H, W]
    values *= scale[:, None, None]
    values += shift[:, None, None]
    return values


def compute_scale_shift(preprocess: Preprocess) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return scale [C] and shift [C] with (value / 255 - mean) / std = value * scale + shift.

    The product and the sum are two float32 operations, each rounded: so NumPy and torch agree bit for bit.

    Raises:
        CompressError: There is not one mean and one positive std for each channel.
    """
    mean, std = np.array(preprocess.mean, np.float64), np.array(preprocess.std, np.float64)
    channels = preprocess.depth
    if mean.shape != (channels,) or std.shape != (channels,):
        raise CompressError(
            f"mean {preprocess.mean} and std {preprocess.std} need {channels} values for {preprocess.channels} images"
        )
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
        raise CompressError(
            f"mean {preprocess.mean} and std {preprocess.std} must be finite and std above zero; set data.mean and data.std"
        )
    return (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)


def measure_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel of images [N, H, W, C], on the scale 0 to 1, to 6 digits.

    Sums are whole numbers, so the result does not depend on the machine, the number of threads or the order of images.
    """
    counts = np.zeros((images.shape[-1], 256), np.int64)
    for part in iterate_chunks(images):
        pixels = part.reshape(-1, part.shape[-1])  # [n·H·W, C]
        counts += np.stack([_count_values(pixels[:, channel]) for channel in range(len(counts))])
    moments = [_compute_moments(histogram.tolist()) for histogram in counts]
    return tuple(mean for mean, _ in moments), tuple(std for _, std in moments)


def _count_values(values: NDArray[np.uint8]) -> NDArray[np.int64]:
    counts = np.zeros(256, np.int64)
    for start in range(0, len(values), 1 << 20):  # bincount widens its input eightfold
        counts += np.bincount(values[start : start + (1 << 20)], minlength=256)
    return counts


def _compute_moments(counts: list[int]) -> tuple[float, float]:
    number = sum(counts)
    if number == 0:
        raise CompressError("there are no images to take mean and standard deviation of")
    total = sum(value * count for value, count in enumerate(counts))
    squares = sum(value * value * count for value, count in enumerate(counts))
    variance = (number * squares - total * total) / (number * number)
    return round(total / (255 * number), 6), round(math.sqrt(variance) / 255, 6)


def _read(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unreachable(f"{where}: cannot be read ({error.strerror}); give the path of a picture") from error


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=FORMATS)


def _accept(image: Image.Image, where: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise CompressError(f"{where}: has {width} × {height} pixels, more than {MAX_PIXELS}; shrink it")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise CompressError(f"{where}: has {frames} frames; give a still picture")
    if image.mode in {"I", "F"}:
        raise CompressError(f"{where}: has 32-bit values (mode {image.mode}) of unknown range; convert it to 8 bits")


def _flatten_mode(image: Image.Image, mode: str) -> Image.Image:
    """Return an image in mode `L` or `RGB`."""
    if image.mode.startswith("I;16"):
        upper = (np.asarray(image) >> 8).astype(np.uint8)
        return Image.fromarray(upper).convert(mode)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert(mode)
