"""Contract of a data source.

A source is a class named after its file whose keyword-only arguments are its options in the recipe. It imports no torch, so
that `compress check` can describe the data without loading an engine. Images are uint8, decoded and resized by
`compress.preprocess`. `check_dataset`, `hash_dataset` and `hold_out` serve every source. Who knows the licence of the data may
state it as a class attribute `licence`: it goes into the notice of every bundle.

A source may offer a second method beside those of `Source`, `load_encoded() -> EncodedDataset`: its pictures as they are in its
files. Then they are decoded by all processors at once, and may be more than memory holds (`data.storage`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from compress.data._disk_images import DiskImages
from compress.errors import CompressError
from compress.preprocess import Images, iterate_chunks
from compress.records import Preprocess
from compress.text import quantify

Labels = NDArray[np.int64]


class Split(NamedTuple):
    """Images with their labels."""

    images: Images
    """[N, H, W, C], C is 1 (gray) or 3 (RGB)."""
    labels: Labels
    """[N], each in 0 .. classes - 1."""

    def select(self, rows: NDArray[np.integer]) -> Split:
        """Return some rows, [n]; images on disk are not read for it."""
        images = self.images.select(rows) if isinstance(self.images, DiskImages) else self.images[rows]
        return Split(images, self.labels[rows])


class Dataset(NamedTuple):
    """A data set as its authors split it; the validation split is taken from `train` later."""

    train: Split
    test: Split


class EncodedSplit(NamedTuple):
    """A split before its pictures are decoded."""

    labels: Labels
    """[N], each in 0 .. classes - 1."""
    each: Callable[[], Iterator[tuple[str, bytes | Path | None]]]
    """Begins to go through the pictures in the order of the labels: what each is called in messages, and its encoded bytes or
    its file; `None` where the data has a row and no picture."""


class EncodedDataset(NamedTuple):
    """A data set before its pictures are decoded."""

    train: EncodedSplit
    test: EncodedSplit
    files: Mapping[str, Path]
    """All files that the pictures come from, by names that do not depend on where the data set lies."""
    chosen: str
    """The options that decide which pictures of the files these are, and in which order."""


class Summary(NamedTuple):
    """Classes and sizes of a data set, known without decoding its images."""

    classes: tuple[str, ...]
    """Names in label order."""
    train_images: int
    test_images: int
    train_counts: tuple[int, ...] | None = None
    """Images of each class in the training split; `None` where they are not known without loading."""
    test_counts: tuple[int, ...] | None = None
    """The same of the test split."""
    notes: tuple[str, ...] = ()
    """What a source decided by itself and a reader must know, for example how a folder without splits was split."""


class Source(Protocol):
    """A data source. Its constructor does no work."""

    channels: str
    """`gray` or `rgb`: what `load` decodes to."""

    def summary(self) -> Summary:
        """Return classes and sizes cheaply.

        Raises:
            CompressError: The data is not what its options say.
            Unreachable: The data is not there.
        """

    def load(self, preprocess: Preprocess) -> Dataset:
        """Return all images, decoded to `preprocess.channels` and resized to its size; `mean` and `std` do not matter here.

        Raises:
            CompressError: An image cannot be decoded or a label is out of range; the message names the item.
            Unreachable: The data is not there.
        """


def check_dataset(dataset: Dataset, classes: int) -> Dataset:
    """Return the data set as it is, if its arrays are what the contract says.

    Raises:
        CompressError: A split is empty, images are not uint8 [N, H, W, C] of one size, or a label is out of range; the message
            names the split and the row.
    """
    for name, (images, labels) in zip(Dataset._fields, dataset, strict=True):
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in {1, 3}:
            raise CompressError(
                f"split {name!r}: images are {images.dtype} {list(images.shape)}; uint8 [N, H, W, 1 or 3] is needed"
            )
        if len(images) == 0:
            raise CompressError(f"split {name!r}: has no images")
        if labels.dtype != np.int64 or labels.shape != (len(images),):
            raise CompressError(
                f"split {name!r}: labels are {labels.dtype} {list(labels.shape)}; int64 [{len(images)}] is needed"
            )
        check_labels(name, labels, classes)
    if dataset.train.images.shape[1:] != dataset.test.images.shape[1:]:
        sizes = [list(split.images.shape[1:]) for split in dataset]
        raise CompressError(f"the images of the splits differ in size: {sizes[0]} and {sizes[1]}")
    return dataset


def check_labels(name: str, labels: Labels, classes: int) -> None:
    """Refuse labels [N] of which one is no class.

    Raises:
        CompressError: The message names the split and the row.
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        where, label = f"split {name!r}, row {wrong[0]}", labels[wrong[0]]
        problem = f"label {label} is not in 0 .. {classes - 1}, as in {len(wrong)} rows"
        raise CompressError(f"{where}: {problem}; mend the labels, or choose another split")


def hash_dataset(dataset: Dataset) -> str:
    """Return the sha256 of shapes, labels and image bytes: equal exactly when the data is equal."""
    digest = hashlib.sha256()
    for images, labels in dataset:
        digest.update(repr(images.shape).encode())
        digest.update(labels.astype("<i8").tobytes())
        for part in iterate_chunks(images):
            digest.update(np.ascontiguousarray(part).reshape(-1).data)
    return digest.hexdigest()


def count_repeated(split: Split, known: Split) -> int:
    """Return how many images of a split are, pixel by pixel, in another one too; all are read."""
    seen = set(_compute_digests(known.images))
    return sum(digest in seen for digest in _compute_digests(split.images))


def _compute_digests(images: Images) -> Iterator[bytes]:
    for part in iterate_chunks(images):
        for image in part:
            yield hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()


def hold_out(split: Split, *, fraction: float, seed: int, classes: Sequence[str] = ()) -> tuple[Split, Split]:
    """Return a split in two, for training and for validation, stratified by class; each keeps the order of its rows.

    Args:
        split: What is divided.
        fraction: Share of the images that is held out, rounded up.
        seed: Which images those are.
        classes: Names of the classes, for messages; default: their labels.

    Raises:
        CompressError: A class has too few images for both sides.
    """
    single = np.flatnonzero(np.bincount(split.labels) == 1)
    sides = () if len(single) else _divide(split.labels, fraction, seed)
    for lost in (single, *(np.setdiff1d(split.labels, split.labels[rows]) for rows in sides)):
        if len(lost):
            name, count = repr(classes[lost[0]]) if classes else lost[0], int((split.labels == lost[0]).sum())
            raise CompressError(
                f"class {name} has {quantify(count, 'image')}, too few to hold out {fraction:g} of each class; "
                "add images, remove the class, or change the fraction"
            )
    train, validation = (np.sort(rows) for rows in sides)
    return split.select(train), split.select(validation)


def take_stratified(split: Split, count: int, *, seed: int) -> Split:
    """Return that many images of a split, stratified by class, in the order of its rows.

    Raises:
        CompressError: There are fewer images, or fewer are asked for than there are classes.
    """
    if count == len(split.labels):
        return split
    return split.select(np.sort(_divide(split.labels, count, seed)[1]))


def _divide(labels: Labels, part: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of two sides, stratified by class; `part` is the share, or the number, of the second."""
    from sklearn.model_selection import train_test_split

    state = int(np.random.SeedSequence(seed).generate_state(1)[0])  # scikit-learn takes 32 bits
    try:
        first, second = train_test_split(np.arange(len(labels)), test_size=part, random_state=state, stratify=labels)
    except ValueError as error:
        raise CompressError(f"{part:g} of {len(labels)} images cannot be set apart: {error}") from error
    return first, second
