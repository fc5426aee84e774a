"""Decode pictures by all processors at once, into memory or once and for all into a cache on disk.

The cache has one folder for each data set in one geometry, named by the sha256 over all that decides its pixels: the files'
names and contents, the options that choose among them, size, channels, interpolation and levels, and what decodes. In it is one
`.npy` file per split, and a record with their checksums. The folder has its name only when it is whole; the checksums are
verified by every run that opens it, and what is damaged is decoded again. A lock lets one process decode.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import PIL
from filelock import FileLock
from numpy.typing import NDArray
from PIL import features
from pydantic import Field

from compress import records
from compress.data._disk_images import DiskImages, ImageFile
from compress.data._findings import SHOWN, Findings
from compress.data._prefetch import prefetch
from compress.data._source import Dataset, EncodedDataset, EncodedSplit, Split
from compress.errors import CompressError, Unreachable
from compress.events import Events, Task
from compress.geometry import place_picture
from compress.preprocess import Picture, decode, decode_picture
from compress.records import Document, Preprocess
from compress.system.files import hash_file, writable, write_whole
from compress.system.memory import require_memory
from compress.system.processors import count_processors
from compress.text import format_bytes

T = TypeVar("T")
R = TypeVar("R")
Named = tuple[str, bytes | Path | None]
"""What a picture is called, and its encoded bytes or its file."""

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
    left_out: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    """Rows of each split whose pictures cannot be read."""


class Opened(NamedTuple):
    """Files of decoded images."""

    files: Mapping[str, ImageFile]
    left_out: Mapping[str, Sequence[int]]
    """Rows of each split whose pictures cannot be read."""


def decode_to_memory(
    encoded: EncodedDataset, preprocess: Preprocess, events: Events | None = None, *, skip_unreadable: bool = False
) -> Dataset:
    """Return a data set as arrays.

    Args:
        encoded: The pictures.
        preprocess: Size, channels, interpolation and levels.
        events: Where progress goes.
        skip_unreadable: Leave out pictures that cannot be read, with their labels, and say which.

    Raises:
        CompressError: They do not fit; or pictures cannot be decoded, and the message names them; or they use less than half
            of 16 bits.
        Unreachable: Files cannot be read.
    """
    require_memory(_count_images(encoded), *_get_shape(preprocess), can_stream=True)
    events, findings = events or Events(), Findings()
    with events.task("decode images", _count_images(encoded)) as task:
        splits = [_decode_split(name, getattr(encoded, name), preprocess, findings, task) for name in Dataset._fields]
    _judge_findings(findings, preprocess, events, skip_unreadable=skip_unreadable)
    return Dataset(*splits)


def examine_pictures(
    encoded: EncodedDataset, preprocess: Preprocess, *, most_bytes: int, events: Events | None = None
) -> Findings:
    """Decode the pictures of a data set, or of a large one some that lie evenly over it, and keep none.

    Args:
        encoded: The pictures.
        preprocess: Size, channels, interpolation and levels.
        most_bytes: How many bytes of files are looked at, about.
        events: Where progress goes.

    Raises:
        CompressError: A data file is damaged.
    """
    sizes = [path.stat().st_size for path in encoded.files.values() if path.is_file()]
    step = max(1, -(-sum(sizes) // most_bytes))
    findings, total = Findings(), -(-_count_images(encoded) // step)
    with (events or Events()).task("look at the pictures", total) as task:
        for name in Dataset._fields:
            pictures = getattr(encoded, name)
            some = EncodedSplit(pictures.labels[::step], partial(_take_every, pictures, step))
            for images in _decode_in_order(name, some, preprocess, findings):
                task.advance(len(images))
    return findings


def _take_every(pictures: EncodedSplit, step: int) -> Iterator[Named]:
    return islice(pictures.each(), 0, None, step)


def _judge_findings(findings: Findings, preprocess: Preprocess, events: Events, *, skip_unreadable: bool) -> None:
    """Refuse what was found, or say what is left out.

    Raises:
        CompressError: Pictures cannot be read, or use a part of 16 bits.
        Unreachable: Files cannot be read.
    """
    if not skip_unreadable:
        findings.refuse_unreadable()
    findings.refuse_narrow_range(preprocess)
    for problem in findings.unreadable[:SHOWN]:
        events.say(f"data: left out: {problem}")
    if len(findings.unreadable) > SHOWN:
        events.say(f"data: left out: {len(findings.unreadable) - SHOWN} more")


def _decode_split(name: str, pictures: EncodedSplit, preprocess: Preprocess, findings: Findings, task: Task) -> Split:
    images = np.empty((len(pictures.labels), *_get_shape(preprocess)), np.uint8)
    begin = 0
    for some in _decode_in_order(name, pictures, preprocess, findings):
        images[begin : begin + len(some)] = some
        begin += len(some)
        task.advance(len(some))
    return Split(images[:begin], np.delete(pictures.labels, findings.left_out.get(name, [])))


def decode_to_disk(
    encoded: EncodedDataset,
    preprocess: Preprocess,
    folder: Path,
    events: Events | None = None,
    *,
    skip_unreadable: bool = False,
) -> Dataset:
    """Return a data set whose images lie in a folder of the cache, decoded now unless they are there.

    Args:
        encoded: The pictures.
        preprocess: Size, channels, interpolation and levels.
        folder: Of all decoded images; shared by all runs and processes.
        events: Where progress goes.
        skip_unreadable: Leave out pictures that cannot be read, with their labels, and say which.

    Raises:
        CompressError: Pictures cannot be decoded, and the message names them; or they use a part of 16 bits.
        Unreachable: Files cannot be read, the disk is full, or the folder cannot be written.
    """
    events = events or Events()
    key = _make_key(encoded, preprocess, events, skip_unreadable=skip_unreadable)
    home = folder / key
    opened = _open_verified(home, key, events)
    if opened is None:
        locks = folder / "locks"
        with writable(folder):
            locks.mkdir(parents=True, exist_ok=True)
            with FileLock(locks / key):
                opened = _open_verified(home, key, Events()) or _decode_to_folder(
                    encoded, preprocess, home, events, skip_unreadable=skip_unreadable
                )
    labels = {name: np.delete(getattr(encoded, name).labels, opened.left_out.get(name, [])) for name in Dataset._fields}
    return Dataset(*(Split(DiskImages(opened.files[name]), labels[name]) for name in Dataset._fields))


def _open_verified(home: Path, key: str, events: Events) -> Opened | None:
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
            return Opened({name: ImageFile(_get_path(home, name)) for name in known.shapes}, known.left_out)
    except CompressError:  # the record or a file is missing or unreadable
        pass
    events.warn(f"data: the decoded images in {home} are damaged; they are decoded again")
    events.emit("images_damaged", path=str(home))
    return None


def _decode_to_folder(
    encoded: EncodedDataset, preprocess: Preprocess, home: Path, events: Events, *, skip_unreadable: bool
) -> Opened:
    """Decode everything into a folder, whole or not at all; the caller holds its lock."""
    for left in (home, *home.parent.glob(f".{home.name}.*")):  # damaged, or of a process that was killed
        if left.is_dir():
            shutil.rmtree(left)
    _require_space(home.parent, _count_images(encoded) * int(np.prod(_get_shape(preprocess))))
    findings, shapes, sha256 = Findings(), {}, {}
    with write_whole(home) as temporary, events.task("decode images", _count_images(encoded)) as task:
        temporary.mkdir()
        for name in Dataset._fields:
            pictures, path = getattr(encoded, name), _get_path(temporary, name)
            whole = (len(pictures.labels), *_get_shape(preprocess))
            sha256[name] = _write(path, whole, _decode_in_order(name, pictures, preprocess, findings), task)
            shapes[name] = (whole[0] - len(findings.left_out.get(name, [])), *whole[1:])
            if shapes[name] != whole:
                sha256[name] = _shorten(path, shapes[name])
        _judge_findings(findings, preprocess, events, skip_unreadable=skip_unreadable)
        left_out = {name: tuple(rows) for name, rows in findings.left_out.items()}
        records.save(temporary / RECORD, Decoded(key=home.name, shapes=shapes, sha256=sha256, left_out=left_out))
    return Opened({name: ImageFile(_get_path(home, name)) for name in shapes}, left_out)


def _write(path: Path, shape: tuple[int, ...], images: Iterator[NDArray[np.uint8]], task: Task) -> str:
    """Write a file of images in order, so that a full disk is an error and not a crash, and return its checksum."""
    header = _make_header(shape)
    digest = hashlib.sha256(header)
    with path.open("wb") as file:
        file.write(header)
        for some in images:
            digest.update(some.data)
            file.write(some.data)
            task.advance(len(some))
    return digest.hexdigest()


def _make_header(shape: tuple[int, ...]) -> bytes:
    """Return the header of a file of images; it is as long for any number of them, since NumPy leaves room for growth."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue()


