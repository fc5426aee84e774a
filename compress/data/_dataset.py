"""The contract of a data source.

A source is a class named after its file whose keyword-only arguments are its options in the recipe. It imports no torch, so
that `compress check` can describe the data without loading an engine. Images are uint8, decoded and resized by
`compress.preprocess`, and held in memory.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from compress.records import Preprocess

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


class Split(NamedTuple):
    """Images with their labels."""

    images: Images
    """[N, H, W, C], C is 1 (gray) or 3 (RGB)."""
    labels: Labels
    """[N], each in 0 .. classes - 1."""


class Dataset(NamedTuple):
    """A data set as its authors split it; the validation split is taken from `train` later."""

    train: Split
    test: Split


class Summary(NamedTuple):
    """What can be told of a data set without decoding its images."""

    classes: tuple[str, ...]
    """Names in label order."""
    train_images: int
    test_images: int


class Source(Protocol):
    """What every data source does. Its constructor does no work."""

    channels: str
    """`gray` or `rgb`: what `load` decodes to."""

    def summary(self) -> Summary:
        """Return classes and sizes cheaply.

        Raises:
            CompressError: The data is not what its options say.
            Unreachable: The data is not there.
        """

    def load(self, preprocess: Preprocess) -> Dataset:
        """Return all images, decoded to `preprocess.channels` and resized to its size; `mean` and `std` do not matter here.

        Raises:
            CompressError: An image cannot be decoded or a label is out of range; the message names the item.
            Unreachable: The data is not there.
        """
