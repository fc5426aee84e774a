"""Data loader of the user: its batches are checked, seeded, and moved to the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from compress.data._batch import Batch
from compress.errors import CompressError

Loader = Iterable[Any]
"""Images float32 [B, C, H, W] with labels [B], batch by batch; batches of another form need an `Unpack`."""
Unpack = Callable[[Any], tuple[Tensor, Tensor]]
"""From a batch as the loader gives it to images [B, C, H, W] and labels [B]."""
IMAGE_KEYS = ("pixel_values", "images", "image", "img", "inputs", "input", "x", "data")
LABEL_KEYS = ("labels", "label", "targets", "target", "classes", "class", "y")
"""How batches that are mappings mostly call their parts; used to propose an `unpack`, never to guess one."""
MOST_COUNTED = 10_000
"""Batches of a loader without a length that are counted."""
ROUNDING = 1e-3
"""How far the shares of an image may sum up away from 1."""


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
        loader: Gives pairs of images float32 [B, C, H, W] and labels: the class of each image, [B], in any integer type, or
            one-hot or as shares that sum to 1, [B, K]. The batches of one without a length, such as a stream, are counted.
        unpack: Returns such a pair from what the loader gives.
        keeps_shares: Whether shares of classes, [B, K], stay what they are; else the largest counts, as for accuracy.

    Raises:
        CompressError: It cannot be gone through again and again, has no batches, or no length and no end.
    """

    classes: int | None = None
    """How many there are, once that is known; labels on the CPU are then checked too (others would wait for a device)."""

    def __init__(self, name: str, loader: Loader, *, unpack: Unpack | None = None, keeps_shares: bool = False) -> None:
        self._name, self._loader, self._unpack, self._keeps_shares = name, loader, unpack, keeps_shares
        try:
            self._count, self.is_counted = len(loader), False  # type: ignore[arg-type]
        except TypeError:  # it has no length
            self._count, self.is_counted = _count_batches(name, loader), True
        if self._count == 0:
            raise CompressError(f"{name}: has no batches; give more images, smaller batches, or drop_last=False")

    def __len__(self) -> int:
        return self._count

    def find_smallest_batch(self) -> tuple[int, int] | None:
        """Return how many images the smallest batch of an epoch has, and its position; nothing where that is not known."""
        loader = self._loader
        if isinstance(loader, list | tuple):
            return min((len(self._read_pair(batch, at)[0]), at) for at, batch in enumerate(loader))
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
            return None
        batching = loader.batch_sampler
        if type(batching) is not BatchSampler or not isinstance(batching.sampler, Sized):
            return None
        left = 0 if batching.drop_last else len(batching.sampler) % batching.batch_size
        return left or batching.batch_size, self._count - 1

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images [B, C, H, W] and labels, int64 [B], or shares of classes float32 [B, K] where these are kept.

        Raises:
            CompressError: A batch is not what was agreed, or there are fewer than the length says.
        """
        iterator = iter(self._loader)
        for position in range(self._count):
            try:
                batch = next(iterator)
            except StopIteration:
                said = f"gave {self._count} in its first pass" if self.is_counted else f"its length says {self._count}"
                raise CompressError(
                    f"{self._name}: gave {position} batches, and {said}; "
                    f"{'let each pass give as many' if self.is_counted else 'correct its length'}"
                ) from None
            images, labels = self._read_pair(batch, position)
            if labels.dim() == 2 and not self._keeps_shares:
                labels = labels.argmax(dim=1)
            if self.classes is not None and labels.device.type == "cpu":
                refuse_labels(f"{self._name}, batch {position}", labels, self.classes)
            yield images, labels

    def _read_pair(self, batch: object, position: int) -> tuple[Tensor, Tensor]:
        """Return images [B, C, H, W] and labels of one batch, int64 [B], or shares of classes float32 [B, K].

        Raises:
            CompressError: The batch is not what was agreed.
        """
        where = f"{self._name}, batch {position}"
        return _check_pair(where, batch if self._unpack is None else _unpack_batch(where, batch, self._unpack))


def _count_batches(name: str, loader: Loader) -> int:
    """Count the batches of a loader without a length in one pass over it.

    Raises:
        CompressError: There is no second pass, or no end to the first.
    """
    kind = type(loader).__name__
    if isinstance(loader, DataLoader):
        kind += f" of {type(loader.dataset).__name__}"
    if not isinstance(loader, Iterable) or isinstance(loader, Iterator):
        once = "gives its batches once" if isinstance(loader, Iterator) else "is no loader"
        raise CompressError(f"{name}: is a {kind}, which {once}; give a list or a DataLoader, which an epoch can begin again")
    outside, count = torch.get_rng_state(), 0
    for _ in loader:
        count += 1
        if count > MOST_COUNTED:
            raise CompressError(
                f"{name}: the {kind} has no length, and more than {MOST_COUNTED:,} batches; end it, and say how many batches "
                "an epoch has: a __len__ of the data set, the number of its images"
            )
    torch.set_rng_state(outside)
    return count


def _unpack_batch(where: str, batch: object, unpack: Unpack) -> object:
    """Return what the user's `unpack` finds in a batch.

    Raises:
        CompressError: It fails.
    """
    try:
        return unpack(batch)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CompressError(f"{where}: unpack fails on {_describe_batch(batch)} ({reason}); correct it") from error


def _check_pair(where: str, batch: object) -> tuple[Tensor, Tensor]:
    """Return images [B, C, H, W] of a batch, and its labels, int64 [B] or shares of classes float32 [B, K].

    Raises:
        CompressError: It is no pair of tensors, or a type or shape is another.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2 or not all(isinstance(part, Tensor) for part in batch):
        raise CompressError(
            f"{where}: is {_describe_batch(batch)}; give a pair of tensors (images, labels), or say how to find them with "
            f"unpack={_propose_unpack(batch)}"
        )
    images, labels = batch
    if images.dtype != torch.float32 or images.dim() != 4 or 0 in images.shape:
        raise CompressError(
            f"{where}: images are {_describe(images)}; give float32 [B, C, H, W] not empty, normalised for the networks"
        )
    return images, _convert_labels(where, labels, len(images))


