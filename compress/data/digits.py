"""Real handwritten digits that come with scikit-learn: 1797 gray images of 8 × 8 pixels, ten classes, no download.

The values 0 .. 16 are spread over 0 .. 255. The authors give no test split here, so a stratified quarter is set aside, always
the same one, whatever the recipe's seed. The images of one writer may be on both sides: a fit for demonstrations and tests of
the chain, not for claims about handwriting.

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI 1998 (its test part, as scikit-learn ships it).
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from compress.data import Dataset, Split, Summary, check_dataset, hold_out
from compress.preprocess import decode
from compress.recipe import Fraction
from compress.records import Preprocess

IMAGES, CLASSES = 1797, 10


class Digits:
    """The digits of scikit-learn.

    Args:
        test_fraction: Share of the images that is set aside as the test split, stratified by class.
    """

    channels = "gray"
    mirrors = False

    def __init__(self, *, test_fraction: Fraction = 0.25) -> None:
        self.test_fraction = test_fraction

    def summary(self) -> Summary:
        """Return classes and sizes, without loading scikit-learn."""
        test = math.ceil(IMAGES * self.test_fraction)
        return Summary(tuple(str(digit) for digit in range(CLASSES)), IMAGES - test, test)

    def load(self, preprocess: Preprocess) -> Dataset:
        """Return all images, resized.

        Raises:
            CompressError: The test fraction leaves a class without images.
        """
        from sklearn.datasets import load_digits

        digits = load_digits()
        values = (digits.images.astype(np.int64) * 255 + 8) // 16  # 0 .. 16 to the nearest of 0 .. 255
        pictures = [Image.fromarray(value) for value in values.astype(np.uint8)]
        images = np.stack([decode(picture, preprocess, f"digit {row}") for row, picture in enumerate(pictures)])
        everything = Split(images, digits.target.astype(np.int64))
        return check_dataset(Dataset(*hold_out(everything, fraction=self.test_fraction, seed=0)), CLASSES)