def _shorten(path: Path, shape: tuple[int, ...]) -> str:
    """Name the number of images that a file came to hold in its header, and return its checksum."""
    with path.open("r+b") as file:
        file.write(_make_header(shape))
    return hash_file(path)


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise Unreachable(
            f"{folder}: the decoded images need {format_bytes(needed)}, and {format_bytes(free)} of the disk is free; "
            "free space, choose another disk with --runs, or lower data.image_size"
        )


def _decode_in_order(
    name: str, pictures: EncodedSplit, preprocess: Preprocess, findings: Findings
) -> Iterator[NDArray[np.uint8]]:
    """Yield the pictures of a split that can be read, in order, decoded, some together, [n, H, W, C]; the rest is counted."""
    row = 0
    for some in decode_each(pictures.each(), preprocess):
        images = []
        for picture in some:
            if isinstance(picture, CompressError):
                findings.add_unreadable(name, row, picture)
            else:
                findings.add_picture(name, picture)
                images.append(picture.pixels)
            row += 1
        if images:
            yield np.stack(images)


def decode_each(pictures: Iterator[Named], preprocess: Preprocess) -> Iterator[list[Picture | CompressError]]:
    """Yield pictures in order, some at a time: each decoded, pixels [H, W, C], or why it is not."""

    def decode_some(some: list[Named]) -> list[Picture | CompressError]:
        return [_try_decode(where, picture, preprocess) for where, picture in some]

    workers = count_processors()
    yield from prefetch(_group_calls(decode_some, pictures), workers=workers, lead=2 * workers)


