"""Contract of a data source.

A source is a class named after its file whose keyword-only arguments are its options in the recipe. It imports no torch, so
that `compress check` can describe the data without loading an engine. Images are uint8, decoded and resized by
`compress.preprocess`. `check_dataset`, `hash_dataset` and `hold_out` serve every source. Who knows the licence of the data may
state it as a class attribute `licence`: it goes into the notice of every bundle.

A source may offer a second method beside those of `Source`, `load_encoded() -> EncodedDataset`: its pictures as they are in its
files. Then they are decoded by all processors at once, and may be more than memory holds (`data.storage`). A source of things
that are others in a mirror, such as digits, says so by an attribute `mirrors = False`.
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
from compress.tasks import CLASSIFICATION, Labels, Task
from compress.text import quantify

IGNORED = 255
"""Of masks: what is neither trained on nor judged."""


class Split(NamedTuple):
    """Images with their labels."""

    images: Images
    """[N, H, W, C], C is 1 (gray) or 3 (RGB)."""
    labels: Labels
    """What is known of each image, [N, ...]: of a classification int64 [N], each in 0 .. classes - 1; of a segmentation uint8
    [N, H, W] at the images' size, `IGNORED` where nothing is known; of a detection boxes, float32 [N, M, 5]: left, top, right
    and bottom in pixels and the class, -1 where an image has fewer boxes."""

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
    """As in `Split`."""
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
    """A data source. Its constructor does no work.

    The attribute `task`, of the class, or of the object where an option decides it, names what the labels are for
    (`compress list tasks`): `task = "segmentation"`. A source without it is one of classification.
    """

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


def name_task(source: object) -> str:
    """Return the name of the task that the labels of a source are for."""
    return str(getattr(source, "task", CLASSIFICATION.name))


def read_summary(source: Source) -> Summary:
    """Return what a source says of its classes and sizes.

    Raises:
        CompressError: It is no summary, or its classes are no names.
    """
    found: object = source.summary()
    if not isinstance(found, Summary):
        raise CompressError(
            f"data: summary() returned a {type(found).__name__}; return Summary(classes, train_images, test_images)"
        )
    classes: object = found.classes
    if not isinstance(classes, tuple | list) or not all(isinstance(name, str) for name in classes):
        raise CompressError(f"data: summary() gives {found.classes!r:.80} as classes; give a tuple of names in label order")
    return found


def check_dataset(dataset: Dataset, classes: int, task: Task = CLASSIFICATION) -> Dataset:
    """Return the data set as it is, if its arrays are what the contract says.

    Raises:
        CompressError: A split is empty, images are not uint8 [N, H, W, C] of one size, or a label is none of the task; the
            message names the split and the row.
    """
    if not isinstance(dataset, Dataset) or not all(isinstance(split, Split) for split in dataset):
        raise CompressError(
            f"data: load() returned a {type(dataset).__name__}; return Dataset(Split(images, labels), Split(...))"
        )
    for name, (images, labels) in zip(Dataset._fields, dataset, strict=True):
        for what, values in (("images", images), ("labels", labels)):
            if not hasattr(values, "dtype") or not hasattr(values, "shape"):
                raise CompressError(f"split {name!r}: {what} are a {type(values).__name__}; give a NumPy array")
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in {1, 3}:
            raise CompressError(
                f"split {name!r}: images are {images.dtype} {list(images.shape)}; uint8 [N, H, W, 1 or 3] is needed"
            )
        if len(images) == 0:
            raise CompressError(f"split {name!r}: has no images")
        if len(labels) != len(images):
            raise CompressError(f"split {name!r}: labels are {labels.dtype} {list(labels.shape)}; {len(images)} are needed")
        task.check_labels(f"split {name!r}", labels, classes, (images.shape[1], images.shape[2]))
    if dataset.train.images.shape[1:] != dataset.test.images.shape[1:]:
        sizes = [list(split.images.shape[1:]) for split in dataset]
        raise CompressError(f"the images of the splits differ in size: {sizes[0]} and {sizes[1]}")
    return dataset


def hash_dataset(dataset: Dataset) -> str:
    """Return the sha256 of shapes, labels and image bytes: equal exactly when the data is equal."""
    digest = hashlib.sha256()
    for images, labels in dataset:
        digest.update(repr(images.shape).encode())
        digest.update((labels.astype("<i8") if labels.ndim == 1 else np.ascontiguousarray(labels)).tobytes())
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


def hold_out(
    split: Split, *, fraction: float, seed: int, classes: Sequence[str] = (), task: Task = CLASSIFICATION
) -> tuple[Split, Split]:
    """Return a split in two, for training and for validation, stratified by class; each keeps the order of its rows.

    Args:
        split: What is divided.
        fraction: Share of the images that is held out, rounded up.
        seed: Which images those are.
        classes: Names of the classes, for messages; default: their labels.
        task: What the labels are for.

    Raises:
        CompressError: A class has too few images for both sides.
    """
    labels = _find_strata(split, len(classes), task, least=1 / fraction)
    single = np.flatnonzero(np.bincount(labels) == 1)
    sides = () if len(single) else _divide(labels, fraction, seed)
    for lost in (single, *(np.setdiff1d(labels, labels[rows]) for rows in sides)):
        if len(lost):
            name, count = repr(classes[lost[0]]) if classes else lost[0], int((labels == lost[0]).sum())
            raise CompressError(
                f"class {name} has {quantify(count, 'image')}, too few to hold out {fraction:g} of each class; "
                "add images, remove the class, or change the fraction"
            )
    train, validation = (np.sort(rows) for rows in sides)
    return split.select(train), split.select(validation)


def _find_strata(split: Split, classes: int, task: Task, *, least: float) -> NDArray[np.int64]:
    """Return one class for each image, [N]; where an image may have several, strata of fewer images than `least` are joined."""
    strata = task.compute_strata(split.labels, classes)
    if split.labels.ndim == 1:
        return strata
    counts, least = np.bincount(strata), max(2.0, least)
    few: NDArray[np.bool_] = counts[strata] < least
    return np.where(few, len(counts) if few.sum() >= least else int(counts.argmax()), strata)


def take_stratified(split: Split, count: int, *, seed: int, task: Task = CLASSIFICATION) -> Split:
    """Return that many images of a split, stratified by class, in the order of its rows.

    Raises:
        CompressError: There are fewer images, or fewer are asked for than there are classes.
    """
    if count == len(split.labels):
        return split
    strata = _find_strata(split, 0, task, least=len(split.labels) / max(1, min(count, len(split.labels) - count)))
    return split.select(np.sort(_divide(strata, count, seed)[1]))


def divide_stratified(split: Split, count: int, *, seed: int) -> tuple[Split, Split]:
    """Return that many images of a split, stratified by class, and the others, both in the order of its rows.

    Raises:
        CompressError: It has no more images, or fewer are asked for than there are classes.
    """
    others, chosen = _divide(split.labels, count, seed)
    return split.select(np.sort(chosen)), split.select(np.sort(others))


def _divide(labels: Labels, part: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of two sides, stratified by class; `part` is the share, or the number, of the second."""
    from sklearn.model_selection import train_test_split

    state = int(np.random.SeedSequence(seed).generate_state(1)[0])  # scikit-learn takes 32 bits
    try:
        first, second = train_test_split(np.arange(len(labels)), test_size=part, random_state=state, stratify=labels)
    except ValueError as error:
        raise CompressError(f"{part:g} of {len(labels)} images cannot be set apart: {error}") from error
    return first, second
