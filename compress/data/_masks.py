"""Masks: pictures whose pixels are classes; they are resized without mixing any two."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress.records import Preprocess


def resize_mask(mask: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.uint8]:
    """Return a mask [H, W] in the size of the network's input, [h, w]: each pixel has the class of the nearest one."""
    size = (preprocess.width, preprocess.height)
    if mask.shape[::-1] == size:
        return mask
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
