"""Pictures in one folder for each class: `train/cat/0001.jpg`, `test/dog/0002.png`, as most tools for images have them.

The names of the folders are the classes, in sorted order, and each class has a folder in both splits. Pictures may lie deeper
in the folder of their class. Hidden files and folders, whose names begin with a dot, are no part of the data, and neither are a
few files that file managers leave; any other file that is no picture is refused by name when it is decoded, rather than left
out in silence. So is a link that leads out of the data's folder: what is trained on, and shipped as samples, lies in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from compress.data import Dataset, EncodedDataset, EncodedSplit, Labels, Summary, decode_to_memory
from compress.errors import CompressError, Unreachable
from compress.recipe import Text
from compress.records import Preprocess
from compress.text import quantify

LEFT_BY_FILE_MANAGERS = frozenset({"thumbs.db", "desktop.ini"})


class FolderSplit(NamedTuple):
    """The pictures of a split, by class, each in sorted order."""

    split: Path
    files: dict[str, list[Path]]

    def labels(self) -> Labels:
        """Return the label of each picture, [N], class after class."""
        return np.repeat(np.arange(len(self.files)), [len(files) for files in self.files.values()])


class Folder:
    """One folder for each class in one folder for each split.

    Args:
        path: The folder of the splits, relative to the recipe or to where the command runs.
        train_split: Folder of the pictures for training and validation.
        test_split: Folder of the pictures that are used once, at the end; default: `test`, or else `val`, `valid` or
            `validation`, if it is there.
        channels: What pictures are decoded to.
    """

    def __init__(
        self,
        *,
        path: Text,
        train_split: Text = "train",
        test_split: Text | None = None,
        channels: Literal["gray", "rgb"] = "rgb",
    ) -> None:
        self.path, self.train_split, self.test_split = path, train_split, test_split
        self.channels: str = channels

    def summary(self) -> Summary:
        """Return classes and sizes from the names of the files.

        Raises:
            CompressError: Splits are missing, differ in their classes, or hold what they should not.
            Unreachable: The folder is not there or cannot be read.
        """
        train, test = self._find_splits()
        return Summary(tuple(train.files), *(sum(map(len, split.files.values())) for split in (train, test)))

    def load(self, preprocess: Preprocess) -> Dataset:
        """Return all pictures in memory, decoded and resized.

        Raises:
            CompressError: As in `summary`; or a picture cannot be decoded, and the message names its file; or they do not fit.
            Unreachable: As in `summary`.
        """
        return decode_to_memory(self.load_encoded(), preprocess)

    def load_encoded(self) -> EncodedDataset:
        """Return the pictures as they are in the files.

        Raises:
            CompressError: As in `summary`.
            Unreachable: As in `summary`.
        """
        train, test = self._find_splits()
        files = {
            f"{role} {path.relative_to(found.split).as_posix()}": path
            for role, found in zip(Dataset._fields, (train, test), strict=True)
            for path in _iterate_files(found)
        }
        first, second = (EncodedSplit(found.labels(), partial(_name_pictures, found)) for found in (train, test))
        return EncodedDataset(first, second, files, "")

    def _find_splits(self) -> tuple[FolderSplit, FolderSplit]:
        root = Path(self.path)
        if not root.is_dir():
            raise Unreachable(f"{root}: there is no such folder; give the one that holds {self.train_split}/ as data.path")
        train = _find_split(root, self.train_split)
        test = _find_split(root, self.test_split or _find_test_split(root, self.train_split))
        if list(train.files) != list(test.files):
            pairs = ((train, test), (test, train))
            alone = [f"{one.split} alone has {_list_some(one.files.keys() - other.files)}" for one, other in pairs]
            differences = "; ".join(
                text for (one, other), text in zip(pairs, alone, strict=True) if one.files.keys() - other.files
            )
            raise CompressError(f"{root}: the splits differ in their classes: {differences}; give each class a folder in both")
        return train, test


def _find_test_split(root: Path, train_split: str) -> str:
    for name in ("test", "val", "valid", "validation"):
        if name != train_split and (root / name).is_dir():
            return name
    raise CompressError(
        f"{root}: has no folder test/, val/, valid/ or validation/ beside {train_split}/, and the result must be tested on "
        "pictures that nothing was chosen by; move about a fifth of each class there, or name the folder as data.test_split"
    )


def _find_split(root: Path, name: str) -> FolderSplit:
    """Return the pictures of one split.

    Raises:
        CompressError: The split or a class is missing, empty, or holds what it should not.
        Unreachable: A folder cannot be read.
    """
    folder = root / name
    if not folder.is_dir():
        present = _list_some({path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")})
        raise CompressError(f"{folder}: there is no such folder; {root} has {present}: name the splits' folders in data")
    _require_inside(folder, root)
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if _is_ignored(path.name):
            continue
        if not path.is_dir():
            raise CompressError(f"{path}: lies beside the folders of the classes; move it into one of them, or remove it")
        files[path.name] = _list_files(path, root)
        if not files[path.name]:
            raise CompressError(f"{path}: the class has no pictures; add some, or remove the folder")
    if len(files) < 2:
        found = quantify(len(files), "folder of a class", "folders of classes")
        raise CompressError(f"{folder}: has {found}, and two are needed: {folder}/CLASS/PICTURE")
    return FolderSplit(folder, files)


def _list_files(folder: Path, root: Path) -> list[Path]:
    """Return the files of a class in the order of their names."""

    def refuse(error: OSError) -> None:
        raise Unreachable(f"{error.filename}: cannot be read ({error.strerror}); make it readable, or remove it") from error

    found = []
    _require_inside(folder, root)
    for place, folders, names in os.walk(folder, onerror=refuse):  # does not follow links to folders
        folders[:] = sorted(name for name in folders if not _is_ignored(name))
        for name in folders:
            if (Path(place) / name).is_symlink():
                raise CompressError(f"{Path(place) / name}: is a link to a folder; put the pictures themselves there")
        found += [Path(place) / name for name in names if not _is_ignored(name)]
    for path in found:
        _require_inside(path, root)
        if not path.is_file():
            raise CompressError(f"{path}: is no file; remove it")
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def _require_inside(path: Path, root: Path) -> None:
    if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
        raise CompressError(f"{path}: is a link that leads out of {root}; put what it leads to there instead")


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name.lower() in LEFT_BY_FILE_MANAGERS


def _iterate_files(found: FolderSplit) -> Iterator[Path]:
    for files in found.files.values():
        yield from files


def _name_pictures(found: FolderSplit) -> Iterator[tuple[str, Path]]:
    for path in _iterate_files(found):
        yield str(path), path


def _list_some(names: set[str]) -> str:
    """Return some names as people read them."""
    shown = sorted(names)[:5]
    return ", ".join(shown) + (f" and {len(names) - 5} more" if len(names) > 5 else "") if shown else "no folders"
