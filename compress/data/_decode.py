"""Decode pictures by all processors at once, into memory or once and for all into a cache on disk.

The cache has one folder for each data set in one geometry, named by the sha256 over all that decides its pixels: the files'
names and contents, the options that choose among them, size, channels and interpolation, and what decodes. In it is one
`.npy` file per split, and a record with their checksums. The folder has its name only when it is whole; the checksums are
verified by every run that opens it, and what is damaged is decoded again. A lock lets one process decode.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL
from filelock import FileLock
from numpy.typing import NDArray
from PIL import features

from compress import records
from compress.data._disk_images import DiskImages, ImageFile
from compress.data._prefetch import prefetch
from compress.data._source import Dataset, EncodedDataset, EncodedSplit, Split
from compress.errors import CompressError, Unreachable
from compress.events import Events, Task
from compress.preprocess import decode
from compress.records import Document, Preprocess
from compress.system.files import hash_file, writable, write_whole
from compress.system.memory import require_memory
from compress.system.processors import count_processors
from compress.text import format_bytes

T = TypeVar("T")
R = TypeVar("R")

TOGETHER = 16
"""Pictures that one thread takes at a time: few enough to hold, enough that handing them over costs nothing."""
RECORD = "images.json"


class Decoded(Document):
    """Record of a folder of decoded images; written after them."""

    key: str
    """Of the folder: images that were copied to another place are not those of that place."""
    shapes: dict[str, tuple[int, ...]]
    """[N, H, W, C] of each split."""
    sha256: dict[str, str]
    """Of each split's file."""


def decode_to_memory(encoded: EncodedDataset, preprocess: Preprocess, events: Events | None = None) -> Dataset:
    """Return a data set as arrays.

    Raises:
        CompressError: They do not fit; or a picture cannot be decoded, and the message names it.
        Unreachable: A file cannot be read.
    """
    require_memory(_count_images(encoded), *_get_shape(preprocess), can_stream=True)
    with (events or Events()).task("decode images", _count_images(encoded)) as task:
        return Dataset(*(_decode_split(getattr(encoded, name), preprocess, task) for name in Dataset._fields))


def _decode_split(pictures: EncodedSplit, preprocess: Preprocess, task: Task) -> Split:
    images = np.empty((len(pictures.labels), *_get_shape(preprocess)), np.uint8)
    begin = 0
    for some in _decode_in_order(pictures, preprocess):
        images[begin : begin + len(some)] = some
        begin += len(some)
        task.advance(len(some))
    return Split(images, pictures.labels)


def decode_to_disk(encoded: EncodedDataset, preprocess: Preprocess, folder: Path, events: Events | None = None) -> Dataset:
    """Return a data set whose images lie in a folder of the cache, decoded now unless they are there.

    Args:
        encoded: The pictures.
        preprocess: Size, channels and interpolation.
        folder: Of all decoded images; shared by all runs and processes.
        events: Where progress goes.

    Raises:
        CompressError: A picture cannot be decoded; the message names it.
        Unreachable: A file cannot be read, the disk is full, or the folder cannot be written.
    """
    events = events or Events()
    key = _make_key(encoded, preprocess, events)
    home = folder / key
    files = _open_verified(home, key, events)
    if files is None:
        locks = folder / "locks"
        with writable(folder):
            locks.mkdir(parents=True, exist_ok=True)
            with FileLock(locks / key):
                files = _open_verified(home, key, Events()) or _decode_to_folder(encoded, preprocess, home, events)
    return Dataset(*(Split(DiskImages(files[name]), getattr(encoded, name).labels) for name in Dataset._fields))


def _open_verified(home: Path, key: str, events: Events) -> Mapping[str, ImageFile] | None:
    """Return the files of a whole folder, or nothing; what is damaged is reported."""
    if not home.is_dir():
        return None
    try:
        known = records.read(home / RECORD, Decoded)
        with events.task("verify decoded images", len(known.sha256)) as task:
            right = known.key == key
            for name, sha256 in known.sha256.items():
                right = right and hash_file(_get_path(home, name)) == sha256
                task.advance()
        if right:
            return {name: ImageFile(_get_path(home, name)) for name in known.shapes}
    except CompressError:  # the record or a file is missing or unreadable
        pass
    events.say(f"data: the decoded images in {home} are damaged; they are decoded again")
    events.emit("images_damaged", path=str(home))
    return None


