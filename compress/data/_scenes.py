"""Scenes of handwritten digits on photographs, drawn from scikit-learn's own digits and photographs.

A scene is a window of a photograph with digits on it, and with it the number of the digit that each pixel belongs to, from
which mask and boxes follow. The pixels of each side, training and test, come from a part of the photographs and from digits of
its own.
"""

from __future__ import annotations

from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress.data._source import IGNORED, Split, hold_out

CLASSES = 10
TRAIN_SHARE = 0.7
"""Share of the photographs' width, from the left, that training scenes are cut from; test scenes are cut from the rest."""
TEST_FRACTION = 0.25
"""Share of the digits that is drawn in test scenes alone."""
INK, EDGE = 0.45, 0.2
"""Ink above the first is the digit, ink between both is its contour, which is ignored; below it is what was there."""
OVERLAP = 0.05
"""Share of a digit's place that others may take already, as long as a place with less is found."""
TRIES = 20

Gray = NDArray[np.float32]


class Material(NamedTuple):
    """What the scenes of one split are drawn of."""

    digits: tuple[NDArray[np.float32], ...]
    """Ink of the digits of each class, 0 to 1, [n, 8, 8] each."""
    photographs: tuple[Image.Image, ...]


class Scene(NamedTuple):
    """A picture, and where the digits are in it."""

    picture: NDArray[np.uint8]
    """[H, W, 3]."""
    places: NDArray[np.uint8]
    """Which of the digits each pixel belongs to, from 1 on; 0 is background, `IGNORED` a contour; [H, W]."""
    digits: tuple[int, ...]
    """The class of each digit that was drawn."""


@cache
def load_material(split: Literal["train", "test"]) -> Material:
    """Return the digits and the parts of photographs of a split; those of the other one are others."""
    from sklearn.datasets import load_digits, load_sample_images

    digits = load_digits()
    everything = Split(digits.images.astype(np.uint8)[..., None], digits.target.astype(np.int64))
    images, labels = hold_out(everything, fraction=TEST_FRACTION, seed=0)[split == "test"]  # as the data source `digits` does
    ink = np.asarray(images[:], np.float32)[..., 0] / 16
    photographs = [_cut_photograph(Image.fromarray(pixels), split) for pixels in load_sample_images().images]
    return Material(tuple(ink[labels == digit] for digit in range(CLASSES)), tuple(photographs))


def _cut_photograph(photograph: Image.Image, split: Literal["train", "test"]) -> Image.Image:
    edge = round(TRAIN_SHARE * photograph.width)
    left, right = (0, edge) if split == "train" else (edge, photograph.width)
    return photograph.crop((left, 0, right, photograph.height))


def draw_scene(material: Material, size: int, *, digits: int, distractors: float, random: np.random.Generator) -> Scene:
    """Return a scene of `size` × `size` pixels.

    Args:
        material: Of the split.
        size: Height and width in pixels.
        digits: The most digits in it; it has one at least.
        distractors: Share of the scenes that have a digit which was cut into quarters and is none any more.
        random: Decides everything else.
    """
    picture = _draw_background(material, size, random)
    places = np.zeros((size, size), np.uint8)
    taken = np.zeros((size, size), np.bool_)
    if random.random() < distractors:
        _draw(picture, taken, _shuffle_quarters(_choose_digit(material, random)[1], random), random)
    drawn = []
    for number in range(1, 1 + int(random.integers(1, digits + 1))):
        digit, ink = _choose_digit(material, random)
        (top, left), inked = _draw(picture, taken, ink, random)
        place = places[top : top + inked.shape[0], left : left + inked.shape[1]]
        place[inked > EDGE] = IGNORED
        place[inked > INK] = number
        drawn.append(digit)
    picture += random.normal(0, random.uniform(0, 6), picture.shape)
    return Scene(picture.clip(0, 255).round().astype(np.uint8), places, tuple(drawn))


