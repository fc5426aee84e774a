"""Data loader of images in a file on disk.

Threads read, crop and mirror the images of a few batches ahead of the trainer, which never waits for the disk as long as they
keep up. A view of a row has the very pixels that it has in memory: the random numbers are the same, a crop from a reflected
border is a choice of rows and columns, and what is computed with floats is computed alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.data._batch import Batch
from compress.data._disk_images import DiskImages
from compress.data._loader import InMemory
from compress.data._prefetch import prefetch
from compress.data._source import Split
from compress.records import Preprocess
from compress.system.processors import count_processors

LEAD = 2
"""Batches that are ready beside those that are being made."""
MOST_WORKERS = 8
"""More threads wait for Python's lock more than they work."""


class FromDisk(InMemory):
    """Batches of a split on disk; order and pixels are those of the same split in memory.

    Args:
        split: The images, on disk.
        preprocess: How they are normalised.
        workers: Threads that make batches; what they make does not depend on it. Default: one for each processor, at most
            `MOST_WORKERS`.
        options: All others of `InMemory`.

    Raises:
        CompressError: The split has fewer images than a training batch.
    """

    def __init__(self, split: Split, preprocess: Preprocess, *, workers: int | None = None, **options: Any) -> None:
        if not isinstance(split.images, DiskImages):
            raise TypeError("the images of the split lie in memory; use InMemory")
        labelled = Split(split.images[:1], split.labels)  # what is held in memory: all labels, but of the images only one
        super().__init__(labelled, preprocess, **options)
        self._stored, self._device = split.images, self._images.device
        self._workers = workers or min(MOST_WORKERS, count_processors())
        height, width = self._stored.shape[1:3]
        border = self._padding if self._shuffle else 0
        self._down, self._across = (self._index(size, border) for size in (height, width))

    def _index(self, size: int, border: int) -> NDArray[np.int64]:
        """Return which pixel stands in each place of a padded side, [size + 2 · border]; -1 where it is black."""
        sides = np.arange(size)
        return np.pad(sides, border, constant_values=-1) if self._border == "zero" else np.pad(sides, border, mode="reflect")

    @cached_property
    def identity(self) -> str:
        """The sha256 over all that decides the pixels of a view of a row."""
        augmented: tuple[object, ...] = (self._padding, self._flip, self._augmentation_seed) if self._shuffle else ()
        augmented += (self._border,) if self._shuffle and self._border != "reflect" else ()
        digest = hashlib.sha256(repr((self._stored.sha256, augmented)).encode())
        for tensor in (self._scale, self._shift):
            digest.update(tensor.cpu().numpy().data)
        return digest.hexdigest()

    def _batches(self, rows: NDArray[np.int64], view: int, batches: range) -> Iterator[Batch]:
        """Yield those batches of the rows in this order; pixels depend on view and row alone."""
        offsets, mirrored = self._draw_view(view)

        def calls() -> Iterator[Callable[[], tuple[Tensor, Tensor]]]:
            for batch in batches:
                chosen = rows[batch * self._batch : (batch + 1) * self._batch]
                yield partial(self._gather, chosen, offsets[chosen], mirrored[chosen])

        for images, chosen in prefetch(calls(), workers=self._workers, lead=self._workers + LEAD):
            pixels = images.to(self._device, non_blocking=True)  # [B, C, H, W]
            pixels = pixels.to(torch.float32, memory_format=self._format).mul_(self._scale).add_(self._shift)
            drawn = (torch.from_numpy(values[chosen.numpy()]).to(self._device) for values in (offsets, mirrored))
            yield Batch(pixels, self._labels.move(chosen.to(self._device), *drawn), chosen, view)

    def _gather(
        self, chosen: NDArray[np.int64], offsets: NDArray[np.int64], mirrored: NDArray[np.bool_]
    ) -> tuple[Tensor, Tensor]:
        """Return the images of some rows, uint8 [B, C, H, W] with the channels last in memory, cropped and mirrored."""
        height, width, depth = self._stored.shape[1:]
        images = torch.empty(len(chosen), height, width, depth, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        places = zip(images.numpy(), chosen.tolist(), offsets.tolist(), mirrored.tolist(), strict=True)
        for place, row, (top, left), flip in places:
            image, across = self._stored[row], self._across[left : left + width]
            down = self._down[top : top + height]
            if self._windows is not None:
                image = image.take(down, axis=0)
            if self._windows is not None or flip:
                across = across[::-1] if flip else across
                image.take(across, axis=1, out=place, mode="clip")  # other modes copy once more
                if self._border == "zero" and self._windows is not None:
                    place[down < 0], place[:, across < 0] = 0, 0
            else:
                place[...] = image
        return images.permute(0, 3, 1, 2), torch.from_numpy(chosen)