def _try_decode(where: str, picture: bytes | Path | None, preprocess: Preprocess) -> Picture | CompressError:
    try:
        return _decode_picture(where, picture, preprocess)
    except CompressError as error:
        return error


def _decode_picture(where: str, picture: bytes | Path | None, preprocess: Preprocess) -> Picture:
    if not isinstance(picture, bytes | Path):
        raise CompressError(f"{where}: holds no image bytes; write the images themselves into the file, not their paths")
    return decode_picture(picture, preprocess, where)


def _group_calls(function: Callable[[list[T]], R], items: Iterator[T]) -> Iterator[Callable[[], R]]:
    """Yield calls of a function on some of the items at a time."""
    while some := list(islice(items, TOGETHER)):
        yield partial(function, some)


def _make_key(encoded: EncodedDataset, preprocess: Preprocess, events: Events, *, skip_unreadable: bool) -> str:
    """Return the name of a folder: the sha256 over all that decides the pixels in it."""

    def hash_files(some: list[tuple[str, Path]]) -> list[tuple[str, str]]:
        return [(name, hash_file(path)) for name, path in some]

    workers = count_processors()
    files: list[tuple[str, str]] = []
    with events.task("read data files", len(encoded.files)) as task:
        for some in prefetch(_group_calls(hash_files, iter(sorted(encoded.files.items()))), workers=workers, lead=2 * workers):
            files += some
            task.advance(len(some))
    contract = preprocess.model_dump(mode="json", exclude={"mean", "std"})
    parts = [files, encoded.chosen, contract, skip_unreadable, _describe_decoder()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _describe_decoder() -> list[str | None]:
    """Return what decides the pixels of an encoded picture: our own source, Pillow, and the libraries that it decodes with."""
    libraries = [features.version(name) for name in ("jpg", "libjpeg_turbo", "zlib", "webp", "libtiff")]
    ours = [hash_file(Path(inspect.getfile(function))) for function in (decode, place_picture)]
    return [*ours, PIL.__version__, *libraries]


def _get_shape(preprocess: Preprocess) -> tuple[int, int, int]:
    return preprocess.height, preprocess.width, preprocess.depth


def _count_images(encoded: EncodedDataset) -> int:
    return len(encoded.train.labels) + len(encoded.test.labels)


def _get_path(home: Path, split: str) -> Path:
    return home / f"{split}.npy"
