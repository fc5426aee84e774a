"""Images in a file, read row by row, in place of an array that would not fit into memory.

Rows are read with `pread` and not through a mapped file: what goes wrong with a disk is then an error that can be told, where a
mapped file would end the process; it may be a disk of the network; and memory holds no more than was asked for.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.errors import Unreachable
from compress.preprocess import iterate_chunks


class ImageFile:
    """An open `.npy` file of images.

    Args:
        path: The file: uint8 [N, H, W, C] in the order of C, whose checksum is known to be right.

    Raises:
        Unreachable: It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        self.shape: tuple[int, int, int, int] = mapped.shape
        self._offset, self._row_bytes = mapped.offset, mapped[0].nbytes
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise Unreachable(f"{path}: cannot be read ({error.strerror})") from error
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, row: int) -> NDArray[np.uint8]:
        """Return one image, [H, W, C]; any number of threads may read.

        Raises:
            Unreachable: The disk fails, or the file has become shorter since it was opened.
        """
        try:
            found = os.pread(self._descriptor, self._row_bytes, self._offset + row * self._row_bytes)
        except OSError as error:
            raise Unreachable(f"{self.path}: image {row} cannot be read ({error.strerror}); check the disk") from error
        if len(found) != self._row_bytes:
            raise Unreachable(f"{self.path}: was cut off while it was in use, at image {row}; repeat the command")
        return np.frombuffer(found, np.uint8).reshape(self.shape[1:])


class DiskImages:
    """Some rows of a file of images. Indexing reads: `images[3:7]` is an array, and `only` chooses without reading.

    Args:
        file: The file.
        rows: Which of its images these are, in order; default: all.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, file: ImageFile, rows: NDArray[np.int64] | None = None) -> None:
        self._file = file
        self._rows = np.arange(file.shape[0]) if rows is None else rows

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, H, W, C]."""
        return (len(self._rows), *self._file.shape[1:])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, which: int | slice | NDArray[np.integer], /) -> NDArray[np.uint8]:
        rows = self._rows[which]
        if rows.ndim == 0:
            return self._file.read(int(rows))
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for place, row in zip(images, rows.tolist(), strict=True):
            place[...] = self._file.read(row)
        return images

    def transpose(self, *axes: int) -> NDArray[np.uint8]:
        """Return all images, in memory, with the axes of [N, H, W, C] in another order."""
        return self[:].transpose(axes)

    def select(self, rows: NDArray[np.integer]) -> DiskImages:
        """Return the images of some rows [n], [n, H, W, C]; none is read."""
        return DiskImages(self._file, self._rows[rows])

    def join(self, other: DiskImages) -> DiskImages:
        """Return these images and others of the same file behind them, [n + m, H, W, C]; none is read.

        Raises:
            ValueError: The others are of another file.
        """
        if other._file is not self._file:
            raise ValueError(f"{other._file.path} is not {self._file.path}")
        return DiskImages(self._file, np.concatenate([self._rows, other._rows]))

    @cached_property
    def sha256(self) -> str:
        """The sha256 of the shape and all bytes."""
        digest = hashlib.sha256(repr(self.shape).encode())
        for images in iterate_chunks(self):
            digest.update(images.data)
        return digest.hexdigest()
