"""Labels that lie on their images, moved as these are by a crop from a reflected border and by mirroring.

Masks are cropped and mirrored like pictures, so that a mask stays on what it marks in the reflected border, too. Boxes are
shifted, clipped to the image and mirrored; what is seen of an object in the border has none.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_SHARE = 0.25
"""Share of a box that must be left for it to count; of less it is not known what it is, and it is ignored."""
PADDED, IGNORED_BOX = -1, -2
"""Classes of rows that are no box, and of boxes of class 0 that are neither trained on nor judged; of class c it is c less."""


class MovedMasks:
    """Masks of a split.

    Args:
        masks: uint8 [N, H, W].
        windows: Every crop of them, [N, top, left, 1, H, W]; `None` if they are not cropped.
    """

    def __init__(self, masks: Tensor, windows: Tensor | None) -> None:
        self._masks, self._windows = masks, windows

    def move(self, rows: Tensor, offsets: Tensor, mirrored: Tensor) -> Tensor:
        """Return the masks of some rows [B] by offsets [B, 2] of their crops and whether each is mirrored [B], [B, H, W]."""
        if self._windows is None:
            masks = self._masks[rows]
        else:
            top, left = offsets.unbind(1)
            masks = self._windows[rows, top, left, 0]
        return torch.where(mirrored.view(-1, 1, 1), masks.flip(2), masks)


class MovedBoxes:
    """Boxes of a split.

    Args:
        boxes: float32 [N, M, 5]: left, top, right, bottom in pixels, and class.
        size: Height and width of the images.
        padding: Pixels of border that they are cropped from.
    """

    def __init__(self, boxes: Tensor, size: tuple[int, int], padding: int) -> None:
        self._boxes, self._size, self._padding = boxes, size, padding

    def move(self, rows: Tensor, offsets: Tensor, mirrored: Tensor) -> Tensor:
        """Return the boxes of some rows [B] by offsets [B, 2] of their crops and whether each is mirrored [B], [B, M, 5]."""
        boxes = self._boxes[rows]
        height, width = self._size
        down, across = (offsets - self._padding).to(boxes.dtype).unbind(1)  # [B]
        shift = torch.stack([across, down, across, down], dim=1)[:, None]  # [B, 1, 4]
        limits = boxes.new_tensor([width, height, width, height])
        places = boxes[..., :4] - shift
        kept = places.clamp(min=0).minimum(limits)
        flipped = torch.stack([width - kept[..., 2], kept[..., 1], width - kept[..., 0], kept[..., 3]], dim=2)
        kept = torch.where(mirrored.view(-1, 1, 1), flipped, kept)
        classes = boxes[..., 4]
        lost = (classes >= 0) & (_measure_areas(kept) < LEAST_SHARE * _measure_areas(places))
        moved = torch.cat([kept, torch.where(lost, IGNORED_BOX - classes, classes)[..., None]], dim=2)
        return torch.where((classes == PADDED)[..., None], boxes, moved)


def _measure_areas(boxes: Tensor) -> Tensor:
    """Return the area of boxes [..., 4], [...]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


class Unmoved:
    """Labels that do not lie anywhere, [N]."""

    def __init__(self, labels: Tensor) -> None:
        self._labels = labels

    def move(self, rows: Tensor, offsets: Tensor, mirrored: Tensor) -> Tensor:
        """Return the labels of some rows [B], [B]."""
        del offsets, mirrored
        return self._labels[rows]
