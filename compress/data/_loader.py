"""Batches for training and evaluation, from images that lie in memory as uint8.

Order and augmentation are pure functions of (seed, epoch, index), drawn from a counter-based generator: a run that continues
in the middle of an epoch sees the same pixels as one that was never interrupted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from compress.data._dataset import Split
from compress.errors import CompressError
from compress.models._network import Batch
from compress.preprocess import scale_shift
from compress.records import Preprocess


class Batches(Protocol):
    """What the training loop and evaluation read."""

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from batch `start` on."""


class InMemory:
    """Batches of a split.

    Args:
        split: The images.
        preprocess: How they are normalised.
        batch_size: Images in a batch.
        device: Where the batches go.
        shuffle: Shuffle, augment, and drop the last incomplete batch; otherwise the split in order, whole.
        seed: Seed of order and augmentation.
        crop_padding: Pixels of reflected border for random crops.
        flip: Mirror half of the images.

    Raises:
        CompressError: The split has fewer images than a training batch.
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
        flip: bool = False,
    ) -> None:
        self._size, self._shuffle, self._seed, self._batch = len(split.labels), shuffle, seed, batch_size
        if shuffle and self._size < batch_size:
            raise CompressError(
                f"train.batch_size: {batch_size} is more than the {self._size} training images; make it smaller"
            )
        self._padding, self._flip = crop_padding, flip
        if crop_padding >= min(split.images.shape[1:3]):
            raise CompressError(
                f"data.crop_padding: {crop_padding} must be smaller than the image, {split.images.shape[1]} pixels"
            )
        self._images = torch.from_numpy(np.ascontiguousarray(split.images.transpose(0, 3, 1, 2))).to(device)  # [N, C, H, W]
        self._labels = torch.from_numpy(split.labels).to(device)  # [N]
        scale, shift = scale_shift(preprocess)
        self._scale = torch.from_numpy(scale).to(device).view(1, -1, 1, 1)
        self._shift = torch.from_numpy(shift).to(device).view(1, -1, 1, 1)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self._size // self._batch if self._shuffle else -(-self._size // self._batch)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from batch `start` on."""
        random = np.random.Generator(np.random.Philox(key=[self._seed, epoch]))
        order = random.permutation(self._size) if self._shuffle else np.arange(self._size)
        offsets = random.integers(0, 2 * self._padding + 1, size=(self._size, 2))
        mirrored = random.random(self._size) < 0.5
        for batch in range(start, len(self)):
            chosen = order[batch * self._batch : (batch + 1) * self._batch]
            index = torch.from_numpy(chosen).to(self._images.device)
            images = self._images[index]
            if self._shuffle and self._padding:
                images = _crop(images, self._padding, torch.from_numpy(offsets[chosen]).to(images.device))
            if self._shuffle and self._flip:
                flags = torch.from_numpy(mirrored[chosen]).to(images.device)
                images = torch.where(flags.view(-1, 1, 1, 1), images.flip(3), images)
            yield Batch(images.float().mul_(self._scale).add_(self._shift), self._labels[index])


class FromLoader:
    """Batches of the user's own loader of (images, labels), images normalised float32 [B, C, H, W].

    What the loader draws from torch's generator is seeded with (seed, epoch) each time that it is iterated. A loader with a
    generator of its own, or with other sources of randomness, is not repeated exactly when training continues.

    Args:
        loader: Anything with a length that can be iterated again and again, such as torch's DataLoader.
        device: Where the batches go.
        seed: Seed of the loader's randomness.
    """

    def __init__(self, loader: Iterable[tuple[Tensor, Tensor]], *, device: torch.device, seed: int = 0) -> None:
        if not hasattr(loader, "__len__"):
            raise CompressError(f"a loader needs a length, and {type(loader).__name__} has none; give a list or a DataLoader")
        self._loader, self._device, self._seed = loader, device, seed

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self._loader)  # type: ignore[arg-type]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from batch `start` on."""
        outside = torch.get_rng_state()
        torch.default_generator.manual_seed(self._seed * 1_000_003 + epoch)  # the CPU's alone; CUDA is the networks'
        iterator = iter(self._loader)
        for position in range(len(self)):
            images, labels = next(iterator)
            inside = torch.get_rng_state()
            torch.set_rng_state(outside)
            if position >= start:
                yield Batch(images.to(self._device), labels.to(self._device))
            outside = torch.get_rng_state()
            torch.set_rng_state(inside)
        torch.set_rng_state(outside)


def _crop(images: Tensor, padding: int, offsets: Tensor) -> Tensor:
    """Return a window of the image's size from each reflected-padded image: uint8 [B, C, H, W], offsets [B, 2]."""
    height, width = images.shape[2:]
    padded = F.pad(images.float(), (padding,) * 4, mode="reflect").to(images.dtype)  # reflect is not implemented for uint8
    rows = offsets[:, :1] + torch.arange(height, device=images.device)  # [B, H]
    columns = offsets[:, 1:] + torch.arange(width, device=images.device)  # [B, W]
    batch = torch.arange(len(images), device=images.device)
    window = padded.permute(0, 2, 3, 1)[batch[:, None, None], rows[:, :, None], columns[:, None, :]]  # [B, H, W, C]
    return window.permute(0, 3, 1, 2).contiguous()
