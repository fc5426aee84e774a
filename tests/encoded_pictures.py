"""Encoded pictures for tests; those of more than eight bits byte by byte, since Pillow writes none of several channels."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""PNG's number of gray, gray with alpha, RGB and RGBA."""


def encode_png(values: NDArray[np.integer]) -> bytes:
    """Return a PNG of 16 bits, of values [H, W, C]."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 16, COLOUR_TYPES[channels], 0, 0, 0),
        b"IDAT": zlib.compress(rows),
        b"IEND": b"",
    }
    written = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def encode_tiff(values: NDArray[np.integer], *, order: str = "<", deflated: bool = False) -> bytes:
    """Return a TIFF of 16 bits, of values [H, W, 3], in the order of bytes `<` or `>`."""
    height, width, channels = values.shape
    data = values.astype(f"{order}u2").tobytes()
    data = zlib.compress(data) if deflated else data
    entries = 9
    lengths = 8 + 2 + 12 * entries + 4  # where the bits of each channel stand, and then the pixels
    fields = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, channels, lengths), (259, 3, 1, 8 if deflated else 1),
        (262, 3, 1, 2), (273, 4, 1, lengths + 2 * channels), (277, 3, 1, channels), (278, 3, 1, height), (279, 4, 1, len(data)),
    ]  # fmt: skip
    text = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, entries)
    for tag, kind, count, value in fields:
        short = kind == 3 and count == 1
        text += struct.pack(f"{order}HHIHH" if short else f"{order}HHII", tag, kind, count, value, *([0] if short else []))
    return text + struct.pack(f"{order}I{channels}H", 0, *[16] * channels) + data


def encode_map(values: NDArray[np.integer], largest: int) -> bytes:
    """Return a binary PGM or PPM of values [H, W, 1 or 3] of which the header names the largest possible."""
    height, width, channels = values.shape
    return (
        b"P%d\n# a comment\n%d %d\n%d\n" % (5 if channels == 1 else 6, width, height, largest) + values.astype(">u2").tobytes()
    )


def encode_integers(values: NDArray[np.integer]) -> bytes:
    """Return a TIFF of gray integers of 32 bits, of values [H, W, 1]."""
    file = io.BytesIO()
    Image.fromarray(values[..., 0].astype(np.int32)).save(file, "TIFF")
    return file.getvalue()


def encode_random(seed: int) -> bytes:
    """Return a PNG of random colours, 6 × 5 pixels."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()
