"""Augmentation of images as a pure function of (seed, view, row), with the operations of torchvision.transforms.v2.

Every image draws from a counter-based generator of its own, so that its pixels depend on nothing else: not on the batch that it
is in, on threads, or on where a run was interrupted; and so do those of the image that it is mixed with. An image that was
mixed is an image of its view like any other: a teacher is asked for it as it is, and its answer is kept by view and row. No
answer is itself mixed.

Parameters are drawn first, and then applied. Those that move pixels (`MOVES`) move a mask alike; mixing does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.recipe.augmentation import AugmentSection

BINS = 31
"""Magnitudes of RandAugment and TrivialAugment."""
ERASED_SHARE, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)
TRIES = 10
MOVES = frozenset({"crop", "shear_x", "shear_y", "translate_x", "translate_y", "rotate"})
"""Operations after which pixels lie elsewhere."""
ENHANCE = ("brightness", "color", "contrast", "sharpness")
_MIXING, _IMAGES = 2, 1
"""Which part of the counter is whose."""


class Operation(NamedTuple):
    """Something that is done to an image."""

    name: str
    values: tuple[float, ...] = ()


class Mix(NamedTuple):
    """What is taken of another image."""

    row: int
    share: float
    """How much of the image itself is left."""
    box: tuple[int, int, int, int] | None
    """Top, left, height and width of what is pasted; `None` where all is blended."""


class Augmenter:
    """Augments images of a split.

    Args:
        section: What is done.
        seed: Of the views.
        size: Height and width of the images.
        mean: Mean of each channel from 0 to 1, with which is filled what has no picture.
    """

    def __init__(self, section: AugmentSection, *, seed: int, size: tuple[int, int], mean: Sequence[float]) -> None:
        self.section, self._seed, self._size = section, seed, size
        self._fill = [round(255 * value) for value in mean]

    def augment(self, images: Tensor, rows: NDArray[np.int64], view: int) -> Tensor:
        """Return the images of some rows [B] in a view, uint8 [B, C, H, W]."""
        made = [
            self.apply(image, self.draw(_make_generator(self._seed, view, row, _IMAGES)))
            for image, row in zip(images, rows.tolist(), strict=True)
        ]
        return torch.stack(made)

    def draw(self, random: np.random.Generator) -> list[Operation]:
        """Draw what is done to one image."""
        return list(self._draw(random))

    def _draw(self, random: np.random.Generator) -> Iterator[Operation]:
        section = self.section
        if section.crop_scale is not None:
            yield Operation("crop", _draw_box(random, self._size, section.crop_scale, section.crop_ratio))
        if section.rand_augment is not None:
            for _ in range(section.operations):
                yield _draw_operation(random, self._size, wide=False, level=section.rand_augment)
        if section.trivial_augment:
            yield _draw_operation(random, self._size, wide=True, level=int(random.integers(BINS)))
        jitter = {"brightness": section.brightness, "contrast": section.contrast, "color": section.saturation}
        turned = [Operation(name, (random.uniform(1 - width, 1 + width),)) for name, width in jitter.items() if width]
        if section.hue:
            turned.append(Operation("hue", (random.uniform(-section.hue, section.hue),)))
        yield from (turned[place] for place in random.permutation(len(turned)))
        if section.erasing and random.random() < section.erasing:
            yield Operation("erase", _draw_box(random, self._size, ERASED_SHARE, ERASED_RATIO))

    def apply(self, image: Tensor, operations: Sequence[Operation]) -> Tensor:
        """Return an image uint8 [C, H, W] after some operations."""
        for operation in operations:
            image = apply_operation(image, operation, fill=self._fill)
        return image

    def move_mask(self, mask: Tensor, operations: Sequence[Operation], *, outside: int) -> Tensor:
        """Return a mask uint8 [H, W] that lies on its image after some operations; `outside` is where there is no picture."""
        moved = mask[None]
        for operation in operations:
            if operation.name in MOVES:
                moved = apply_operation(moved, operation, fill=[outside], is_mask=True)
        return moved[0]

    def draw_mixes(self, rows: NDArray[np.int64], view: int, total: int) -> list[Mix]:
        """Draw with which of `total` images, and how, each of some rows [B] is mixed in a view."""
        return [self._draw_mix(_make_generator(self._seed, view, row, _MIXING), total) for row in rows.tolist()]

    def _draw_mix(self, random: np.random.Generator, total: int) -> Mix:
        mixup, cutmix, row = self.section.mixup, self.section.cutmix, int(random.integers(total))
        pastes = bool(cutmix) and (not mixup or bool(random.random() < 0.5))
        alpha = cutmix if pastes else mixup
        share = float(random.beta(alpha, alpha))
        if not pastes:
            return Mix(row, share, None)
        height, width = self._size
        sides = round(height * math.sqrt(1 - share)), round(width * math.sqrt(1 - share))
        middle = int(random.integers(height)), int(random.integers(width))
        top, left = (max(0, place - side // 2) for place, side in zip(middle, sides, strict=True))
        bottom = min(height, middle[0] - sides[0] // 2 + sides[0])
        right = min(width, middle[1] - sides[1] // 2 + sides[1])
        box = top, left, max(0, bottom - top), max(0, right - left)
        return Mix(row, 1 - box[2] * box[3] / (height * width), box)


def mix_batch(images: Tensor, others: Tensor, mixes: Sequence[Mix]) -> Tensor:
    """Return images [B, C, H, W] mixed with others of the same shape."""
    mixed = images.clone()
    for place, mix in enumerate(mixes):
        if mix.box is None:
            mixed[place] = images[place] * mix.share + others[place] * (1 - mix.share)
        else:
            top, left, height, width = mix.box
            inside = (slice(None), slice(top, top + height), slice(left, left + width))
            mixed[place][inside] = others[place][inside]
    return mixed


def _make_generator(seed: int, view: int, row: int, part: int) -> np.random.Generator:
    """Return a generator that no other image, view or seed shares a number with."""
    key, counter = np.array([seed, view], np.uint64), np.array([0, row, part, 0], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def _draw_box(
    random: np.random.Generator, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a random part, as torchvision's RandomResizedCrop draws it."""
    height, width = size
    for _ in range(TRIES):
        area = height * width * random.uniform(*scale)
        shape = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
        wide, high = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < wide <= width and 0 < high <= height:
            return int(random.integers(height - high + 1)), int(random.integers(width - wide + 1)), high, wide
    shape = min(max(width / height, ratio[0]), ratio[1])
    wide, high = min(width, round(height * shape)), min(height, round(width / shape))
    return (height - high) // 2, (width - wide) // 2, high, wide


