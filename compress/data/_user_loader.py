"""Data loader of the user: its batches are checked, seeded, and moved to the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from compress.data._batch import Batch
from compress.errors import CompressError

Loader = Iterable[tuple[Tensor, Tensor]]
"""Images float32 [B, C, H, W] with labels int64 [B], batch by batch."""


class FromLoader:
    """Batches of the user's own loader of (images, labels), images normalised float32 [B, C, H, W].

    What the loader draws from torch's generator is seeded with (seed, epoch) each time that it is iterated. A loader with a
    generator of its own, or with other sources of randomness, is not repeated exactly when training continues.

    Args:
        loader: Anything with a length that can be iterated again and again, such as torch's DataLoader.
        device: Where the batches go.
        seed: Seed of the loader's randomness.
        memory_format: How batches lie in memory.

    Raises:
        CompressError: The loader has no length.
    """

    def __init__(
        self,
        loader: Loader,
        *,
        device: torch.device,
        seed: int = 0,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        if not hasattr(loader, "__len__"):
            raise CompressError(f"a loader needs a length, and {type(loader).__name__} has none; give a list or a DataLoader")
        self._loader, self._device, self._seed, self._format = loader, device, seed, memory_format

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
                yield Batch(images.to(self._device, memory_format=self._format), labels.to(self._device))
            outside = torch.get_rng_state()
            torch.set_rng_state(inside)
        torch.set_rng_state(outside)


class CheckedLoader:
    """The user's loader, every batch of which is checked before it is used.

    Args:
        name: The argument that it was given as.
        loader: Gives pairs of images float32 [B, C, H, W] and labels int64 [B].

    Raises:
        CompressError: It has no length, or no batches.
    """

    classes: int | None = None
    """How many there are, once that is known; labels on the CPU are then checked too (others would wait for a device)."""

    def __init__(self, name: str, loader: Loader) -> None:
        self._name, self._loader = name, loader
        try:
            self._count = len(loader)  # type: ignore[arg-type]
        except TypeError as error:
            kind = type(loader).__name__
            raise CompressError(f"{name}: a loader needs a length, and {kind} has none; give a list or a DataLoader") from error
        if self._count == 0:
            raise CompressError(f"{name}: has no batches; give more images, smaller batches, or drop_last=False")

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images [B, C, H, W] and labels [B].

        Raises:
            CompressError: A batch is not what was agreed, or there are fewer than the length says.
        """
        iterator = iter(self._loader)
        for position in range(self._count):
            try:
                batch = next(iterator)
            except StopIteration:
                raise CompressError(
                    f"{self._name}: gave {position} batches, and its length says {self._count}; correct the loader's length"
                ) from None
            where = f"{self._name}, batch {position}"
            images, labels = _check_pair(where, batch)
            if self.classes is not None and labels.device.type == "cpu":
                refuse_labels(where, labels, self.classes)
            yield images, labels


def _check_pair(where: str, batch: object) -> tuple[Tensor, Tensor]:
    """Return images [B, C, H, W] and labels [B] of a batch.

    Raises:
        CompressError: It is no pair of tensors, or a type or shape is another.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2 or not all(isinstance(part, Tensor) for part in batch):
        parts = f" of {', '.join(type(part).__name__ for part in batch[:4])}" if isinstance(batch, tuple | list) else ""
        raise CompressError(f"{where}: is a {type(batch).__name__}{parts}; give a pair of tensors (images, labels)")
    images, labels = batch
    if images.dtype != torch.float32 or images.dim() != 4 or 0 in images.shape:
        raise CompressError(
            f"{where}: images are {_describe(images)}; give float32 [B, C, H, W] not empty, normalised for the networks"
        )
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise CompressError(f"{where}: labels are {_describe(labels)}; give the class of each image, int64 [{len(images)}]")
    return images, labels


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def refuse_labels(where: str, labels: Tensor, classes: int) -> None:
    """Refuse labels [B] that are no class of the student.

    Raises:
        CompressError: One is below 0, or `classes` or more.
    """
    least, most = (int(bound) for bound in labels.aminmax())
    if least < 0 or most >= classes:
        raise CompressError(
            f"{where}: has label {least if least < 0 else most}, and the student gives {classes} classes; labels are 0 to "
            f"{classes - 1}: correct them, or give a student with more classes"
        )
