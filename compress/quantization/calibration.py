"""Select the calibration images: those on which ranges of activations are estimated when a network becomes int8.

They come from the training split and from nowhere else: ranges that were fitted to validation images would flatter every choice
that is made on these, and those of the test split would flatter the result. They are shown as validation images are, without
augmentation. Every class has the same share, as far as the split has the images: a class that is missing may be the one whose
activations reach furthest.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from compress.data import Split
from compress.errors import CompressError
from compress.preprocess import normalise
from compress.records import Preprocess
from compress.tasks import CLASSIFICATION, Labels, Task


class Calibration(NamedTuple):
    """Images for calibration."""

    images: NDArray[np.float32]
    """Normalised, [N, C, H, W]."""
    key: str
    """sha256 of their shape and bytes."""


def select_calibration(
    train: Split, preprocess: Preprocess, *, count: int, seed: int, task: Task = CLASSIFICATION
) -> Calibration:
    """Select calibration images from the training split, class by class in turn; the same for the same arguments.

    Args:
        train: The training split, its images [N, H, W, C], without those that were held out.
        preprocess: How images become the input of the network.
        count: How many images; all where the split has fewer.
        seed: Which images those are.
        task: What the labels are for.

    Raises:
        CompressError: There are no images, or all are of one class.
    """
    strata = task.compute_strata(train.labels, 0)
    if task.is_dense and len(np.unique(strata)) < 2:  # every image shows the same rarest class, which is no fault
        strata = np.arange(len(strata)) % 2
    rows = draw_balanced_rows(strata, count, seed=seed)
    images = normalise(train.images[rows], preprocess)
    digest = hashlib.sha256(repr(images.shape).encode())
    digest.update(np.ascontiguousarray(images, dtype="<f4").reshape(-1).data)
    return Calibration(images, digest.hexdigest())


def draw_balanced_rows(labels: Labels, count: int, *, seed: int) -> NDArray[np.int64]:
    """Draw rows of a split, [count]: one of each class, then a second of each, and so on until there are `count`.

    A class that has too few gives all that it has, and the others fill its place. Where `count` is less than the number of
    classes, which of them are shown is drawn by the seed, too.

    Args:
        labels: Class of each row, [N].
        count: How many rows; all where there are fewer.
        seed: Which rows, and in which order.

    Raises:
        CompressError: No rows, or only rows of one class.
    """
    own_stream = np.random.SeedSequence([seed, 0xCA11B8])  # apart from other uses of the seed
    mixed = np.random.default_rng(own_stream).permutation(len(labels))
    turn = np.empty(len(labels), dtype=np.int64)  # [N], how many of the same class come before it
    for label in np.unique(labels):
        own = mixed[labels[mixed] == label]
        turn[own] = np.arange(len(own))
    rows: NDArray[np.int64] = mixed[np.argsort(turn[mixed], kind="stable")][:count]
    found = np.unique(labels[rows])
    if len(found) < 2:
        shown = f"are all of class {found[0]}" if len(found) else "are none"
        raise CompressError(
            f"int8.calibration_images: the {len(rows)} of {len(labels)} training images that {count} allows {shown}; ranges "
            "that are estimated on them clip all others: give images of two classes at least"
        )
    return rows
