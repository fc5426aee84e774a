"""Parquet files as the Hugging Face hub keeps them: a local folder, or a dataset of the hub at a pinned revision.

Layouts: `train-00000-of-00002.parquet`, `test-00000-of-00001.parquet` and so on, in the folder itself or below it (`data/`, or
a subset's name), and the hub's own conversion, `SUBSET/train/0000.parquet`. The splits may have any usual name; where there is
no test split, one is set apart by a hash of each row's number, and this is told.

The image column and the class names are taken from the features that the files declare. Where they declare none, a column of
encoded images and one of labels are looked for, and the classes are the labels that occur, in sorted order: whole numbers,
texts, or false and true.

The files are read with pyarrow, where they lie: no copy in a cache, no loading script or other code of the data set, and for a
local folder no network. A hub dataset is downloaded by `huggingface_hub` into its own cache (`HF_HOME`) when `summary` or
`load` first needs it: only the parquet files of the splits, and only at a full commit hash, so the data cannot change.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compress.data import Dataset, EncodedDataset, EncodedSplit, Labels, Summary, _parquet, decode_to_memory
from compress.data._labels import Classes, find_classes, label_rows
from compress.data._splits import SPLIT_NAMES, TEST_FRACTION, choose_test_rows, describe_split, find_split
from compress.errors import CompressError, Unreachable
from compress.plugins import explain_missing_package
from compress.recipe import Fraction, Text, WholeNumber
from compress.records import Preprocess

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class Rows(NamedTuple):
    """Some rows of a split."""

    table: _parquet.Table
    labels: Labels
    """Of each of the rows, [n]."""
    chosen: NDArray[np.bool_] | None = None
    """Which rows of the table these are, [N]; `None`: all."""


class Found(NamedTuple):
    """Both splits and their classes."""

    train: Rows
    test: Rows
    classes: Classes
    notes: tuple[str, ...]


class Huggingface:
    """A folder of parquet files, or a dataset of the Hugging Face hub.

    Args:
        path: A local folder, relative to where the command runs, or with `revision` the hub's `owner/name`.
        revision: The full commit hash (40 hexadecimal digits) of a hub dataset.
        subset: The folder in which the files are, where several have the split.
        train_split: Name of the split for training and validation; default: `train`, or what is usual.
        test_split: Name of the split that is used once, at the end; default: `test`, or what is usual, or else `validation`.
        test_fraction: Share of each class that is set apart for the test where there is no such split; default 0.2.
        split_seed: Seed of that split; the recipe's `seed` does not change it.
        image_column: The column of images; default: the only one.
        label_column: The column of labels; default: the one that is declared as such, or `label`, or the only one.
        channels: What images are decoded to.
    """

    def __init__(
        self,
        *,
        path: Text,
        revision: Text | None = None,
        subset: Text | None = None,
        train_split: Text | None = None,
        test_split: Text | None = None,
        test_fraction: Fraction | None = None,
        split_seed: WholeNumber = 0,
        image_column: Text | None = None,
        label_column: Text | None = None,
        channels: Literal["gray", "rgb"] = "rgb",
    ) -> None:
        self.path, self.revision, self.subset = path, revision, subset
        self.train_split, self.test_split = train_split, test_split
        self.test_fraction, self.split_seed = test_fraction, split_seed
        self.image_column, self.label_column = image_column, label_column
        self.channels: str = channels

    def summary(self) -> Summary:
        """Return classes and sizes from the files' label columns; a hub dataset is downloaded first.

        Raises:
            CompressError: The files, columns or class lists are not what the options say, or a split is empty.
            Unreachable: The folder or hub dataset cannot be reached, or a package is not installed.
        """
        found = self._find_rows()
        counts = [np.bincount(rows.labels, minlength=len(found.classes.names)) for rows in (found.train, found.test)]
        train, test = (tuple(map(int, count)) for count in counts)
        return Summary(found.classes.names, sum(train), sum(test), train, test, found.notes)

    def load(self, preprocess: Preprocess) -> Dataset:
        """Return all images in memory, decoded and resized.

        Raises:
            CompressError: As in `summary`; or an image cannot be decoded or a label is out of range, naming split and row; or
                the images do not fit into memory.
            Unreachable: As in `summary`.
        """
        return decode_to_memory(self.load_encoded(), preprocess)

    def load_encoded(self) -> EncodedDataset:
        """Return the pictures as they are in the files.

        Raises:
            CompressError: As in `summary`; or a label is out of range, naming split and row.
            Unreachable: As in `summary`.
        """
        found = self._find_rows()
        train, test = (
            EncodedSplit(rows.labels, partial(_read_pictures, rows, self.path)) for rows in (found.train, found.test)
        )
        files = {
            f"{name} {part}": path
            for name, rows in zip(Dataset._fields, (found.train, found.test), strict=True)
            for part, path in enumerate(rows.table.files)
        }
        chosen = [
            (rows.table.image, None if rows.chosen is None else rows.chosen.tobytes()) for rows in (found.train, found.test)
        ]
        return EncodedDataset(train, test, files, repr(chosen))

    def _find_rows(self) -> Found:
        """Return the rows of both splits with their labels."""
        folder = self.find_folder()
        try:
            return self._label_rows(folder, _parquet.list_parts(folder, self.subset))
        except ModuleNotFoundError as error:
            raise Unreachable(explain_missing_package("data/huggingface", error)) from error

    def _label_rows(self, folder: Path, parts: Sequence[_parquet.Part]) -> Found:
        train_name, test_name = self.choose_splits(folder, parts)
        find = partial(_parquet.find_table, folder, parts, image=self.image_column, label=self.label_column)
        train, test = find(train_name), None if test_name is None else find(test_name)
        if test is not None and train.names != test.names:
            first, second = (f"{table.split} has {', '.join(table.names or ('none',))}" for table in (train, test))
            raise CompressError(f"{train.files[0].parent}: the class lists of the splits differ: {first}; {second}")
        values = _parquet.read_values(train)
        classes = find_classes(str(train.files[0].parent), train.label, values, train.names)
        labels = label_rows(f"{self.path}: split {train.split!r}", train.label, values, classes)
        if test is None:
            return self._set_apart(folder, train, labels, classes)
        tested = label_rows(f"{self.path}: split {test.split!r}", test.label, _parquet.read_values(test), classes)
        usual = find_split("test", [test.split]) is not None or self.test_split is not None
        note = f"split {test.split!r} is what the result is tested on; validation images are held out of {train.split!r}"
        return Found(Rows(train, labels), Rows(test, tested), classes, (*classes.notes, *([] if usual else [note])))

    def choose_splits(self, folder: Path, parts: Sequence[_parquet.Part]) -> tuple[str, str | None]:
        """Return the names of the splits; no test split where one is to be set apart.

        Raises:
            CompressError: There is none, and it is not clear that there should not be one.
        """
        present = {part.split for part in parts}
        train = self.train_split or find_split("train", present) or "train"
        others = present - {train}
        test = self.test_split or find_split("test", others) or find_split("validation", others)
        if test is not None and self.test_fraction is not None:
            raise CompressError(f"data.test_fraction: split {test!r} is there to be tested on; remove one of the two")
        if test is None and train in present and others and self.test_fraction is None:
            raise CompressError(
                f"{folder}: split 'test' has no files; {_parquet.list_splits(parts)}: name one as data.test_split, or set "
                f"data.test_fraction: {TEST_FRACTION} to have images of {train!r} set apart"
            )
        return train, test

    def _set_apart(self, folder: Path, table: _parquet.Table, labels: Labels, classes: Classes) -> Found:
        """Return the rows of the only split in two, each by a hash of its number."""
        fraction = TEST_FRACTION if self.test_fraction is None else self.test_fraction
        chosen = choose_test_rows([str(row) for row in range(table.rows)], labels, fraction=fraction, seed=self.split_seed)
        train, test = (Rows(table, labels[side], side) for side in (~chosen, chosen))
        note = describe_split(
            fraction, self.split_seed, len(train.labels), len(test.labels), by=f"the number of each row of {table.split!r}"
        )
        return Found(train, test, classes, (*classes.notes, f"{folder}: {note}"))

    def find_folder(self) -> Path:
        """Return the folder of the files; a hub dataset is downloaded first.

        Raises:
            CompressError: The name or revision of a hub dataset is none.
            Unreachable: The folder or hub dataset cannot be reached, or a package is not installed.
        """
        if self.revision is not None:
            return self._download(self.revision)
        folder = Path(self.path)
        if not folder.is_dir():
            hint = "; for a hub dataset give its commit hash as data.revision" if _HUB_ID.fullmatch(self.path) else ""
            raise Unreachable(f"{folder}: there is no such folder{hint}")
        return folder

    def _download(self, revision: str) -> Path:
        if not _HUB_ID.fullmatch(self.path) or not re.fullmatch(r"[0-9a-f]{40}", revision):
            raise CompressError(
                f"hub dataset {self.path!r} at revision {revision!r}: give owner/name and a full commit hash of 40 hexadecimal "
                "digits, since branches and tags can move"
            )
        try:
            import huggingface_hub  # noqa: F401 (to say here that it is not installed)
        except ModuleNotFoundError as error:
            raise Unreachable(explain_missing_package("data/huggingface", error)) from error
        names = [self.train_split] if self.train_split else SPLIT_NAMES["train"]
        tests = [self.test_split] if self.test_split else SPLIT_NAMES["test"]
        found = self._fetch(revision, [*names, *tests])
        if self.test_split or any(part.split in tests for part in _parquet.list_parts(found, self.subset)):
            return found
        return self._fetch(revision, [*names, *SPLIT_NAMES["validation"]])

    def _fetch(self, revision: str, splits: Sequence[str]) -> Path:
        """Return the folder of the hub's cache with the parquet files of some splits, downloaded unless they are there."""
        from huggingface_hub import snapshot_download

        places = [f"{self.subset}/", f"{self.subset}/*/"] if self.subset else ["", "*/"]
        kinds = ("{}.parquet", "{}-*.parquet", "{}/*.parquet", "partial-{}/*.parquet")
        files = [f"{place}{kind.format(split)}" for place in places for split in splits for kind in kinds]
        try:
            return Path(snapshot_download(self.path, repo_type="dataset", revision=revision, allow_patterns=files))
        except (OSError, ValueError) as error:  # all of the hub's errors are one or the other
            reason = str(error).strip().splitlines()[0]
            raise Unreachable(f"hub dataset {self.path} at {revision}: cannot be downloaded ({reason})") from error


def _read_pictures(rows: Rows, path: str) -> Iterator[tuple[str, bytes | None]]:
    table = rows.table
    for row, encoded in enumerate(_parquet.read_encoded(table)):
        if rows.chosen is None or rows.chosen[row]:
            yield f"{path}: split {table.split!r}, row {row}, column {table.image!r}", encoded
