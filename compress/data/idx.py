"""Gray images in IDX files, the format of MNIST: Fashion-MNIST, KMNIST, EMNIST and others, plain or compressed with gzip.

A folder has four files: images and labels, for training (`train-images-idx3-ubyte`) and for the test (`t10k-` or `test-`), with
or without `.gz`; a dot may stand in the place of the last hyphen. EMNIST has several sets in one folder, told apart by
`subset`. Debian has Fashion-MNIST as the package `dataset-fashion-mnist`, in `/usr/share/datasets/fashion-mnist`.

Sizes are read from the header and compared with the file before anything is unpacked, and no more is unpacked than they say.
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from pathlib import Path
from typing import IO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress.data import Dataset, Split, Summary
from compress.data._labels import Classes, find_classes, label_rows
from compress.data._splits import list_names
from compress.errors import CompressError, Unreachable
from compress.preprocess import MAX_PIXELS, decode
from compress.recipe import Listing, Text
from compress.records import Preprocess
from compress.system.files import open_file
from compress.system.memory import require_memory

SPLITS = {"train": ("train",), "test": ("t10k", "test")}
_IMAGES, _LABELS = 0x0803, 0x0801
"""First four bytes: unsigned bytes in three dimensions, or in one."""
_NAME = re.compile(r"(?:(?P<subset>.+?)[-_.])?(?P<split>train|t10k|test)-(?P<what>images|labels)[-.]idx[13]-ubyte(?:\.gz)?")
MOST_EXPANSION = 1032
"""Bytes that one byte of gzip can become at most."""


class Files(NamedTuple):
    """The files of a split."""

    images: Path
    labels: Path


class Idx:
    """A folder of IDX files.

    Args:
        path: The folder, relative to the recipe or to where the command runs.
        subset: Beginning of the files' names, where several sets are in the folder: `emnist-letters`.
        classes: Names of the classes, in the order of the labels; default: the labels themselves.
        channels: What images become.
    """

    def __init__(
        self,
        *,
        path: Text,
        subset: Text | None = None,
        classes: Listing[Text] | None = None,
        channels: Literal["gray", "rgb"] = "gray",
    ) -> None:
        self.path, self.subset, self.names = Path(path), subset, classes
        self.channels: str = channels

    def summary(self) -> Summary:
        """Return classes and sizes from the label files.

        Raises:
            CompressError: A file is missing or is not what its header says, or the labels do not fit each other.
            Unreachable: The folder is not there, or a file cannot be read.
        """
        train, test, classes = self._read_labels()
        first, second = (tuple(np.bincount(labels, minlength=len(classes.names)).tolist()) for labels in (train, test))
        return Summary(classes.names, len(train), len(test), first, second, classes.notes)

    def load(self, preprocess: Preprocess) -> Dataset:
        """Return all images, resized.

        Raises:
            CompressError: As in `summary`; or they do not fit into memory.
            Unreachable: As in `summary`.
        """
        train, test, _ = self._read_labels()
        require_memory(len(train) + len(test), preprocess.height, preprocess.width, preprocess.depth, can_stream=False)
        splits = (
            Split(_resize(_read_images(self._find(role).images, len(labels)), preprocess, self._find(role).images), labels)
            for role, labels in (("train", train), ("test", test))
        )
        return Dataset(*splits)

    def _read_labels(self) -> tuple[NDArray[np.int64], NDArray[np.int64], Classes]:
        """Return the labels of both splits, [N] each, and their classes."""
        values = {}
        for role in SPLITS:
            found = self._find(role)
            values[role] = _read_idx(found.labels, _LABELS).tolist()
            with _open(found.images) as file:
                images = _read_header(file, found.images, _IMAGES)[0]
            if images != len(values[role]):
                raise CompressError(
                    f"{found.images}: has {images} images, and {found.labels.name} has {len(values[role])} labels"
                )
        where = str(self.path)
        classes = find_classes(where, "labels", values["train"], None)
        if self.names is not None:
            if len(self.names) != len(classes.names):
                raise CompressError(f"data.classes: has {len(self.names)} names, and {where} has {len(classes.names)} classes")
            classes = classes._replace(names=tuple(self.names))
        train, test = (label_rows(f"{where}: {role} split", "labels", values[role], classes) for role in SPLITS)
        return train, test, classes

    def _find(self, role: str) -> Files:
        """Return the files of a split.

        Raises:
            CompressError: One is missing, or there are several.
            Unreachable: The folder is not there.
        """
        if not self.path.is_dir():
            raise Unreachable(f"{self.path}: there is no such folder; give the one with the IDX files as data.path")
        known = [(path, match) for path in sorted(self.path.iterdir()) if (match := _NAME.fullmatch(path.name))]
        subsets = sorted({match["subset"] or "" for _, match in known})
        if self.subset is None and len(subsets) > 1:
            raise CompressError(f"{self.path}: holds several sets; name one as data.subset: {list_names(subsets)}")
        wanted = self.subset if self.subset is not None else (subsets or [""])[0]
        if known and wanted not in subsets:
            raise CompressError(f"data.subset: {self.path} has no files of {wanted!r}; there are: {list_names(subsets)}")
        return Files(*(self._choose(role, what, wanted, known) for what in ("images", "labels")))

    def _choose(self, role: str, what: str, subset: str, known: list[tuple[Path, re.Match[str]]]) -> Path:
        found = [
            path
            for path, match in known
            if (match["subset"] or "") == subset and match["split"] in SPLITS[role] and match["what"] == what
        ]
        if len(found) == 1:
            return found[0]
        usual = f"{SPLITS[role][0]}-{what}-idx{3 if what == 'images' else 1}-ubyte"
        if found:
            raise CompressError(f"{self.path}: has both {found[0].name} and {found[1].name}; remove one")
        raise CompressError(f"{self.path}: has no file {usual} or {usual}.gz")


def _open(path: Path) -> IO[bytes]:
    """Return a file, which is unpacked as it is read if it is packed.

    Raises:
        Unreachable: It cannot be read.
    """
    with open_file(path):  # which says why it cannot be read
        pass
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]  # of reading, it is one


def _read_header(file: IO[bytes], path: Path, magic: int) -> tuple[int, ...]:
    """Return the sizes that a header states.

    Raises:
        CompressError: It is no header of this kind, or the file is too small to hold so much.
    """
    dimensions = magic & 0xFF
    head = _read_exactly(file, path, 4 * (1 + dimensions))
    found, *sizes = struct.unpack(f">{1 + dimensions}I", head)
    if found != magic:
        kind = "images (0x0803)" if magic == _IMAGES else "labels (0x0801)"
        raise CompressError(f"{path}: begins with 0x{found:04x}, and not as IDX files of {kind} do; get it again")
    most = path.stat().st_size * (MOST_EXPANSION if path.suffix == ".gz" else 1)
    if 0 in sizes or int(np.prod(sizes, dtype=object)) > most or int(np.prod(sizes[1:], dtype=object)) > MAX_PIXELS:
        raise CompressError(f"{path}: states sizes {sizes}, which its {path.stat().st_size} bytes cannot hold; get it again")
    return tuple(sizes)


def _read_idx(path: Path, magic: int) -> NDArray[np.uint8]:
    """Return the content of a file, [N] or [N, H, W].

    Raises:
        CompressError: It holds more or less than its header says, or is damaged.
        Unreachable: It cannot be read.
    """
    with _open(path) as file:
        sizes = _read_header(file, path, magic)
        content = _read_exactly(file, path, int(np.prod(sizes)))
        if _read_some(file, path, 1):
            raise CompressError(f"{path}: holds more than the {sizes} of its header; get it again")
    return np.frombuffer(content, np.uint8).reshape(sizes)


def _read_exactly(file: IO[bytes], path: Path, count: int) -> bytes:
    content = _read_some(file, path, count)
    if len(content) != count:
        raise CompressError(f"{path}: ends after {len(content)} of {count} bytes; get it again")
    return content


def _read_some(file: IO[bytes], path: Path, count: int) -> bytes:
    try:
        return file.read(count)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CompressError(f"{path}: is damaged ({error}); get it again") from error
    except OSError as error:
        raise Unreachable(f"{path}: cannot be read ({error.strerror})") from error


def _read_images(path: Path, count: int) -> NDArray[np.uint8]:
    images = _read_idx(path, _IMAGES)
    assert len(images) == count  # noqa: S101 (compared with the labels before)
    return images


def _resize(images: NDArray[np.uint8], preprocess: Preprocess, path: Path) -> NDArray[np.uint8]:
    """Return images [N, H, W] as the networks see them, [N, h, w, C]."""
    made = np.empty((len(images), preprocess.height, preprocess.width, preprocess.depth), np.uint8)
    for row, image in enumerate(images):
        made[row] = decode(Image.fromarray(image), preprocess, f"{path}, image {row}")
    return made