def _decode_to_folder(encoded: EncodedDataset, preprocess: Preprocess, home: Path, events: Events) -> Mapping[str, ImageFile]:
    """Decode everything into a folder, whole or not at all; the caller holds its lock."""
    for left in (home, *home.parent.glob(f".{home.name}.*")):  # damaged, or of a process that was killed
        if left.is_dir():
            shutil.rmtree(left)
    _require_space(home.parent, _count_images(encoded) * int(np.prod(_get_shape(preprocess))))
    with write_whole(home) as temporary, events.task("decode images", _count_images(encoded)) as task:
        temporary.mkdir()
        splits = {name: getattr(encoded, name) for name in Dataset._fields}
        shapes = {name: (len(pictures.labels), *_get_shape(preprocess)) for name, pictures in splits.items()}
        sha256 = {
            name: _write(_get_path(temporary, name), shapes[name], _decode_in_order(pictures, preprocess), task)
            for name, pictures in splits.items()
        }
        records.save(temporary / RECORD, Decoded(key=home.name, shapes=shapes, sha256=sha256))
    return {name: ImageFile(_get_path(home, name)) for name in shapes}


def _write(path: Path, shape: tuple[int, ...], images: Iterator[NDArray[np.uint8]], task: Task) -> str:
    """Write a file of images in order, so that a full disk is an error and not a crash, and return its checksum."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    digest = hashlib.sha256(header.getvalue())
    with path.open("wb") as file:
        file.write(header.getvalue())
        for some in images:
            digest.update(some.data)
            file.write(some.data)
            task.advance(len(some))
    return digest.hexdigest()


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise Unreachable(
            f"{folder}: the decoded images need {format_bytes(needed)}, and {format_bytes(free)} of the disk is free; "
            "free space, choose another disk with --runs, or lower data.image_size"
        )


def _decode_in_order(pictures: EncodedSplit, preprocess: Preprocess) -> Iterator[NDArray[np.uint8]]:
    """Yield the pictures in order, decoded, some at a time, [n, H, W, C]."""

    def stack(some: list[tuple[str, bytes | Path | None]]) -> NDArray[np.uint8]:
        return np.stack([_decode_picture(where, picture, preprocess) for where, picture in some])

    workers = count_processors()
    yield from prefetch(_group_calls(stack, pictures.each()), workers=workers, lead=2 * workers)


def _decode_picture(where: str, picture: bytes | Path | None, preprocess: Preprocess) -> NDArray[np.uint8]:
    if not isinstance(picture, bytes | Path):
        raise CompressError(f"{where}: holds no image bytes; write the images themselves into the file, not their paths")
    return decode(picture, preprocess, where)


def _group_calls(function: Callable[[list[T]], R], items: Iterator[T]) -> Iterator[Callable[[], R]]:
    """Yield calls of a function on some of the items at a time."""
    while some := list(islice(items, TOGETHER)):
        yield partial(function, some)


def _make_key(encoded: EncodedDataset, preprocess: Preprocess, events: Events) -> str:
    """Return the name of a folder: the sha256 over all that decides the pixels in it."""

    def hash_files(some: list[tuple[str, Path]]) -> list[tuple[str, str]]:
        return [(name, hash_file(path)) for name, path in some]

    workers = count_processors()
    files: list[tuple[str, str]] = []
    with events.task("read data files", len(encoded.files)) as task:
        for some in prefetch(_group_calls(hash_files, iter(sorted(encoded.files.items()))), workers=workers, lead=2 * workers):
            files += some
            task.advance(len(some))
    parts = [files, encoded.chosen, _get_shape(preprocess), preprocess.channels, preprocess.interpolation, _describe_decoder()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _describe_decoder() -> list[str | None]:
    """Return what decides the pixels of an encoded picture: our own source, Pillow, and the libraries that it decodes with."""
    libraries = [features.version(name) for name in ("jpg", "libjpeg_turbo", "zlib", "webp", "libtiff")]
    return [hash_file(Path(inspect.getfile(decode))), PIL.__version__, *libraries]


def _get_shape(preprocess: Preprocess) -> tuple[int, int, int]:
    return preprocess.height, preprocess.width, preprocess.depth


def _count_images(encoded: EncodedDataset) -> int:
    return len(encoded.train.labels) + len(encoded.test.labels)


def _get_path(home: Path, split: str) -> Path:
    return home / f"{split}.npy"
