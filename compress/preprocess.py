"""Preprocessing of pictures for the network, as `records.Preprocess` says, with NumPy and Pillow only.

Training, validation, calibration, verification, benchmarking and `compress predict` all call these functions, so a picture
gives the same numbers everywhere. What is decided here for pictures that are not plain 8-bit gray or RGB:

* Formats are PNG, JPEG, WebP, GIF, BMP, TIFF and PPM. Others are refused: some of Pillow's decoders start other programs.
* An EXIF orientation is applied. Of a camera's multi-picture JPEG the main picture is taken; animations are refused.
* Transparency is laid over white. Palettes are expanded. CMYK is converted without a colour profile, as Pillow does.
* Values of more than 8 bits become bytes by `scale_to_bytes`: `white_level` of the contract, 65535 where it says none, and all
  above it is 255. Of 16 bits that is the upper byte. Gray integers of 32 bits need a white level, for their range is unknown;
  float pictures are refused.
* More than `MAX_PIXELS` pixels are refused before anything is decoded: a file of some kilobytes can expand to gigabytes.
"""

from __future__ import annotations

import io
import math
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from compress.errors import CompressError, Unreachable
from compress.geometry import Placement, apply_placement, place_picture
from compress.records import PILLOW_MODES, Preprocess
from compress.system.files import read_bounded
from compress.system.signatures import recognise_format

MAX_PIXELS = 89_478_485
"""A quarter of a gigabyte as RGB; Pillow's own limit, there only a warning."""
MAX_BYTES = 8 * MAX_PIXELS
"""Of the file of a picture: what so many pixels take in four channels of 16 bits, without compression."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

FULL_WHITE = 65535
"""The white of 16 bits, unless the contract says another."""

_BROKEN = (
    OSError, ValueError, SyntaxError, TypeError, EOFError, OverflowError, struct.error,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
"""What Pillow raises for damaged files; a test mutates files to see that there is nothing else."""


READ_FORMATS = "PNG, JPEG, WebP, GIF, BMP, TIFF and PPM"
"""`FORMATS` as people call them."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})
"""Of files that one expects to be read."""

_OTHER_BYTES = {
    "RGB;16B": "RGB;16L", "RGB;16L": "RGB;16B", "RGB;16N": "RGB;16B" if sys.byteorder == "little" else "RGB;16L",
    "RGBA;16B": "RGBA;16L", "RGBA;16L": "RGBA;16B", "RGBA;16N": "RGBA;16B" if sys.byteorder == "little" else "RGBA;16L",
    "RGBX;16B": "RGBX;16L", "RGBX;16L": "RGBX;16B", "LA;16B": "RGBA",
}  # fmt: skip
"""Pillow's names of pixels of several channels of 16 bits, and of the same with each two bytes exchanged."""

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


class Levels(NamedTuple):
    """The range of the values of pictures of more than 8 bits."""

    least: int
    most: int

    def join(self, other: Levels) -> Levels:
        """Return the range of both."""
        return Levels(min(self.least, other.least), max(self.most, other.most))


class Picture(NamedTuple):
    """A picture that was decoded and resized."""

    pixels: NDArray[np.uint8]
    """[H, W, C]."""
    size: tuple[int, int]
    """Width and height that it had, upright."""
    levels: Levels | None
    """The range of its values if it has more than 8 bits."""


def decode(source: bytes | Path | Image.Image, preprocess: Preprocess, where: str) -> NDArray[np.uint8]:
    """Return a picture as uint8 [H, W, C], decoded to `preprocess.channels` and brought to its size by its geometry.

    Args:
        source: Encoded bytes, a file, or a Pillow image.
        preprocess: Size, geometry, channels, interpolation, and what is black and white in more than 8 bits.
        where: What the picture is called in messages.

    Raises:
        CompressError: It is not a picture, is damaged, animated or too large, or its values have no known range.
        Unreachable: The file cannot be read.
    """
    return decode_picture(source, preprocess, where).pixels


