"""Data loader around another one that augments its images, mixes them, and weighs or balances the classes.

The loader within gives whole pixel values, so that images are augmented as they were decoded and normalised afterwards. Threads
work a few batches ahead. Where labels are mixed, smoothed or weighed, a batch has shares of classes instead of classes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from compress.data._augment import Augmenter, mix_batch
from compress.data._batch import Batch
from compress.data._loader import InMemory, seed_generator
from compress.data._prefetch import prefetch
from compress.data._unlabelled import UNLABELLED
from compress.preprocess import compute_scale_shift
from compress.recipe.augmentation import AugmentSection
from compress.records import Preprocess
from compress.system.processors import count_processors

WHOLE_PIXELS = {"mean": (0.0,), "std": (1 / 255,)}
"""The normalisation after which values are those of the pixels, 0 to 255; for each channel."""


class Targets(NamedTuple):
    """What is made of labels."""

    classes: int
    smoothing: float = 0.0
    """Share of each label that is spread over all classes."""
    weighs_classes: bool = False
    """Whether rare classes count more, so that all count alike; over all images the mean weight is 1."""
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    """Whether every epoch shows every image once, or all classes equally often."""
    has_unlabelled: bool = False
    """Whether some images have no label; their shares of all classes are then 0."""

    @property
    def is_plain(self) -> bool:
        """Whether labels and order stay what they are."""
        return self == Targets(self.classes)


class Augmented:
    """Batches of a training split, augmented.

    Args:
        inner: Gives whole pixel values [B, C, H, W] of 0 to 255, on the CPU.
        preprocess: How images are normalised afterwards.
        section: What is done to images.
        targets: What is made of labels.
        labels: All of the split, [N].
        device: Where the batches go.
        batch_size: Images in a batch.
        seed: Of the order.
        views: How many views there are; `None` is a new one every epoch.
        augmentation_seed: Of the views.
        memory_format: How batches lie in memory.
    """

    def __init__(
        self,
        inner: InMemory,
        preprocess: Preprocess,
        *,
        section: AugmentSection,
        targets: Targets,
        labels: NDArray[np.int64],
        device: torch.device,
        batch_size: int,
        seed: int,
        views: int | None,
        augmentation_seed: int,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        self._inner, self._section, self._targets = inner, section, targets
        self._views = views if section.is_on else inner.views
        self._labels, self._seed, self._batch = labels, seed, batch_size
        size = (preprocess.height, preprocess.width)
        self._augmenter = Augmenter(section, seed=augmentation_seed, size=size, mean=preprocess.mean)
        self._device, self._format, self._augmentation_seed = device, memory_format, augmentation_seed
        self._scale, self._shift = (
            torch.from_numpy(part).to(device).view(1, -1, 1, 1) for part in compute_scale_shift(preprocess)
        )
        counts = np.bincount(labels[labels != UNLABELLED], minlength=targets.classes)
        weights = np.where(counts > 0, counts.sum() / (np.maximum(counts, 1) * np.count_nonzero(counts)), 0.0)
        self._weights = torch.from_numpy(weights).float()  # [K]

    @property
    def rows(self) -> int:
        """How many images the split has."""
        return self._inner.rows

    @cached_property
    def identity(self) -> str:
        """The sha256 over all that decides the pixels of a view of a row."""
        digest = hashlib.sha256(self._inner.identity.encode())
        digest.update(json.dumps([self._section.model_dump(mode="json"), self._augmentation_seed], sort_keys=True).encode())
        for tensor in (self._scale, self._shift):
            digest.update(tensor.cpu().numpy().data)
        return digest.hexdigest()

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self._inner)

    def view(self, epoch: int) -> int:
        """Return which view of the split an epoch shows."""
        return epoch if self._views is None else epoch % self._views

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from batch `start` on."""
        rows = self._inner.order(epoch)
        if self._targets.sampling == "balanced":
            rows = draw_balanced_order(self._labels, seed_generator(self._seed, epoch))
        yield from self._read(rows, self.view(epoch), range(start, len(self)))

    def read_view(self, view: int) -> Iterator[Batch]:
        """Yield one view of the whole split in the order of its rows, the last batch perhaps smaller."""
        yield from self._read(np.arange(self.rows), view, range(-(-self.rows // self._batch)))

    def _read(self, rows: NDArray[np.int64], view: int, batches: range) -> Iterator[Batch]:
        """Yield those batches of the rows in this order; pixels depend on view and row alone."""
        mixes = self._augmenter.draw_mixes(rows, view, self.rows) if self._section.mixes else []
        partners = np.array([mix.row for mix in mixes], np.int64)
        others: Iterator[Batch | None] = iter([None] * len(batches))
        if mixes:
            others = iter(self._inner.read_rows(partners, view, batches))
        pairs = zip(self._inner.read_rows(rows, view, batches), others, strict=True)

        def calls() -> Iterator[Callable[[], tuple[Batch, Batch | None]]]:
            for batch, other in pairs:
                yield partial(self._augment_pair, batch, other, view)

        workers = count_processors()
        for number, (batch, other) in zip(batches, prefetch(calls(), workers=workers, lead=workers + 1), strict=True):
            images, labels = self._normalise(batch.images), self._make_shares(batch.labels)
            if other is not None:
                drawn = mixes[number * self._batch : (number + 1) * self._batch]
                images = mix_batch(images, self._normalise(other.images), drawn)
                share = torch.tensor([mix.share for mix in drawn])[:, None]
                labels = self._mix_shares(labels, self._make_shares(other.labels), share)
            yield Batch(images.contiguous(memory_format=self._format), labels.to(self._device), batch.rows, view)

    def _augment_pair(self, batch: Batch, other: Batch | None, view: int) -> tuple[Batch, Batch | None]:
        return self._augment(batch, view), None if other is None else self._augment(other, view)

    def _augment(self, batch: Batch, view: int) -> Batch:
        """Return a batch with pixels uint8 [B, C, H, W], augmented."""
        assert batch.rows is not None  # noqa: S101 (for the type checker)
        return batch._replace(images=self._augmenter.augment(batch.images.to(torch.uint8), batch.rows.numpy(), view))

    def _normalise(self, images: Tensor) -> Tensor:
        """Return what the network sees of pixels uint8 [B, C, H, W], the same shape."""
        pixels = images.to(self._device).to(torch.float32, memory_format=self._format)
        return pixels.mul_(self._scale).add_(self._shift)

    def _mix_shares(self, shares: Tensor, others: Tensor, share: Tensor) -> Tensor:
        """Return the shares [B, K] of mixed images, [B, 1] of each its own; what is mixed with the unknown is unknown."""
        mixed = shares * share + others * (1 - share)
        if self._targets.has_unlabelled:
            mixed *= (shares.sum(dim=1, keepdim=True) > 0) & (others.sum(dim=1, keepdim=True) > 0)
        return mixed

    def _make_shares(self, labels: Tensor) -> Tensor:
        """Return labels [B] as they are, or as weighed shares of classes [B, K] where something asks for that."""
        targets = self._targets
        if not (self._section.mixes or targets.smoothing or targets.weighs_classes or targets.has_unlabelled):
            return labels
        known = labels.clamp_min(0) if targets.has_unlabelled else labels
        shares = F.one_hot(known, targets.classes).float()
        shares = shares * (1 - targets.smoothing) + targets.smoothing / targets.classes
        shares = shares * self._weights[known][:, None] if targets.weighs_classes else shares
        return shares * (labels != UNLABELLED)[:, None] if targets.has_unlabelled else shares


def draw_balanced_order(labels: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """Return as many rows as there are labels [N], all classes equally often: each class's images in turn, shuffled anew."""
    present = np.unique(labels)
    counts = np.full(len(present), len(labels) // len(present))
    counts[random.permutation(len(present))[: len(labels) % len(present)]] += 1
    rows = [
        _repeat_shuffled(np.flatnonzero(labels == label), count, random) for label, count in zip(present, counts, strict=True)
    ]
    return random.permutation(np.concatenate(rows))


def _repeat_shuffled(rows: NDArray[np.int64], count: int, random: np.random.Generator) -> NDArray[np.int64]:
    return np.concatenate([random.permutation(rows) for _ in range(-(-count // len(rows)))])[:count]
