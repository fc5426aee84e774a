"""Data loader of images in memory.

Order is a pure function of (seed, epoch), augmentation one of (augmentation seed, view, row), drawn from a counter-based
generator: a run that continues in the middle of an epoch sees the same pixels as one that was never interrupted, and the
outputs of a teacher for one view of an image can be kept for every epoch, student and seed that meets that view again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from compress.data._batch import Batch
from compress.data._moving import MovedBoxes, MovedMasks, Unmoved
from compress.data._source import Split
from compress.errors import CompressError
from compress.preprocess import compute_scale_shift
from compress.records import Preprocess

Border = Literal["reflect", "zero"]
VIEWS = 1 << 63
"""Keeps the random numbers of views apart from those of orders."""


class InMemory:
    """Batches of a split.

    Args:
        split: The images.
        preprocess: How they are normalised.
        batch_size: Images in a batch.
        device: Where the batches go.
        shuffle: Shuffle, augment, and drop the last incomplete batch; otherwise the split in order, whole.
        seed: Seed of the order.
        crop_padding: Pixels of border for random crops.
        crop_border: What the border is: the image reflected (reflect), or black (zero).
        flip: Mirror half of the images.
        views: How many augmented views of the split there are; epochs go through them in turn. `None`: a new one every epoch.
        augmentation_seed: Seed of the views.
        memory_format: How batches lie in memory.

    Raises:
        CompressError: The split has fewer images than a training batch, or labels that a black border has none of.
    """

    def __init__(
        self,
        split: Split,
        preprocess: Preprocess,
        *,
        batch_size: int,
        device: torch.device,
        shuffle: bool = False,
        seed: int = 0,
        crop_padding: int = 0,
        crop_border: Border = "reflect",
        flip: bool = False,
        views: int | None = None,
        augmentation_seed: int = 0,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        self._views = views if crop_padding or flip else 1
        self._augmentation_seed, self._format = augmentation_seed, memory_format
        self._size, self._shuffle, self._seed, self._batch = len(split.labels), shuffle, seed, batch_size
        if shuffle and self._size < batch_size:
            raise CompressError(
                f"train.batch_size: {batch_size} is more than the {self._size} training images; make it smaller"
            )
        self._padding, self._border, self._flip = crop_padding, crop_border, flip
        if crop_padding >= min(split.images.shape[1:3]):
            raise CompressError(
                f"data.crop_padding: {crop_padding} must be smaller than the image, {split.images.shape[1]} pixels"
            )
        images = torch.from_numpy(np.ascontiguousarray(split.images.transpose(0, 3, 1, 2))).to(device)  # [N, C, H, W]
        self._images = images
        self._windows = _view_crops(images, crop_padding, crop_border) if shuffle and crop_padding else None
        size = (split.images.shape[1], split.images.shape[2])
        self._labels = self._make_movable(torch.from_numpy(split.labels).to(device), size)
        scale, shift = compute_scale_shift(preprocess)
        self._scale = torch.from_numpy(scale).to(device).view(1, -1, 1, 1)
        self._shift = torch.from_numpy(shift).to(device).view(1, -1, 1, 1)

    def _make_movable(self, labels: Tensor, size: tuple[int, int]) -> Unmoved | MovedMasks | MovedBoxes:
        """Return labels [N, ...] that follow their images of a size."""
        if labels.ndim != 3:
            return Unmoved(labels)
        if self._border == "zero" and self._shuffle and self._padding:
            raise CompressError(
                "data.crop_border: a black border has no mask and no box, and these labels have them; use reflect"
            )
        if labels.is_floating_point():
            return MovedBoxes(labels, size, self._padding if self._shuffle else 0)
        windows = _view_crops(labels[:, None], self._padding, self._border) if self._shuffle and self._padding else None
        return MovedMasks(labels, windows)

    @property
    def rows(self) -> int:
        """How many images the split has."""
        return self._size

    @cached_property
    def identity(self) -> str:
        """The sha256 over all that decides the pixels of a view of a row."""
        augmented: tuple[object, ...] = (self._padding, self._flip, self._augmentation_seed) if self._shuffle else ()
        augmented += (self._border,) if self._shuffle and self._border != "reflect" else ()
        digest = hashlib.sha256(repr((tuple(self._images.shape), augmented)).encode())
        for tensor in (self._scale, self._shift, self._images):
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self._size // self._batch if self._shuffle else -(-self._size // self._batch)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from batch `start` on."""
        yield from self._batches(self.order(epoch), self.view(epoch), range(start, len(self)))

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the rows of an epoch in their order, [N]."""
        return seed_generator(self._seed, epoch).permutation(self._size) if self._shuffle else np.arange(self._size)

    @property
    def views(self) -> int | None:
        """How many views there are; `None` is a new one every epoch."""
        return self._views

    def read_rows(self, rows: NDArray[np.int64], view: int, batches: range) -> Iterator[Batch]:
        """Yield those batches of any rows [M] in this order, as they are in a view."""
        yield from self._batches(rows, view, batches)

    def view(self, epoch: int) -> int:
        """Return which view of the split an epoch shows."""
        return epoch if self._views is None else epoch % self._views

    def read_view(self, view: int) -> Iterator[Batch]:
        """Yield one view of the whole split in the order of its rows, the last batch perhaps smaller."""
        yield from self._batches(np.arange(self._size), view, range(-(-self._size // self._batch)))

    def _batches(self, rows: NDArray[np.int64], view: int, batches: range) -> Iterator[Batch]:
        """Yield those batches of the rows in this order; pixels depend on view and row alone."""
        drawn = self._draw_view(view)
        offsets, mirrored = torch.from_numpy(drawn[0]), torch.from_numpy(drawn[1])
        for batch in batches:
            chosen = torch.from_numpy(rows[batch * self._batch : (batch + 1) * self._batch])
            index = chosen.to(self._images.device)
            places, flags = offsets[chosen].to(index.device), mirrored[chosen].to(index.device)
            if self._windows is None:
                images = self._images[index]
            else:
                top, left = places.unbind(1)
                images = self._windows[index, top, left]
            if self._shuffle and self._flip:
                images = torch.where(flags.view(-1, 1, 1, 1), images.flip(3), images)
            pixels = images.to(torch.float32, memory_format=self._format).mul_(self._scale).add_(self._shift)
            yield Batch(pixels, self._labels.move(index, places, flags), chosen, view)

    def _draw_view(self, view: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return where the crop of each row begins, [N, 2], and whether it is mirrored, [N]."""
        random = seed_generator(self._augmentation_seed, VIEWS | view)
        offsets = random.integers(0, 2 * self._padding + 1, size=(self._size, 2))
        mirrored = random.random(self._size) < 0.5
        if not self._shuffle:
            offsets[:], mirrored[:] = 0, False
        return offsets, mirrored & self._flip


def seed_generator(first: int, second: int) -> np.random.Generator:
    """Return a generator that depends on two whole numbers below 2⁶⁴ alone."""
    return np.random.Generator(np.random.Philox(key=np.array([first, second], dtype=np.uint64)))  # a list becomes float64


def _view_crops(images: Tensor, padding: int, border: Border) -> Tensor:
    """Return every crop of the padded images without copying one: uint8 [N, C, H, W] to [N, top, left, C, H, W]."""
    height, width = images.shape[2:]
    padded = torch.empty(
        (*images.shape[:2], height + 2 * padding, width + 2 * padding), dtype=images.dtype, device=images.device
    )
    mode = "constant" if border == "zero" else "reflect"
    for some in range(0, len(images), 1024):  # reflect is not implemented for uint8
        part = images[some : some + 1024].float()
        padded[some : some + 1024] = F.pad(part, (padding,) * 4, mode=mode).to(images.dtype)
    return padded.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5)
