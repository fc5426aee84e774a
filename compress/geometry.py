"""Placement of a picture in the rectangle that a network sees: squeezed, cut to its middle, or laid on a filled ground.

The only place where sizes are computed. They are whole numbers from whole numbers, so that the programs of a bundle, which
stand alone, come to the same. What lies over a picture, such as a mask of its classes, follows it by the same placement with
`nearest` and a fill of its own.

* `squeeze`: both sides become those of the rectangle.
* `center_crop`: the picture is scaled until it just covers a rectangle that is `1 / crop_fraction` larger, and the middle is
  taken. Of a square rectangle that is torchvision's `Resize` and `CenterCrop`, and timm's with `crop_pct`.
* `letterbox`: the picture is scaled until it just fits, lies in the middle, and what is left is filled.
"""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image

from compress.records import Preprocess

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
"""Pillow's filters; all but `nearest` smooth what they make smaller."""


class Placement(NamedTuple):
    """A picture's size after scaling, and where it then lies."""

    size: tuple[int, int]
    """Width and height to which the whole picture is resized."""
    offset: tuple[int, int]
    """Where the resized picture begins in the rectangle, left and top; below 0 where it is cut."""


def place_picture(own: tuple[int, int], preprocess: Preprocess) -> Placement:
    """Return how a picture of some width and height is placed."""
    return place_in(own, (preprocess.height, preprocess.width), preprocess.geometry, crop_fraction=preprocess.crop_fraction)


def place_in(own: tuple[int, int], sides: tuple[int, int], geometry: str, *, crop_fraction: float = 1.0) -> Placement:
    """Return how a picture is placed in a rectangle.

    Args:
        own: Width and height of the picture.
        sides: Height and width of the rectangle.
        geometry: As in the module's text.
        crop_fraction: Share of the shorter side that `center_crop` leaves.
    """
    height, width = sides
    if geometry == "center_crop":
        outer = int(width / crop_fraction), int(height / crop_fraction)
        size = _cover(own, outer)
        return Placement(size, (-_halve_even(size[0] - width), -_halve_even(size[1] - height)))
    if geometry == "letterbox":
        size = _fit(own, (width, height))
        return Placement(size, ((width - size[0]) // 2, (height - size[1]) // 2))
    return Placement((width, height), (0, 0))


def apply_placement(
    image: Image.Image, placement: Placement, preprocess: Preprocess, *, fill: int, nearest: bool
) -> Image.Image:
    """Return an image as the network sees it, of the contract's width and height, in its own mode.

    Args:
        image: As it was decoded.
        placement: Where it lies.
        preprocess: Size and interpolation.
        fill: Value of each channel where there is no picture.
        nearest: Take values as they are, as for a mask, instead of interpolating.
    """
    if image.size != placement.size:
        image = image.resize(placement.size, RESAMPLING["nearest" if nearest else preprocess.interpolation])
    whole, (left, top) = (preprocess.width, preprocess.height), placement.offset
    if image.size == whole:
        return image
    if image.width >= whole[0] and image.height >= whole[1]:
        return image.crop((-left, -top, whole[0] - left, whole[1] - top))
    ground = Image.new(image.mode, whole, (fill,) * len(image.getbands()) if len(image.getbands()) > 1 else fill)
    ground.paste(image, (left, top))
    return ground


def _cover(own: tuple[int, int], outer: tuple[int, int]) -> tuple[int, int]:
    """Return the size at which a picture just covers a rectangle; the side that is left over is rounded down."""
    if own[0] * outer[1] <= own[1] * outer[0]:
        return outer[0], own[1] * outer[0] // own[0]
    return own[0] * outer[1] // own[1], outer[1]


def _fit(own: tuple[int, int], outer: tuple[int, int]) -> tuple[int, int]:
    """Return the size at which a picture just fits a rectangle; the shorter side is rounded to the nearest, at least 1."""
    if own[0] * outer[1] >= own[1] * outer[0]:
        return outer[0], max(1, (2 * own[1] * outer[0] + own[0]) // (2 * own[0]))
    return max(1, (2 * own[0] * outer[1] + own[1]) // (2 * own[1])), outer[1]


def _halve_even(rest: int) -> int:
    """Return half of a number; of an odd one the neighbour that is even, as torchvision rounds."""
    half = rest // 2
    return half + (rest % 2 and half % 2)