def _draw_operation(random: np.random.Generator, size: tuple[int, int], *, wide: bool, level: int) -> Operation:
    """Return an operation of RandAugment, or of TrivialAugment's wider space, of a magnitude from 0 to 30."""
    share, (height, width) = level / (BINS - 1), size
    most_shear, most_angle, most_change = (0.99, 135.0, 0.99) if wide else (0.3, 30.0, 0.9)
    across, down = (32.0, 32.0) if wide else (150 / 331 * width, 150 / 331 * height)
    signed = {
        "shear_x": most_shear * share, "shear_y": most_shear * share, "translate_x": across * share,
        "translate_y": down * share, "rotate": most_angle * share, **dict.fromkeys(ENHANCE, most_change * share),
    }  # fmt: skip
    others = {
        "identity": (), "posterize": (8 - round(level / ((BINS - 1) / (6 if wide else 4))),),
        "solarize": (255 - 255 * share,), "auto_contrast": (), "equalize": (),
    }  # fmt: skip
    name = [*signed, *others][int(random.integers(len(signed) + len(others)))]
    if name in others:
        return Operation(name, others[name])
    value = signed[name] * (1 if random.random() < 0.5 else -1)
    return Operation(name, (1 + value if name in ENHANCE else value,))


def apply_operation(image: Tensor, operation: Operation, *, fill: list[int], is_mask: bool = False) -> Tensor:
    """Return an image uint8 [C, H, W] after one operation; a mask takes the nearest value and no mean of several."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as v2

    name, values = operation
    shear, translate, center = [0.0, 0.0], [0, 0], None
    if name in {"shear_x", "shear_y"}:
        shear[name == "shear_y"], center = math.degrees(math.atan(values[0])), [0.0, 0.0]
    if name in {"translate_x", "translate_y"}:
        translate[name == "translate_y"] = int(values[0])
    made: Tensor
    if any(shear) or any(translate):
        made = v2.affine(image, angle=0.0, translate=translate, scale=1.0, shear=shear, fill=fill, center=center)
    elif name == "rotate":
        made = v2.rotate(image, angle=values[0], fill=fill)
    elif name == "crop":
        mode = InterpolationMode.NEAREST if is_mask else InterpolationMode.BILINEAR
        made = v2.resized_crop(image, *map(int, values), list(image.shape[1:]), interpolation=mode, antialias=True)
    elif name == "erase":
        made = v2.erase(image, *map(int, values), torch.tensor(fill, dtype=image.dtype).view(-1, 1, 1))
    else:
        made = image if name in MOVES else _COLOURS[name](v2, image, *values)
    return made


_COLOURS: dict[str, Callable[..., Tensor]] = {
    "identity": lambda _v2, image: image,
    "brightness": lambda v2, image, factor: v2.adjust_brightness(image, factor),
    "color": lambda v2, image, factor: v2.adjust_saturation(image, factor) if len(image) == 3 else image,
    "contrast": lambda v2, image, factor: v2.adjust_contrast(image, factor),
    "sharpness": lambda v2, image, factor: v2.adjust_sharpness(image, factor),
    "hue": lambda v2, image, turn: v2.adjust_hue(image, turn) if len(image) == 3 else image,
    "posterize": lambda v2, image, bits: v2.posterize(image, int(bits)),
    "solarize": lambda v2, image, threshold: v2.solarize(image, threshold),
    "auto_contrast": lambda v2, image: v2.autocontrast(image),
    "equalize": lambda v2, image: v2.equalize(image),
}
"""Operations that leave every pixel where it is; a gray image has no colours to change."""
