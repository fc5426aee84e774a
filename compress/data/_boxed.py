"""Pictures with boxes, as the sources of detection read them: checked, decoded, resized, and their boxes with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import starmap
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress.data._boxes import place_boxes
from compress.data._decode import decode_each
from compress.data._masks import TURNED, refuse_all
from compress.data._source import Dataset, Split
from compress.data._splits import list_names
from compress.errors import CompressError
from compress.preprocess import SUFFIXES
from compress.records import Preprocess
from compress.system.memory import require_memory
from compress.text import quantify

BEYOND = 2.0
"""Pixels that a box may reach beyond its picture, as rounding lets it; there it is clipped."""
PADDED = -1


class Boxed(NamedTuple):
    """A picture and its boxes."""

    path: Path
    boxes: NDArray[np.float32]
    """Left, top, right, bottom in pixels of the picture and class, [n, 5]; of a crowd of class c the class is -2 - c."""
    size: tuple[int, int] | None = None
    """Width and height that the annotation says; `None` where it says none."""


def find_box_problems(
    where: str, sides: tuple[float, float, float, float], size: tuple[int, int], numbers: str
) -> Iterator[CompressError]:
    """Yield what is wrong with a box: left, top, right and bottom in a picture of a width and height.

    Args:
        where: What it is called.
        sides: The box.
        size: Of the picture.
        numbers: How the annotation states it.
    """
    left, top, right, bottom = sides
    if not np.isfinite(sides).all():
        yield CompressError(f"{where}: box {numbers} is not finite; mend the annotation")
    elif right <= left or bottom <= top:
        yield CompressError(f"{where}: box {numbers} has no area; mend the annotation, or remove it")
    elif left < -BEYOND or top < -BEYOND or right > size[0] + BEYOND or bottom > size[1] + BEYOND:
        yield CompressError(
            f"{where}: box {numbers} reaches beyond its picture of {size[0]} × {size[1]} pixels; mend the annotation"
        )


def read_size(path: Path) -> tuple[int, int]:
    """Return width and height of a picture, upright, from its header.

    Raises:
        CompressError: It is no picture.
    """
    try:
        with Image.open(path) as image:
            turned = int(image.getexif().get(0x0112, 1)) in TURNED
            return image.size[::-1] if turned else image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CompressError(f"{path}: cannot be read as a picture ({error}); replace or remove it") from error


def find_size_problems(item: Boxed) -> Iterator[CompressError]:
    """Yield that a picture is not of the size that its annotation says."""
    try:
        own = read_size(item.path)
    except CompressError as error:
        yield error
        return
    if item.size is not None and own != item.size:
        turned = "; its EXIF turns it and the annotation does not follow" if own == item.size[::-1] else ""
        yield CompressError(
            f"{item.path}: has {own[0]} × {own[1]} pixels and its annotation says {item.size[0]} × {item.size[1]}{turned}: "
            "mend the annotation, or write the picture upright and in that size"
        )


def list_pictures(folder: Path) -> dict[str, Path]:
    """Return the pictures of a folder by their names, in sorted order; hidden ones are left out."""
    found = (path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    return {path.name: path for path in found}


def refuse_missing_classes(train: Sequence[Boxed], classes: Sequence[str]) -> None:
    """Refuse classes of which no training picture has a box.

    Raises:
        CompressError: There are such classes.
    """
    seen = {int(kind) for item in train for kind in item.boxes[:, 4] if kind >= 0}
    missing = [name for label, name in enumerate(classes) if label not in seen]
    if missing:
        raise CompressError(
            f"data: no training picture has a box of {quantify(len(missing), 'class', 'classes')}: {list_names(missing)}; "
            "correct the list of classes, or add pictures that show them"
        )


def load_boxed(splits: Sequence[Sequence[Boxed]], preprocess: Preprocess) -> Dataset:
    """Return pictures with boxes in memory, decoded and resized.

    Raises:
        CompressError: They do not fit into memory; or pictures cannot be read, or are of another size than annotated.
        Unreachable: A file cannot be read.
    """
    require_memory(sum(map(len, splits)), preprocess.height, preprocess.width, preprocess.depth, can_stream=False)
    refuse_all([problem for split in splits for item in split for problem in find_size_problems(item)])
    return Dataset(*starmap(_load_split, ((split, preprocess) for split in splits)))


def _load_split(split: Sequence[Boxed], preprocess: Preprocess) -> Split:
    images = np.empty((len(split), preprocess.height, preprocess.width, preprocess.depth), np.uint8)
    labels = np.zeros((len(split), max(1, *(len(item.boxes) for item in split)) if split else 1, 5), np.float32)
    labels[..., 4] = PADDED
    problems: list[CompressError] = []
    named = ((str(item.path), item.path) for item in split)
    pictures = (picture for some in decode_each(named, preprocess) for picture in some)
    for row, (item, picture) in enumerate(zip(split, pictures, strict=True)):
        if isinstance(picture, CompressError):
            problems.append(picture)
            continue
        images[row] = picture.pixels
        placed = place_boxes(item.boxes, picture.size, preprocess)
        labels[row, : len(placed)] = placed
    refuse_all(problems)
    return Split(images, labels)
