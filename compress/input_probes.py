"""Ways in which a network may expect its images otherwise than they are prepared here, tried where something is wrong.

An exported file that fails its gate, and a given teacher before it teaches, are fed the same images in each of these ways.
Where one of them is clearly better, that is the likely cause. Pure NumPy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compress.records import Preprocess

Images = NDArray[np.float32] | NDArray[np.uint8]
Values = tuple[float, ...]
"""One number for each channel, or one for all."""

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CAFFE = ((0.485, 0.458, 0.408), (1 / 255, 1 / 255, 1 / 255))
"""103.939, 116.779 and 123.68 are taken off values from 0 to 255; the networks took BGR."""


class Convention(NamedTuple):
    """How pixels become the numbers that a network takes."""

    what: str
    """What differs from how it is fed, as a clause."""
    mean: Values
    """On the scale 0 to 1, in the order of RGB."""
    std: Values
    bgr: bool = False
    """Whether blue comes first."""
    is_usual: bool = True
    """Whether networks are trained so; else it is a fault of a file."""

    def apply(self, shares: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return images as the network takes them, float32 [N, C, H, W], of shares from 0 to 1 in RGB or gray, the same."""
        mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (self.mean, self.std))
        values = (shares - mean) / std
        return np.ascontiguousarray(values[:, ::-1] if self.bgr else values, np.float32)


class Probe(NamedTuple):
    """The same images, altered in one way."""

    what: str
    """What differs, as a clause."""
    images: Images
    convention: Convention | None
    """How they were normalised, where that is what differs."""


def list_conventions(mean: Values, std: Values, depth: int, *, own: tuple[Values, Values] | None = None) -> list[Convention]:
    """Return the conventions that are in use besides one.

    Args:
        mean: Of the convention that is given.
        std: Of the same.
        depth: Channels of the images.
        own: Mean and std of the training images, where they may be others.
    """
    zero, one = (0.0,) * depth, (1.0,) * depth
    each = [
        Convention("it is fed values from 0 to 1, so it normalises by itself", zero, one),
        Convention("it is fed values from 0 to 255, so it divides and normalises by itself", zero, (1 / 255,) * depth),
        Convention("it is fed values from -1 to 1", (0.5,) * depth, (0.5,) * depth),
        Convention("the mean is not taken off", zero, std, is_usual=False),
        Convention("it is not divided by std", mean, one, is_usual=False),
        Convention(
            "the values are not divided by 255 before mean and std",
            tuple(value / 255 for value in mean), tuple(value / 255 for value in std), is_usual=False,
        ),
        Convention(
            "the input is normalised twice",
            tuple(m + s * m for m, s in zip(mean, std, strict=True)), tuple(value * value for value in std),
            is_usual=False,
        ),
        *([] if own is None else [Convention("mean and std are those of the training images", *own)]),
    ]  # fmt: skip
    if depth == 3:
        each.append(Convention("mean and std are those of ImageNet", *IMAGENET))
        each += [
            Convention("the channels are fed in BGR order", mean, std, bgr=True),
            *(each[place]._replace(what=f"{each[place].what}, in BGR order", bgr=True) for place in (0, 1, 2, -1)),
            *_swap_statistics(("mean and std", mean, std), ("ImageNet's mean and std", *IMAGENET)),
            Convention("it is fed values from 0 to 255 in BGR order, less the mean of Caffe's networks", *CAFFE, bgr=True),
        ]
    distinct: list[Convention] = [Convention("", mean, std)]
    for convention in each:
        if not any(_is_same(convention, other) for other in distinct):
            distinct.append(convention)
    return distinct[1:]


def _swap_statistics(*known: tuple[str, Values, Values]) -> Iterator[Convention]:
    """Yield the normalisations of BGR images with numbers that are listed for RGB, as after `cv2.imread` and `Normalize`."""
    for what, mean, std in known:
        yield Convention(f"the channels are fed in BGR order with {what} of RGB", mean[::-1], std[::-1], bgr=True)


def _is_same(one: Convention, other: Convention) -> bool:
    values = (*one.mean, *one.std), (*other.mean, *other.std)
    return one.bgr == other.bgr and np.allclose(*values, rtol=1e-3, atol=1e-4)


def alter_normalised(images: Images, preprocess: Preprocess) -> Iterator[Probe]:
    """Yield images as a network with another preprocessing would expect them.

    Args:
        images: Normalised, float32 [N, C, H, W].
        preprocess: How they were normalised.
    """
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (preprocess.mean, preprocess.std))
    shares = (images * std + mean).astype(np.float32)  # 0 to 1
    for convention in list_conventions(preprocess.mean, preprocess.std, images.shape[1]):
        yield Probe(convention.what, convention.apply(shares), convention)
    made = {"the images are inverted": (1 - shares - mean) / std, **turn_and_mirror(images, (2, 3))}
    if images.shape[1] == 3:
        made |= {
            "the image is gray": np.broadcast_to(shares.mean(axis=1, keepdims=True), shares.shape) * (1 / std) - mean / std,
            "the memory is read as channels last": images.transpose(0, 2, 3, 1).reshape(images.shape),
        }
    for what, values in made.items():
        yield Probe(what, np.ascontiguousarray(values, np.float32), None)


def alter_pixels(images: Images) -> Iterator[Probe]:
    """Yield pictures as a network that preprocesses otherwise would expect them.

    Args:
        images: As decoded, uint8 [N, H, W, C].
    """
    made = {"the images are inverted": 255 - images, **turn_and_mirror(images, (1, 2))}
    if images.shape[3] == 3:
        made |= {
            "the channels are fed in BGR order": images[..., ::-1],
            "the memory is read as channels first": images.transpose(0, 3, 1, 2).reshape(images.shape),
        }
    for what, values in made.items():
        yield Probe(what, np.ascontiguousarray(values, np.uint8), None)


def turn_and_mirror(images: Images, axes: tuple[int, int]) -> dict[str, Any]:
    """Return images turned and mirrored, by what differs.

    Args:
        images: [N, C, H, W], or [N, H, W, C].
        axes: Height and width among these.
    """
    height, width = axes
    made = {
        "the images are mirrored": np.flip(images, width),
        "the images stand on their head": np.flip(images, height),
        "the images are turned by 180 degrees": np.flip(images, axes),
    }
    return made | (
        {"height and width are swapped": images.swapaxes(*axes)} if images.shape[height] == images.shape[width] else {}
    )


def find_range(images: Sequence[NDArray[np.float32]]) -> tuple[Values, Values]:
    """Return the mean and std by which images whose normalisation is unknown may have been made of shares from 0 to 1.

    The least and the most number of a channel are taken for black and white.

    Args:
        images: Batches, float32 [n, C, H, W] each.
    """
    low = np.min([batch.min(axis=(0, 2, 3)) for batch in images], axis=0).astype(np.float64)  # [C]
    high = np.max([batch.max(axis=(0, 2, 3)) for batch in images], axis=0).astype(np.float64)
    if low.min() >= 0 and high.max() <= 1 + 1e-6:
        low, high = np.zeros_like(low), np.ones_like(high)
    std = 1 / np.maximum(high - low, 1e-6)
    return tuple((-low * std).tolist()), tuple(std.tolist())
