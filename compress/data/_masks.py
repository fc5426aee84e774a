"""Masks: pictures whose pixels are classes. They are read as numbers, never as colours, and resized without mixing any two."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from compress.data._prefetch import prefetch
from compress.data._source import IGNORED, Dataset, Split
from compress.data._splits import list_names
from compress.errors import CompressError, Unreachable
from compress.geometry import apply_placement, place_picture
from compress.preprocess import decode_picture
from compress.records import Preprocess
from compress.system.files import read_bounded
from compress.system.memory import require_memory
from compress.system.processors import count_processors
from compress.text import quantify

MODES = ("L", "P", "1")
"""Pillow's modes whose values are numbers of classes."""
MOST_BYTES = 1 << 28
"""Of the file of a mask."""
TOGETHER = 8
SHOWN = 10
"""Problems that a message names."""
TURNED = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""


class Pair(NamedTuple):
    """A picture and its mask, each as bytes or as a file."""

    where: str
    """What the picture is called in messages."""
    picture: bytes | Path
    mask_where: str
    mask: bytes | Path | None
    """`None` where the data has no mask for the picture."""


class Read(NamedTuple):
    """A picture and its mask in the network's size."""

    pixels: NDArray[np.uint8]
    """[H, W, C]."""
    mask: NDArray[np.uint8]
    """[H, W]."""
    counts: NDArray[np.int64]
    """How many pixels of the whole mask have each value, [256]."""


def load_masked(
    pairs: Sequence[tuple[int, Callable[[], Iterator[Pair]]]], classes: Sequence[str], preprocess: Preprocess
) -> Dataset:
    """Return pictures with masks in memory, decoded and resized.

    Args:
        pairs: Of each split, how many there are, and what begins to go through them.
        classes: Names of the values 0, 1, and so on.
        preprocess: Size, channels, interpolation and levels.

    Raises:
        CompressError: They do not fit into memory; or pictures or masks cannot be used, and the message names them; or no
            training mask has one of the classes.
        Unreachable: A file cannot be read.
    """
    require_memory(
        sum(count for count, _ in pairs), preprocess.height, preprocess.width, preprocess.depth + 1, can_stream=False
    )
    problems: list[CompressError] = []
    splits, seen = [], []
    for count, each in pairs:
        images = np.empty((count, preprocess.height, preprocess.width, preprocess.depth), np.uint8)
        masks = np.empty(images.shape[:3], np.uint8)
        counts = np.zeros(256, np.int64)
        for row, read in enumerate(_read_each(each(), len(classes), preprocess)):
            if isinstance(read, CompressError):
                problems.append(read)
            else:
                images[row], masks[row] = read.pixels, read.mask
                counts += read.counts
        splits.append(Split(images, masks))
        seen.append(counts)
    refuse_all(problems)
    missing = [name for name, count in zip(classes, seen[0], strict=False) if not count]
    if missing:
        raise CompressError(
            f"data: no training mask has a pixel of {quantify(len(missing), 'class', 'classes')}: {list_names(missing)}; "
            "correct the list of classes, or add pictures that show them"
        )
    return Dataset(*splits)