def _describe_batch(batch: object) -> str:
    if isinstance(batch, Mapping):
        return f"a {type(batch).__name__} of {', '.join(map(repr, list(batch)[:8]))}"
    parts = f" of {', '.join(type(part).__name__ for part in batch[:4])}" if isinstance(batch, tuple | list) else ""
    return f"a {type(batch).__name__}{parts}"


def _propose_unpack(batch: object) -> str:
    """Return the code of an `unpack` that may fit a batch."""
    if isinstance(batch, Mapping):
        image = next((key for key in IMAGE_KEYS if key in batch), "images")
        label = next((key for key in LABEL_KEYS if key in batch), "labels")
        return f"lambda batch: (batch[{image!r}], batch[{label!r}])"
    return "lambda batch: (batch[0], batch[1])" if isinstance(batch, tuple | list) else "lambda batch: (IMAGES, LABELS)"


def _convert_labels(where: str, labels: Tensor, count: int) -> Tensor:
    """Return labels of so many images as int64 [B], or shares of classes that are not one-hot as float32 [B, K].

    Raises:
        CompressError: They are neither.
    """
    whole = not labels.is_floating_point() and not labels.is_complex()
    if labels.shape == (count, 1) and whole:
        labels = labels[:, 0]
    if labels.shape == (count,) and whole:
        return labels.long()
    if labels.dim() != 2 or len(labels) != count or labels.shape[1] < 2:
        remedy = "; labels.long() makes them so, where they are whole numbers" if labels.shape == (count,) else ""
        raise CompressError(
            f"{where}: labels are {_describe(labels)}; give the class of each image, int64 [{count}]{remedy}, or one-hot or as "
            f"shares that sum to 1, [{count}, classes]"
        )
    shares = labels.float()
    sums = shares.sum(dim=1)
    if not (shares >= 0).all() or not torch.allclose(sums, torch.ones_like(sums), rtol=0, atol=ROUNDING):
        row = int(((sums - 1).abs() + (shares < 0).any(dim=1)).argmax())
        raise CompressError(
            f"{where}: labels are {_describe(labels)}, and those of image {row} are no shares that sum to 1 (their sum is "
            f"{float(sums[row]):g}); give one class for each image, for several at once are not trained here"
        )
    return shares.argmax(dim=1) if bool(((shares == 0) | (shares == 1)).all()) else shares


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def refuse_labels(where: str, labels: Tensor, classes: int) -> None:
    """Refuse labels [B], or shares of classes [B, K], that are no class of the student.

    Raises:
        CompressError: One is below 0, or `classes` or more, or there are shares of another number of classes.
    """
    if labels.dim() == 2:
        if labels.shape[1] != classes:
            raise CompressError(
                f"{where}: labels are shares of {labels.shape[1]} classes, and the student gives {classes}; give labels and "
                "student the same classes"
            )
        return
    least, most = (int(bound) for bound in labels.aminmax())
    if least < 0 or most >= classes:
        raise CompressError(
            f"{where}: has label {least if least < 0 else most}, and the student gives {classes} classes; labels are 0 to "
            f"{classes - 1}: correct them, or give a student with more classes"
        )
