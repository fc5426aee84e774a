"""Pictures and labels listed in a CSV file: one row for each picture, with its path and its class, and perhaps its split.

The first row names the columns. Paths start at the folder of the file, or at `root`, and no picture lies outside of it: a path
that leads out, by itself or by a link, is refused, since what is trained on is also shipped as samples. Without a column of
splits a test split is set apart, each picture by a hash of its path.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compress.data import Dataset, EncodedDataset, EncodedSplit, Summary, decode_to_memory
from compress.data._rows import Divided, Table, divide_rows
from compress.errors import CompressError, Unreachable
from compress.recipe import Fraction, Text, WholeNumber
from compress.records import Preprocess
from compress.system.files import read_bounded

MOST_BYTES = 1 << 28
"""Of the file: some million rows."""
IMAGE_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_path", "filepath", "img")
LABEL_COLUMNS = ("label", "class", "category", "target", "label_name", "class_name")
SPLIT_COLUMNS = ("split", "set", "subset", "partition")
"""What these columns are usually called, in any case of letters."""
DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t"}


class Rows(NamedTuple):
    """The rows of a file."""

    paths: list[Path]
    """Where the pictures are."""
    keys: list[str]
    """The same as they are written."""
    divided: Divided


class Csv:
    """A CSV file of paths and labels.

    Args:
        path: The file, relative to the recipe or to where the command runs.
        root: Folder at which the paths in it start; default: that of the file.
        image_column: The column of paths; default: the one with a usual name, such as `path` or `filename`.
        label_column: The column of classes; default: the one with a usual name, such as `label` or `class`.
        split_column: The column of splits; default: the one with a usual name, such as `split`, if there is one.
        delimiter: What stands between the columns.
        test_fraction: Share of each class that is set apart for the test where there are no splits; default 0.2.
        split_seed: Seed of that split; the recipe's `seed` does not change it.
        channels: What pictures are decoded to.
    """

    def __init__(
        self,
        *,
        path: Text,
        root: Text | None = None,
        image_column: Text | None = None,
        label_column: Text | None = None,
        split_column: Text | None = None,
        delimiter: Literal["comma", "semicolon", "tab"] = "comma",
        test_fraction: Fraction | None = None,
        split_seed: WholeNumber = 0,
        channels: Literal["gray", "rgb"] = "rgb",
    ) -> None:
        self.path = Path(path)
        self.root = self.path.parent if root is None else self.path.parent / Path(root).expanduser()
        self.columns = {"image": image_column, "label": label_column, "split": split_column}
        self.delimiter, self.test_fraction, self.split_seed = delimiter, test_fraction, split_seed
        self.channels: str = channels

    def summary(self) -> Summary:
        """Return classes and sizes from the rows of the file.

        Raises:
            CompressError: A column is missing, a row is incomplete, a path leads out of the folder, or labels are no classes.
            Unreachable: The file, or a picture that it names, is not there.
        """
        return self._read().divided.summarize()

    def load(self, preprocess: Preprocess) -> Dataset:
        """Return all pictures in memory, decoded and resized.

        Raises:
            CompressError: As in `summary`; or a picture cannot be decoded, and the message names its file; or they do not fit.
            Unreachable: As in `summary`.
        """
        return decode_to_memory(self.load_encoded(), preprocess)

    def load_encoded(self) -> EncodedDataset:
        """Return the pictures as they are in their files.

        Raises:
            CompressError: As in `summary`.
            Unreachable: As in `summary`.
        """
        found = self._read()
        divided = found.divided
        files = {
            f"{name} {place} {found.keys[row]}": found.paths[row]
            for name, rows in zip(Dataset._fields, (divided.train, divided.test), strict=True)
            for place, row in enumerate(rows.tolist())
        }
        train, test = (
            EncodedSplit(labels, partial(_name_pictures, found.paths, rows))
            for rows, labels in ((divided.train, divided.train_labels), (divided.test, divided.test_labels))
        )
        order = [[found.keys[row] for row in rows.tolist()] for rows in (divided.train, divided.test)]
        return EncodedDataset(train, test, files, repr(order))

    def _read(self) -> Rows:
        names, rows = self._parse()
        image = self._choose_column("image", IMAGE_COLUMNS, names)
        label = self._choose_column("label", LABEL_COLUMNS, names)
        split = self._choose_column("split", SPLIT_COLUMNS, names, required=False)
        keys = [row[image].strip() for _, row in rows]
        paths = [self._locate(key, line) for key, (line, _) in zip(keys, rows, strict=True)]
        values = [_read_label(row[label]) for _, row in rows]
        if not all(isinstance(value, int) for value in values if value is not None):
            values = [None if value is None else str(value) for value in values]
        self._refuse_contradictions(keys, values)
        splits = None if split is None else [row[split].strip() for _, row in rows]
        table = Table(str(self.path), names[label], values, keys, "the path of each picture", splits)
        return Rows(paths, keys, divide_rows(table, fraction=self.test_fraction, seed=self.split_seed))

    def _parse(self) -> tuple[list[str], list[tuple[int, list[str]]]]:
        """Return the names of the columns, and each row with the number of its line."""
        content = read_bounded(self.path, limit_bytes=MOST_BYTES, what="a CSV file")
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise CompressError(f"{self.path}: is no UTF-8 at byte {error.start}; save it as UTF-8") from error
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=DELIMITERS[self.delimiter], strict=True)
        try:
            rows = [(reader.line_num, row) for row in reader if row]
        except csv.Error as error:
            raise CompressError(f"{self.path}:{reader.line_num}: is no CSV ({error}); mend the line") from error
        if len(rows) < 2:
            raise CompressError(f"{self.path}: has {len(rows)} rows; the first names the columns, and each picture has one")
        names = [name.strip() for name in rows[0][1]]
        for line, row in rows[1:]:
            if len(row) != len(names):
                raise CompressError(
                    f"{self.path}:{line}: has {len(row)} fields, and there are {len(names)} columns; put quotes around a field "
                    "that holds the delimiter"
                )
        return names, rows[1:]

    def _choose_column(self, what: str, usual: Sequence[str], names: list[str], *, required: bool = True) -> Any:
        """Return the place of a column; `None` where there is none and none is needed.

        Raises:
            CompressError: It is not there, or several could be it.
        """
        wanted, listed = self.columns[what], ", ".join(names)[:200]
        if wanted is not None:
            if names.count(wanted) != 1:
                raise CompressError(f"data.{what}_column: {self.path} has {names.count(wanted)} columns {wanted!r}: {listed}")
            return names.index(wanted)
        found = [place for place, name in enumerate(names) if name.casefold() in usual]
        if len(found) == 1 or (not found and not required):
            return found[0] if found else None
        hint = "; is data.delimiter right?" if len(names) == 1 else ""
        which = "several columns could be" if found else "no column is called like"
        raise CompressError(f"{self.path}: {which} that of the {what}s; name it as data.{what}_column: {listed}{hint}")

    def _locate(self, key: str, line: int) -> Path:
        """Return where a picture is.

        Raises:
            CompressError: It would be outside of the folder, or is no file.
            Unreachable: It is not there.
        """
        path = self.root / key.replace("\\", "/")
        if not key or not path.resolve().is_relative_to(self.root.resolve()) or "\0" in key:
            raise CompressError(f"{self.path}:{line}: {key!r} leads out of {self.root}; paths start there (data.root)")
        if not path.is_file():
            kind = CompressError if path.exists() else Unreachable
            raise kind(f"{self.path}:{line}: {path}: is no file; paths start at {self.root} (data.root)")
        return path

    def _refuse_contradictions(self, keys: Sequence[str], values: Sequence[Any]) -> None:
        known: dict[str, Any] = {}
        for key, value in zip(keys, values, strict=True):
            if known.setdefault(key, value) != value:
                raise CompressError(f"{self.path}: {key!r} is {known[key]!r} in one row and {value!r} in another; keep one")


def _read_label(text: str) -> int | str | None:
    """Return a label: a whole number where it is written as one, so that 10 comes after 2; nothing where there is none."""
    bare = text.strip()
    return int(bare) if bare.isascii() and bare.isdigit() and len(bare) < 10 and str(int(bare)) == bare else bare or None


def _name_pictures(paths: Sequence[Path], rows: NDArray[np.int64]) -> Iterator[tuple[str, Path]]:
    for row in rows.tolist():
        yield str(paths[row]), paths[row]