def decode_picture(source: bytes | Path | Image.Image, preprocess: Preprocess, where: str) -> Picture:
    """Return a picture as `decode` does, pixels [H, W, C], with what is known of it before it was resized.

    Raises:
        CompressError: As `decode`.
        Unreachable: As `decode`.
    """
    if isinstance(source, Path):
        source = _read(source, where)
    try:
        image = _open(source, where) if isinstance(source, bytes) else source
        _accept(image, where)
        values = _read_values(image, source if isinstance(source, bytes) else None, preprocess, where)
        alpha = _read_alpha(image) if values is not None else None
        pixels = ImageOps.exif_transpose(image) if values is None else _make_image(values, alpha, preprocess)
        image = _flatten_mode(pixels, PILLOW_MODES[preprocess.channels])
    except _BROKEN as error:
        reason = _explain_damage(error, source)
        raise CompressError(f"{where}: cannot be decoded as a picture{reason}; replace or remove it") from error
    own, placement = image.size, place_picture(image.size, preprocess)
    _refuse_long(own, placement, where)
    image = apply_placement(image, placement, preprocess, fill=preprocess.fill, nearest=False)
    resized = np.array(image).reshape(preprocess.height, preprocess.width, preprocess.depth)
    return Picture(resized, own, None if values is None else Levels(int(values.min()), int(values.max())))


def _refuse_long(own: tuple[int, int], placement: Placement, where: str) -> None:
    """Refuse a picture that is so long that scaling its shorter side takes more memory than any picture may."""
    width, height = placement.size
    if width * height > MAX_PIXELS:
        raise CompressError(
            f"{where}: has {own[0]} × {own[1]} pixels, and to cut out its middle it would be scaled to {width} × {height}, "
            f"more than {MAX_PIXELS}; choose data.geometry: letterbox or squeeze, or remove it"
        )


