"""Batches, as data loaders give them to training and evaluation; imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Batch(NamedTuple):
    """Images with their labels, normalised and on the device."""

    images: Tensor
    """[B, C, H, W]."""
    labels: Tensor
    """[B, ...], as the task has them; of the user's own loader for training also shares of classes, float32 [B, K]."""
    rows: Tensor | None = None
    """Which images of the split these are, [B], on the CPU; `None` where nobody knows."""
    view: int = 0
    """Which of the augmented views of the split they are from."""


class ViewedBatches(Protocol):
    """A data loader whose augmented views can be told apart and read again."""

    @property
    def rows(self) -> int:
        """How many images the split has."""

    @property
    def identity(self) -> str:
        """The sha256 over all that decides the pixels of a view of a row."""

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from batch `start` on."""

    def view(self, epoch: int) -> int:
        """Return which view of the split an epoch shows."""

    def read_view(self, view: int) -> Iterator[Batch]:
        """Yield one view of the whole split in the order of its rows, the last batch perhaps smaller."""


class Batches(Protocol):
    """A data loader, as the training loop and evaluation read it."""

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from batch `start` on."""