def make_mask(scene: Scene) -> NDArray[np.uint8]:
    """Return the class of each pixel, [H, W]: 0 is background, 1 the digit 0, and so on; contours are `IGNORED`."""
    classes = np.zeros(256, np.uint8)
    classes[1 : 1 + len(scene.digits)] = np.array(scene.digits) + 1
    classes[IGNORED] = IGNORED
    return classes[scene.places]


def find_boxes(scene: Scene) -> NDArray[np.float32]:
    """Return the box of what is seen of each digit, [n, 5]: left, top, right, bottom in pixels, and the class.

    What is hidden altogether by a later digit has none.
    """
    boxes = []
    for number, digit in enumerate(scene.digits, start=1):
        rows, columns = np.nonzero(scene.places == number)
        if len(rows):
            boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1, digit))
    return np.array(boxes, np.float32).reshape(-1, 5)


def _draw_background(material: Material, size: int, random: np.random.Generator) -> Gray:
    """Return a window of a photograph in other contrast and brightness, [H, W, 3]; often mirrored."""
    photograph = material.photographs[random.integers(len(material.photographs))]
    side = int(random.uniform(0.4, 0.95) * min(photograph.size))
    left, top = (int(random.integers(whole - side + 1)) for whole in photograph.size)
    window = photograph.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(window, np.float32)[:, :: random.choice((-1, 1))]
    return (pixels - 128) * np.float32(random.uniform(0.6, 1.1)) + np.float32(128 + random.uniform(-30, 30))


def _choose_digit(material: Material, random: np.random.Generator) -> tuple[int, Gray]:
    digit = int(random.integers(CLASSES))
    return digit, material.digits[digit][random.integers(len(material.digits[digit]))]


def _shuffle_quarters(ink: Gray, random: np.random.Generator) -> Gray:
    """Return a digit [8, 8] whose quarters were turned and have changed places: strokes, but no digit."""
    quarters = [ink[:4, :4], ink[:4, 4:], ink[4:, :4], ink[4:, 4:]]
    first, second, third, last = (np.rot90(quarters[place], int(random.integers(1, 4))) for place in random.permutation(4))
    return np.block([[first, second], [third, last]])


def _draw(picture: Gray, taken: NDArray[np.bool_], ink: Gray, random: np.random.Generator) -> tuple[tuple[int, int], Gray]:
    """Draw a digit [8, 8] into a picture [H, W, 3] and mark its place as taken; return its corner and its ink [h, w]."""
    size = len(picture)
    inked = _enlarge(ink, size * random.uniform(0.36, 0.6), random.uniform(-10, 10))
    height, width = inked.shape
    top, left = _find_place(taken, height, width, random)
    taken[top : top + height, left : left + width] |= inked > EDGE
    under = picture[top : top + height, left : left + width]
    bright = under.mean() < 128
    colour = random.uniform(195, 255, 3) if bright else random.uniform(0, 60, 3)
    share = (inked * random.uniform(0.75, 1))[..., None]
    under[...] = under * (1 - share) + colour * share
    return (top, left), inked


def _enlarge(ink: Gray, side: float, degrees: float) -> Gray:
    """Return a digit [8, 8] with the width `side` and 1.2 times its height, turned, with all ink in the picture [h, w]."""
    padded = Image.fromarray(np.pad(ink, 1))
    large = padded.resize((round(side * 1.25), round(side * 1.2 * 1.25)), Image.Resampling.BICUBIC)  # 10 cells for 8
    turned = np.asarray(large.rotate(degrees, Image.Resampling.BICUBIC)).clip(0, 1)
    rows, columns = (np.flatnonzero((turned > EDGE).any(axis=axis)) for axis in (1, 0))
    return turned[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _find_place(taken: NDArray[np.bool_], height: int, width: int, random: np.random.Generator) -> tuple[int, int]:
    """Return where a digit is put: the first place that is free, or else the freest of those tried."""
    size, best = len(taken), (2.0, 0, 0)
    for _ in range(TRIES):
        top, left = int(random.integers(size - height + 1)), int(random.integers(size - width + 1))
        best = min(best, (float(taken[top : top + height, left : left + width].mean()), top, left))
        if best[0] <= OVERLAP:
            break
    return best[1:]