def refuse_all(problems: Sequence[CompressError]) -> None:
    """Refuse what was found wrong, together.

    Raises:
        CompressError: There are problems; the message names the first of them, and how many there are.
        Unreachable: All of them are files that cannot be read.
    """
    if not problems:
        return
    kind = Unreachable if all(isinstance(problem, Unreachable) for problem in problems) else CompressError
    if len(problems) == 1:
        raise kind(str(problems[0]))
    more = [f"  and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    raise kind("\n".join([f"data: {len(problems)} problems:", *(f"  {problem}" for problem in problems[:SHOWN]), *more]))


def _read_each(pairs: Iterator[Pair], classes: int, preprocess: Preprocess) -> Iterator[Read | CompressError]:
    def read_some(some: list[Pair]) -> list[Read | CompressError]:
        return [_try_read(pair, classes, preprocess) for pair in some]

    workers = count_processors()
    for some in prefetch(_group(read_some, pairs), workers=workers, lead=2 * workers):
        yield from some


def _group(
    function: Callable[[list[Pair]], list[Read | CompressError]], pairs: Iterator[Pair]
) -> Iterator[Callable[[], list[Read | CompressError]]]:
    while some := list(islice(pairs, TOGETHER)):
        yield partial(function, some)


def _try_read(pair: Pair, classes: int, preprocess: Preprocess) -> Read | CompressError:
    try:
        return _read(pair, classes, preprocess)
    except CompressError as error:
        return error


def _read(pair: Pair, classes: int, preprocess: Preprocess) -> Read:
    if pair.mask is None:
        raise CompressError(f"{pair.where}: has no mask; add it as {pair.mask_where}, or remove the picture")
    picture = decode_picture(pair.picture, preprocess, pair.where)
    image = _open(pair.mask, pair.mask_where)
    refuse_size(pair, picture.size, image.size, _read_orientation(pair.picture))
    mask = np.asarray(image, np.uint8)
    counts = np.bincount(mask.ravel(), minlength=256)
    wrong = [value for value in np.flatnonzero(counts).tolist() if value >= classes and value != IGNORED]
    if wrong:
        hint = "; it looks like shades of gray and not like numbers of classes" if len(wrong) > 5 else ""
        shown = ", ".join(map(str, wrong[:5])) + (" and others" if len(wrong) > 5 else "")
        raise CompressError(
            f"{pair.mask_where}: has the {'values' if len(wrong) > 1 else 'value'} {shown}, and there are {classes} classes, "
            f"0 to {classes - 1} ({IGNORED} is ignored){hint}; mend the mask, or name all classes"
        )
    if counts[IGNORED] == mask.size:
        raise CompressError(f"{pair.mask_where}: all of its pixels are ignored ({IGNORED}); remove it with its picture")
    return Read(picture.pixels, resize_mask(mask, preprocess), counts)


def _open(source: bytes | Path, where: str) -> Image.Image:
    """Return a mask, upright, in a mode whose values are classes.

    Raises:
        CompressError: It is no PNG, is damaged, or has colours.
        Unreachable: The file cannot be read.
    """
    data = read_bounded(source, limit_bytes=MOST_BYTES, what="a mask") if isinstance(source, Path) else source
    try:
        image = Image.open(io.BytesIO(data), formats=["PNG"])
        refuse_mode(image.mode, where)
        return ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise CompressError(f"{where}: is no PNG, and other formats change the numbers of classes; write it as PNG") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CompressError(f"{where}: cannot be decoded as a mask ({error}); write it again") from error


def refuse_mode(mode: str, where: str) -> None:
    """Refuse a mask whose values are no numbers of classes.

    Raises:
        CompressError: It has colours, transparency or more than 8 bits.
    """
    if mode in MODES:
        return
    kinds = {"RGB": "colours", "RGBA": "colours and transparency", "LA": "transparency"}
    raise CompressError(
        f"{where}: has {kinds.get(mode, 'values of more than 8 bits')} (mode {mode}), and each pixel of a mask is the "
        "number of a class: convert it by the palette that made it, to a PNG of mode L or P"
    )


def refuse_size(pair: Pair, picture: tuple[int, int], mask: tuple[int, int], orientation: int) -> None:
    """Refuse a mask that does not lie on its picture.

    Args:
        pair: What both are called.
        picture: Width and height, upright.
        mask: Width and height.
        orientation: That the EXIF data of the picture states.

    Raises:
        CompressError: Their sizes differ; the message says if that is for a turned picture.
    """
    if picture == mask:
        return
    sizes = f"{mask[0]} × {mask[1]} pixels and its picture {picture[0]} × {picture[1]}"
    if orientation in TURNED and mask == picture[::-1]:
        raise CompressError(
            f"{pair.mask_where}: has {sizes}, which its EXIF orientation {orientation} turns and the mask does not follow: "
            "turn the mask, or write the picture upright without EXIF"
        )
    raise CompressError(f"{pair.mask_where}: has {sizes}; give a mask of the picture's size")


def _read_orientation(source: bytes | Path) -> int:
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        return int(image.getexif().get(0x0112, 1))


def read_header(pair: Pair) -> Iterable[CompressError]:
    """Yield what is wrong with a pair by the headers of its files alone; what cannot be opened is left to reading it."""
    if pair.mask is None:
        yield CompressError(f"{pair.where}: has no mask; add it as {pair.mask_where}, or remove the picture")
        return
    try:
        with _peek(pair.picture) as picture, _peek(pair.mask) as mask:
            orientation = int(picture.getexif().get(0x0112, 1))
            upright = picture.size[::-1] if orientation in TURNED else picture.size
            refuse_mode(mask.mode, pair.mask_where)
            refuse_size(pair, upright, mask.size, orientation)
    except CompressError as error:
        yield error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return  # decoding tells it with its reason


def _peek(source: bytes | Path) -> Image.Image:
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)


def resize_mask(mask: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.uint8]:
    """Return a mask [H, W] as its picture is placed, [h, w]: each pixel has the class of the nearest one, and filling none."""
    image = Image.fromarray(mask)
    placed = apply_placement(image, place_picture(image.size, preprocess), preprocess, fill=IGNORED, nearest=True)
    return np.asarray(placed)