def scale_to_bytes(values: NDArray[np.integer[Any]], preprocess: Preprocess) -> NDArray[np.uint8]:
    """Return values of more than 8 bits as bytes, of the same shape [...]: black and less become 0, white and more the largest.

    Of levels `black` and `white` it is `(value - black) * 256 // (white - black + 1)` in whole numbers, so 0 to 65535 keep
    their upper byte and 0 to 4095 the upper 8 of 12 bits. `predict.py` and the C++ example of a bundle compute the same.
    """
    black, white = preprocess.black_level, FULL_WHITE if preprocess.white_level is None else preprocess.white_level
    inside = np.clip(values.astype(np.int64), black, white) - black
    return (inside * 256 // (white - black + 1)).astype(np.uint8)


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
        return read_bounded(path, limit_bytes=MAX_BYTES, what="a picture")
    except CompressError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise type(error)(
            f"{where}: {reason}{'; give the path of a picture' if isinstance(error, Unreachable) else ''}"
        ) from error


def _open(data: bytes, where: str) -> Image.Image:
    """Return an image that is not decoded yet.

    Raises:
        CompressError: It is in a format that is not read; the message names it.
    """
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        kind = recognise_format(data)
        if kind is None:
            raise
        suffix = Path(where).suffix
        named = f", named {suffix}" if suffix.lower() in SUFFIXES else ""
        raise CompressError(
            f"{where}: cannot be decoded as a picture: it is {kind}{named}; {READ_FORMATS} are read: convert it, or remove it"
        ) from error


def _explain_damage(error: BaseException, source: bytes | Image.Image) -> str:
    """Return the reason that Pillow gives, in parentheses, or a better one; nothing where it knows none."""
    if isinstance(source, bytes) and not source.strip(b"\0"):
        return " (all of the file is zeros)" if source else " (the file is empty)"
    return "" if "BytesIO" in str(error) else f" ({error})"  # Pillow names the buffer where it knows nothing better


def _accept(image: Image.Image, where: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise CompressError(f"{where}: has {width} × {height} pixels, more than {MAX_PIXELS}; shrink it")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise CompressError(f"{where}: has {frames} frames; give a still picture")
    if image.mode == "F":
        raise CompressError(f"{where}: has 32-bit values (mode F) of unknown range; convert it to 8 bits")


def _read_values(image: Image.Image, data: bytes | None, preprocess: Preprocess, where: str) -> NDArray[np.integer[Any]] | None:
    """Return the values of a picture of more than 8 bits, upright, [H, W] or [H, W, C] without alpha; `None` for 8 bits.

    Pillow has no mode for several channels of 16 bits and keeps the upper bytes; read a second time as if its bytes stood in
    the other order, a picture gives the lower ones.

    Raises:
        CompressError: The values have 32 bits, and the contract does not say which is white.
    """
    if data is not None and image.format == "PPM":
        values = _read_portable_map(image, data, preprocess)
        if values is not None or image.mode != "I":
            return values
    if image.mode.startswith("I;16"):
        return np.asarray(ImageOps.exif_transpose(image)).astype(np.int64)
    if image.mode == "I":
        if preprocess.white_level is None or image.format == "PPM":  # Pillow has stretched a text map to 16 bits
            raise CompressError(
                f"{where}: has 32-bit values (mode I) of unknown range; say which is white as data.white_level, or convert it "
                "to 8 bits"
            )
        return np.asarray(ImageOps.exif_transpose(image)).astype(np.int64)
    kind = _get_raw_mode(image)
    if data is None or kind not in _OTHER_BYTES:
        return None
    if kind == "LA;16B":
        bytes_of_both = _read_as(data, "RGBA").astype(np.int64)  # [H, W, 4]: gray and alpha, upper and lower byte
        return bytes_of_both[..., 0] << 8 | bytes_of_both[..., 1]
    upper = np.asarray(ImageOps.exif_transpose(image))[..., :3].astype(np.int64)
    return upper << 8 | _read_as(data, _OTHER_BYTES[kind])[..., :3]


def _get_raw_mode(image: Image.Image) -> str:
    """Return how the pixels lie in the file, in Pillow's words; empty where it is not known."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return ""
    arguments = tiles[0][3]
    return str(arguments if isinstance(arguments, str) else arguments[0] if arguments else "")


def _read_as(data: bytes, kind: str) -> NDArray[np.uint8]:
    """Return a picture [H, W, C] decoded, upright, as if its pixels lay in the file in another way."""
    image: Any = Image.open(io.BytesIO(data), formats=FORMATS)
    image.tile = [tile._replace(args=kind if isinstance(tile[3], str) else (kind, *tile[3][1:])) for tile in image.tile]
    return np.asarray(ImageOps.exif_transpose(image))


def _read_portable_map(image: Image.Image, data: bytes, preprocess: Preprocess) -> NDArray[np.integer[Any]] | None:
    """Return the values [H, W] or [H, W, 3] of a binary PGM or PPM of more than 8 bits.

    `None` for one of 8 bits or in text, and for one that names a white of its own where the contract names none.
    """
    kind, largest = data[:2], re.match(rb"P[56](?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+(\d+)\s", data)
    if largest is None or int(largest[1]) < (FULL_WHITE if preprocess.white_level is None else 256):
        return None
    shape = (image.height, image.width, *((3,) if kind == b"P6" else ()))
    return np.frombuffer(data, ">u2", count=math.prod(shape), offset=largest.end()).reshape(shape).astype(np.int64)


def _read_alpha(image: Image.Image) -> Image.Image | None:
    """Return the transparency of an image, upright, as 8 bits; `None` where it has none."""
    return ImageOps.exif_transpose(image).getchannel("A") if "A" in image.getbands() else None


def _make_image(values: NDArray[np.integer[Any]], alpha: Image.Image | None, preprocess: Preprocess) -> Image.Image:
    """Return an image of 8 bits from values [H, W] or [H, W, 3]."""
    image = Image.fromarray(scale_to_bytes(values, preprocess))
    if alpha is None:
        return image
    image = image.convert("RGB")
    image.putalpha(alpha)
    return image


def _flatten_mode(image: Image.Image, mode: str) -> Image.Image:
    """Return an image in mode `L` or `RGB`."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert(mode)
