"""Pictures in one folder for each class: `train/cat/0001.jpg`, `test/dog/0002.png`, as most tools for images have them.

The names of the folders are the classes, in sorted order, and each class has a folder in both splits. Pictures may lie deeper
in the folder of their class. The folders of the splits may have any usual name (`Training`, `val`, `testing`, ...). Without
splits, as in `cat/0001.jpg`, and with `train` alone, a test split is set apart: each picture by a hash of its own path, so that
it stays where it is when others are added; what was done is told.

Names of classes are compared with their letters composed and without spaces around them, since a folder that was copied from a
Mac or an archive is the same class. Hidden files and folders, whose names begin with a dot, are no part of the data, and
neither is what file managers and archives leave; any other file that is no picture is refused by name when it is decoded,
rather than left out in silence. So is a link that leads out of the data's folder: what is trained on, and shipped as samples,
lies in it.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from compress.data import Dataset, EncodedDataset, EncodedSplit, Labels, Summary, decode_to_memory
from compress.data._splits import (
    SPLIT_NAMES,
    TEST_FRACTION,
    choose_test_rows,
    describe_difference,
    describe_renamed,
    describe_split,
    find_split,
    list_names,
    normalise_name,
)
from compress.errors import CompressError, Unreachable
from compress.preprocess import SUFFIXES
from compress.recipe import Fraction, Text, WholeNumber
from compress.records import Preprocess
from compress.text import quantify

LEFT_BY_OTHERS = frozenset(
    {
        "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "$recycle.bin", "system volume information", "@eadir",
        "lost+found", "__pycache__",
    }
)  # fmt: skip
"""Files and folders of file managers, archives and file systems, in small letters."""
SHOWN = 10
"""Problems that a message names."""
WRAPPERS = 2
"""Folders around the data that an archive may have added."""


class FolderSplit(NamedTuple):
    """The pictures of a split, by class, each in sorted order."""

    split: Path
    files: dict[str, list[Path]]

    def labels(self) -> Labels:
        """Return the label of each picture, [N], class after class."""
        return np.repeat(np.arange(len(self.files)), [len(files) for files in self.files.values()])

    def counts(self) -> tuple[int, ...]:
        """Return the number of pictures of each class."""
        return tuple(map(len, self.files.values()))


class Splits(NamedTuple):
    """Both splits, and what was decided about them."""

    train: FolderSplit
    test: FolderSplit
    notes: tuple[str, ...]


class Folder:
    """One folder for each class, in one folder for each split or in none.

    Args:
        path: The folder of the splits or of the classes, relative to the recipe or to where the command runs.
        train_split: Folder of the pictures for training and validation; default: the one with a usual name, such as `train`.
        test_split: Folder of the pictures that are used once, at the end; default: the one with a usual name, such as `test`,
            or else `val`, `valid` or `validation`.
        test_fraction: Share of each class that is set apart for the test where there is no such folder; default 0.2.
        split_seed: Seed of that split; the recipe's `seed` does not change it.
        channels: What pictures are decoded to.
    """

    def __init__(
        self,
        *,
        path: Text,
        train_split: Text | None = None,
        test_split: Text | None = None,
        test_fraction: Fraction | None = None,
        split_seed: WholeNumber = 0,
        channels: Literal["gray", "rgb"] = "rgb",
    ) -> None:
        self.path, self.train_split, self.test_split = path, train_split, test_split
        self.test_fraction, self.split_seed = test_fraction, split_seed
        self.channels: str = channels

    def summary(self) -> Summary:
        """Return classes and sizes from the names of the files.

        Raises:
            CompressError: Splits are missing, differ in their classes, or hold what they should not.
            Unreachable: The folder is not there or cannot be read.
        """
        train, test, notes = self._find_splits()
        counts = train.counts(), test.counts()
        return Summary(tuple(train.files), sum(counts[0]), sum(counts[1]), *counts, notes)

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
        train, test, _ = self._find_splits()
        files = {
            f"{role} {path.relative_to(found.split).as_posix()}": path
            for role, found in zip(Dataset._fields, (train, test), strict=True)
            for path in _iterate_files(found)
        }
        first, second = (EncodedSplit(found.labels(), partial(_name_pictures, found)) for found in (train, test))
        return EncodedDataset(first, second, files, "")

    def _find_splits(self) -> Splits:
        root = Path(self.path)
        if not root.is_dir():
            wanted = self.train_split or "train"
            raise Unreachable(f"{root}: there is no such folder; give the one that holds {wanted}/ as data.path")
        root = _unwrap(root) if self.train_split is None else root
        present = {path.name for path in _iterate_folders(root) if _may_be_split(path)}
        train = self.train_split or find_split("train", present)
        if train is None:
            said = self.test_fraction is not None  # by whoever knows that these are the classes
            return self._split(_find_classes_without_splits(root, are_classes=said), "the path of each picture")
        test = self.test_split or find_split("test", present - {train}) or find_split("validation", present - {train})
        if test is None and (self.test_fraction is not None or present == {train}):
            return self._split(_find_split(root, train), "the path of each picture")
        if test is not None and self.test_fraction is not None:
            raise CompressError(f"data.test_fraction: {root / test} is there to be tested on; remove one of the two")
        return _pair_splits(root, train, test or _refuse_no_test(root, train), present)

    def _split(self, found: FolderSplit, by: str) -> Splits:
        """Return pictures in two splits, each picture by a hash of its path."""
        fraction = TEST_FRACTION if self.test_fraction is None else self.test_fraction
        paths = list(_iterate_files(found))
        keys = [unicodedata.normalize("NFC", path.relative_to(found.split).as_posix()) for path in paths]
        chosen = choose_test_rows(keys, found.labels(), fraction=fraction, seed=self.split_seed)
        sides = dict(zip(paths, chosen.tolist(), strict=True))
        train, test = (
            FolderSplit(
                found.split, {name: [path for path in files if sides[path] == side] for name, files in found.files.items()}
            )
            for side in (False, True)
        )
        few = [name for name, files in train.files.items() if not files or not test.files[name]]
        if few:
            counts = ", ".join(f"class {name!r} has {quantify(len(found.files[name]), 'picture')}" for name in few[:SHOWN])
            more = f" and {quantify(len(few) - SHOWN, 'class', 'classes')} more have too few" if len(few) > SHOWN else ""
            raise CompressError(f"{found.split}: {counts}{more}, and training and test need one each; add some")
        note = describe_split(fraction, self.split_seed, sum(train.counts()), sum(test.counts()), by=by)
        return Splits(train, test, (f"{found.split}: {note}", *_describe_folders(found)))


def _unwrap(root: Path) -> Path:
    """Return the folder that holds the data: an archive may have put others around it."""
    for _ in range(WRAPPERS):
        folders, inner = list(_iterate_folders(root)), None
        if len(folders) == 1 and find_split("train", [folders[0].name]) is None and not _has_pictures(root):
            inner = folders[0]
        if inner is None or _has_pictures(inner) or not list(_iterate_folders(inner)):
            return root
        root = inner
    return root


def _iterate_folders(root: Path) -> Iterator[Path]:
    for path in sorted(root.iterdir()):
        if path.is_dir() and not _is_ignored(path.name):
            yield path


def _has_pictures(folder: Path) -> bool:
    return any(path.suffix.lower() in SUFFIXES for path in folder.iterdir() if not _is_ignored(path.name))


def _may_be_split(folder: Path) -> bool:
    """Tell a split from a class: it holds no pictures itself, unless all folders beside it are called like splits."""
    return not _has_pictures(folder) or all(_is_called_like_split(path.name) for path in _iterate_folders(folder.parent))


def _is_called_like_split(name: str) -> bool:
    return any(find_split(role, [name]) is not None for role in SPLIT_NAMES)


def _find_classes_without_splits(root: Path, *, are_classes: bool) -> FolderSplit:
    """Return the classes of a folder that holds them itself.

    Args:
        root: The folder.
        are_classes: Whether folders that hold the same folders, as splits do, are known to be classes.

    Raises:
        CompressError: The folder is not one folder for each class.
        Unreachable: A folder cannot be read.
    """
    present = {path.name for path in _iterate_folders(root)}
    splits = [path.name for path in _iterate_folders(root) if _may_be_split(path) and _is_called_like_split(path.name)]
    inside = {path.name: {inner.name for inner in _iterate_folders(path)} for path in _iterate_folders(root)}
    shared = set.intersection(*inside.values()) if len(inside) > 1 else set()
    alike = len(shared) > 1 and not are_classes  # a split has two classes
    if splits or (alike and not any(_has_pictures(root / name) for name in inside)):
        shared_text = f"folders that all hold {list_names(shared)}, like splits"
        why = f"{list_names(splits)}, and none of the usual names of a training split" if splits else shared_text
        raise CompressError(
            f"{root}: has {why}; name the folders of the splits as data.train_split and data.test_split: there are "
            f"{list_names(present)}"
            + ("" if splits else f"; if these are the classes, set data.test_fraction: {TEST_FRACTION}")
        )
    strays = [path for path in root.iterdir() if path.suffix.lower() in SUFFIXES and not _is_ignored(path.name)]
    if len(present) < 2 or strays:
        found = quantify(len(present), "folder of a class", "folders of classes")
        has = f"{found} and {quantify(len(strays), 'picture')} beside them" if strays else found
        raise CompressError(
            f"{root}: has no train/ and test/, and {has}; two classes or more are needed, each with its pictures in a folder "
            f"of its own: {root}/train/CLASS/PICTURE and {root}/test/CLASS/PICTURE, or {root}/CLASS/PICTURE"
        )
    return _list_classes(root, root, beside=False)


def _pair_splits(root: Path, train: str, test: str, present: set[str]) -> Splits:
    """Return the splits of two folders.

    Raises:
        CompressError: They differ in their classes, or hold what they should not.
        Unreachable: A folder cannot be read.
    """
    first, second = _find_split(root, train), _find_split(root, test)
    if first.files.keys() != second.files.keys():
        names = describe_difference(str(first.split), str(second.split), (first.files, second.files))
        raise CompressError(f"{root}: the splits differ in their classes: {names}; give each class a folder in both")
    notes = [note for split in (first, second) for note in _describe_folders(split)]
    validation = find_split("validation", present - {train, test})
    if validation is not None:
        notes.append(f"{root / validation} is not used: validation images are held out of {train}/ (data.validation_fraction)")
    elif find_split("validation", [Path(test).name]) is not None:
        notes.append(f"{second.split} is what the result is tested on; validation images are held out of {train}/")
    return Splits(first, second, tuple(dict.fromkeys(notes)))


def _describe_folders(found: FolderSplit) -> tuple[str, ...]:
    return describe_renamed(path.name for path in _iterate_folders(found.split))


def _refuse_no_test(root: Path, train_split: str) -> str:
    raise CompressError(
        f"{root}: has no folder test/, val/, valid/ or validation/ beside {train_split}/, and the result must be tested on "
        "pictures that nothing was chosen by; move about a fifth of each class there, or name the folder as data.test_split, "
        f"or set data.test_fraction: {TEST_FRACTION} to have them set apart"
    )


def _find_split(root: Path, name: str) -> FolderSplit:
    """Return the pictures of one split.

    Raises:
        CompressError: The split or a class is missing, empty, or holds what it should not.
        Unreachable: A folder cannot be read.
    """
    folder = root / name
    if not folder.is_dir():
        present = _list_some({path.name for path in _iterate_folders(root)})
        raise CompressError(f"{folder}: there is no such folder; {root} has {present}: name the splits' folders in data")
    return _list_classes(folder, root, beside=True)


def _list_classes(folder: Path, root: Path, *, beside: bool) -> FolderSplit:
    """Return the pictures of each class that has a folder in this one.

    Args:
        folder: Where the folders of the classes are.
        root: Of the data; no link may lead out of it.
        beside: Refuse any file beside the folders of the classes.

    Raises:
        CompressError: A class is empty, or holds what it should not.
        Unreachable: A folder cannot be read.
    """
    _require_inside(folder, root)
    files: dict[str, list[Path]] = {}
    problems: list[str] = []
    for path in sorted(folder.iterdir(), key=lambda path: (normalise_name(path.name), path.name)):
        if _is_ignored(path.name):
            continue
        if path.is_dir():
            _require_text(path)
            found = _list_files(path, root, problems)
            if not found:
                problems.append(f"{path}: the class has no pictures; add some, or remove the folder")
            files.setdefault(normalise_name(path.name), []).extend(found)
        elif beside:
            problems.append(f"{path}: lies beside the folders of the classes; move it into one of them, or remove it")
    if problems:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise CompressError("\n".join([*problems[:SHOWN], *more]))
    if len(files) < 2:
        found_classes = quantify(len(files), "folder of a class", "folders of classes")
        raise CompressError(f"{folder}: has {found_classes}, and two are needed: {folder}/CLASS/PICTURE")
    return FolderSplit(folder, files)


def _list_files(folder: Path, root: Path, problems: list[str]) -> list[Path]:
    """Return the files of a class in the order of their names, and add to the problems what cannot be one.

    Raises:
        CompressError: The folder is a link that leads out of the root.
        Unreachable: A folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise Unreachable(f"{error.filename}: cannot be read ({error.strerror}); make it readable, or remove it") from error

    found = []
    _require_inside(folder, root)
    for place, folders, names in os.walk(folder, onerror=refuse):  # does not follow links to folders
        folders[:] = sorted(name for name in folders if not _is_ignored(name))
        links = [Path(place) / name for name in folders if (Path(place) / name).is_symlink()]
        problems += [f"{path}: is a link to a folder; put the pictures themselves there" for path in links]
        found += [Path(place) / name for name in names if not _is_ignored(name)]
    for path in found:
        if _leads_out(path, root):
            problems.append(_explain_link(path, root))
        elif not path.is_file():
            problems.append(f"{path}: is no file, but {_name_kind(path)}; remove it")
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def _require_inside(path: Path, root: Path) -> None:
    if _leads_out(path, root):
        raise CompressError(_explain_link(path, root))


def _leads_out(path: Path, root: Path) -> bool:
    return path.is_symlink() and not path.resolve().is_relative_to(root.resolve())


def _explain_link(path: Path, root: Path) -> str:
    return f"{path}: is a link that leads out of {root}; put what it leads to there instead"


def _name_kind(path: Path) -> str:
    """Return what it is that is neither a file nor a folder."""
    if path.is_fifo():
        return "a pipe"
    return "a link to nothing" if path.is_symlink() else "a device or a socket"


def _require_text(folder: Path) -> None:
    try:
        folder.name.encode()
    except UnicodeEncodeError as error:
        raise CompressError(
            f"{folder}: the name is no UTF-8, so no report or file could hold it as a class; rename the folder"
        ) from error


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name.lower() in LEFT_BY_OTHERS


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
