"""Parquet files as the Hugging Face hub keeps them: a local folder, or a dataset of the hub at a pinned revision.

Layout: `train-00000-of-00002.parquet`, `test-00000-of-00001.parquet` and so on, in the folder itself or in one folder below it
(`data/`, or a subset's name). The image column and the class names are taken from the features that the files declare; where
they declare none, a column of encoded images and a column of whole numbers are looked for, and classes are called `0`, `1`, ...

The files are read with pyarrow, where they lie: no copy in a cache, no loading script or other code of the data set, and for a
local folder no network. A hub dataset is downloaded by `huggingface_hub` into its own cache (`HF_HOME`) when `summary` or
`load` first needs it: only the parquet files of the two splits, and only at a full commit hash, so the data cannot change.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from compress.data import Dataset, EncodedDataset, EncodedSplit, Summary, _parquet, check_labels, decode_to_memory
from compress.errors import CompressError, Unreachable
from compress.plugins import explain_missing_package
from compress.recipe import Text
from compress.records import Preprocess

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class Huggingface:
    """A folder of parquet files, or a dataset of the Hugging Face hub.

    Args:
        path: A local folder, relative to where the command runs, or with `revision` the hub's `owner/name`.
        revision: The full commit hash (40 hexadecimal digits) of a hub dataset.
        subset: The folder in which the files are, where several have the split.
        train_split: Name of the split for training and validation.
        test_split: Name of the split that is used once, at the end.
        image_column: The column of images; default: the only one.
        label_column: The column of labels; default: the only one.
        channels: What images are decoded to.
    """

    def __init__(
        self,
        *,
        path: Text,
        revision: Text | None = None,
        subset: Text | None = None,
        train_split: Text = "train",
        test_split: Text = "test",
        image_column: Text | None = None,
        label_column: Text | None = None,
        channels: Literal["gray", "rgb"] = "rgb",
    ) -> None:
        self.path, self.revision, self.subset = path, revision, subset
        self.splits = (train_split, test_split)
        self.image_column, self.label_column = image_column, label_column
        self.channels: str = channels

    def summary(self) -> Summary:
        """Return classes and sizes from the files' footers; a hub dataset is downloaded first.

        Raises:
            CompressError: The files, columns or class lists are not what the options say, or a split is empty.
            Unreachable: The folder or hub dataset cannot be reached, or a package is not installed.
        """
        train, test = self._tables()
        return Summary(_find_classes(train, test), train.rows, test.rows)

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
        tables = self._tables()
        classes = _find_classes(*tables)
        train, test = (EncodedSplit(_parquet.read_labels(table), partial(_read_pictures, table, self.path)) for table in tables)
        for name, pictures in zip(Dataset._fields, (train, test), strict=True):
            try:
                check_labels(name, pictures.labels, len(classes))
            except CompressError as error:
                raise CompressError(f"{self.path}: {error}") from error
        files = {
            f"{name} {part}": path
            for name, table in zip(Dataset._fields, tables, strict=True)
            for part, path in enumerate(table.files)
        }
        return EncodedDataset(train, test, files, repr([table.image for table in tables]))

    def _tables(self) -> tuple[_parquet.Table, _parquet.Table]:
        folder = self._folder() if self.revision is None else self._download(self.revision)
        try:
            train, test = (
                _parquet.find_table(folder, split, subset=self.subset, image=self.image_column, label=self.label_column)
                for split in self.splits
            )
        except ModuleNotFoundError as error:
            raise Unreachable(explain_missing_package("data/huggingface", error)) from error
        return train, test

    def _folder(self) -> Path:
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
            from huggingface_hub import snapshot_download
        except ModuleNotFoundError as error:
            raise Unreachable(explain_missing_package("data/huggingface", error)) from error
        places = [f"{self.subset}/"] if self.subset else ["", "*/"]
        files = [f"{place}{split}*.parquet" for place in places for split in self.splits]
        try:
            return Path(snapshot_download(self.path, repo_type="dataset", revision=revision, allow_patterns=files))
        except (OSError, ValueError) as error:  # all of the hub's errors are one or the other
            reason = str(error).strip().splitlines()[0]
            raise Unreachable(f"hub dataset {self.path} at {revision}: cannot be downloaded ({reason})") from error


def _find_classes(train: _parquet.Table, test: _parquet.Table) -> tuple[str, ...]:
    if train.names != test.names:
        first, second = (f"{table.split} has {', '.join(table.names or ('none',))}" for table in (train, test))
        raise CompressError(f"{train.files[0].parent}: the class lists of the splits differ: {first}; {second}")
    if train.names is not None:
        return train.names
    last = int(_parquet.read_labels(train).max())
    if last >= train.rows:
        numbers = f"column {train.label!r} holds numbers up to {last} in {train.rows} rows, which are no classes"
        raise CompressError(f"{train.files[0].parent}: {numbers}; choose another as data.label_column")
    return tuple(str(index) for index in range(last + 1))


def _read_pictures(table: _parquet.Table, path: str) -> Iterator[tuple[str, bytes | None]]:
    for row, encoded in enumerate(_parquet.read_encoded(table)):
        yield f"{path}: split {table.split!r}, row {row}, column {table.image!r}", encoded
