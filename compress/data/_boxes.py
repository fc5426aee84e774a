"""Boxes of objects, placed as their pictures are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compress.geometry import place_picture
from compress.records import Preprocess


def place_boxes(boxes: NDArray[np.float32], own: tuple[int, int], preprocess: Preprocess) -> NDArray[np.float32]:
    """Return boxes [n, 5] of a picture in pixels of the network's input, clipped to it, [m, 5]; those outside it are left out.

    Args:
        boxes: Left, top, right and bottom in pixels of the picture, and class.
        own: Width and height of the picture.
        preprocess: Size and geometry.
    """
    (width, height), (left, top) = place_picture(own, preprocess)
    across, down = width / own[0], height / own[1]
    placed = boxes * np.array([across, down, across, down, 1], np.float32) + np.array([left, top, left, top, 0], np.float32)
    limits = np.array([preprocess.width, preprocess.height] * 2, np.float32)
    placed[:, :4] = placed[:, :4].clip(0, limits)
    return placed[(placed[:, 2] > placed[:, 0]) & (placed[:, 3] > placed[:, 1])]
