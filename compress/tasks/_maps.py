"""Maps of classes as pictures: PNG with a palette, whose values are the classes, and the map laid over its picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

OPACITY = 0.5
"""Of the map over its picture; class 0 is mostly background and stays clear."""


class Region(NamedTuple):
    """One class of a map."""

    name: str
    share: float
    """Of the pixels."""


def list_colours() -> NDArray[np.uint8]:
    """Return a colour for each value of a map, [256, 3]; those of near classes are far apart, as in PASCAL VOC.

    The bits of the class are dealt to red, green and blue in turn, the lowest first, and fill each from its highest bit on.
    """
    values = np.arange(256)
    colours = np.zeros((256, 3), np.int64)
    for place in range(3):
        for bit in range(3):
            colours[:, bit] |= ((values >> (3 * place + bit)) & 1) << (7 - place)
    return colours.astype(np.uint8)


def draw_map(answers: NDArray[np.integer[Any]]) -> Image.Image:
    """Return a map of classes [H, W] as a picture of mode P, whose values are the classes."""
    picture = Image.fromarray(answers.astype(np.uint8))
    picture.putpalette(list_colours().tobytes())
    return picture


def is_map(path: Path, wanted: NDArray[np.integer[Any]]) -> bool:
    """Return whether a PNG holds this very map of classes [H, W]."""
    with Image.open(path, formats=("PNG",)) as picture:
        return picture.size == wanted.shape[::-1] and picture.mode == "P" and np.array_equal(np.asarray(picture), wanted)


def lay_over(picture: Image.Image, answers: NDArray[np.integer[Any]]) -> Image.Image:
    """Return a picture with a map of classes [H, W] of its size over it; class 0 stays clear."""
    colours = Image.fromarray(list_colours()[answers])
    mask = Image.fromarray(np.where(answers == 0, 0, round(255 * OPACITY)).astype(np.uint8))
    return Image.composite(colours, picture.convert("RGB"), mask)


def list_regions(answers: NDArray[np.integer[Any]], classes: Sequence[str]) -> list[Region]:
    """Return the classes that a map [H, W] shows, the largest first."""
    counts = np.bincount(answers.reshape(-1), minlength=len(classes))
    order = np.argsort(-counts, kind="stable")
    return [Region(classes[label], float(counts[label] / answers.size)) for label in order if counts[label]]
