"""Pictures without labels beside labelled ones: what a teacher says of them is all that there is to learn from them.

They lie in one folder, without folders in it, and are decoded as further training images, with `UNLABELLED` in the place of a
label; after that they are taken apart again, so that nothing but the training of a student sees them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from compress.data._disk_images import DiskImages
from compress.data._source import Dataset, EncodedDataset, EncodedSplit, Split
from compress.data._splits import list_names
from compress.errors import CompressError, Unreachable

UNLABELLED = -1
"""Stands for a label where there is none."""


def list_unlabelled(folder: Path) -> list[Path]:
    """Return the pictures of a folder in the order of their names; hidden files are no part of it.

    Raises:
        CompressError: It holds folders, as one with classes does, a link that leads out of it, or no picture.
        Unreachable: It is not there, or cannot be read.
    """
    if not folder.is_dir():
        raise Unreachable(f"data.unlabelled: {folder}: there is no such folder")
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise Unreachable(f"data.unlabelled: {folder}: cannot be read ({error.strerror})") from error
    folders = [path.name for path in paths if path.is_dir()]
    if folders:
        raise CompressError(
            f"data.unlabelled: {folder}: holds the folders {list_names(folders)}, like classes; labelled pictures belong to "
            "the data itself, and unlabelled ones lie in one folder without others in it"
        )
    outside = [path for path in paths if not path.resolve().is_relative_to(folder.resolve())]
    if outside:
        raise CompressError(f"data.unlabelled: {outside[0]}: is a link that leads out of {folder}; put the picture there")
    if not paths:
        raise CompressError(f"data.unlabelled: {folder}: holds no pictures; add some, or remove the field")
    return paths


def add_unlabelled(encoded: EncodedDataset, paths: Sequence[Path]) -> EncodedDataset:
    """Return a data set whose training split ends with these pictures, without labels."""
    train = EncodedSplit(
        np.concatenate([encoded.train.labels, np.full(len(paths), UNLABELLED, np.int64)]),
        lambda: chain(encoded.train.each(), _name_pictures(paths)),
    )
    files = {**encoded.files, **{f"unlabelled {path.name}": path for path in paths}}
    return encoded._replace(train=train, files=files, chosen=f"{encoded.chosen}, {len(paths)} unlabelled")


def make_unlabelled(paths: Sequence[Path]) -> EncodedDataset:
    """Return a data set of these pictures alone, as its training split."""
    train = EncodedSplit(np.full(len(paths), UNLABELLED, np.int64), partial(_name_pictures, paths))
    nothing = EncodedSplit(np.empty(0, np.int64), partial(_name_pictures, ()))
    return EncodedDataset(train, nothing, {path.name: path for path in paths}, "")


def _name_pictures(paths: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    return ((str(path), path) for path in paths)


def take_apart(dataset: Dataset) -> tuple[Dataset, Split]:
    """Return a data set of the labelled images, and those without labels, which end its training split."""
    labels = dataset.train.labels
    known = np.flatnonzero(labels != UNLABELLED)
    first = int(known[-1]) + 1 if len(known) else 0
    rows = np.arange(len(labels))
    return dataset._replace(train=dataset.train.select(rows[:first])), dataset.train.select(rows[first:])


def forget_labels(split: Split) -> Split:
    """Return the images of a split as pictures without labels."""
    return split._replace(labels=np.full(len(split.labels), UNLABELLED, np.int64))


def repeat_rows(split: Split, count: int) -> Split:
    """Return that many images: those of a split again and again."""
    return split.select(np.resize(np.arange(len(split.labels)), count))


def join_splits(first: Split, second: Split) -> Split:
    """Return the images of two splits as one; of images on disk, both are rows of one file."""
    labels = np.concatenate([first.labels, second.labels])
    if isinstance(first.images, DiskImages) and isinstance(second.images, DiskImages):
        return Split(first.images.join(second.images), labels)
    return Split(np.concatenate([first.images[:], second.images[:]]), labels)
