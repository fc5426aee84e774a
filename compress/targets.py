"""The target store: what frozen teachers say of each image, kept on disk and memory-mapped.

One folder per signal, named by the sha256 over all that decides its values; in it one `.npy` file per view of the split, with
one row per image, and a record that is written after it. Every file has its final name only when it is whole, and its checksum
is verified when a process first opens it: what is damaged is made anew, and what belongs to another teacher, transform or data
set has another name.
"""

from __future__ import annotations

import hashlib
import inspect
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import psutil
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor, nn

from compress import records
from compress.errors import CompressError
from compress.events import Events
from compress.files import sha256_of, whole, writable
from compress.records import Document

DTYPES: Mapping[str, np.dtype[Any]] = {"fp16": np.dtype(np.float16), "fp32": np.dtype(np.float32)}
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "fuse.sshfs", "fuse.s3fs"})
"""File systems on which a mapped file can vanish or change under its reader."""


class View(Document):
    """What is known of the answers to one view."""

    signal: str
    """Whose answer it is, for people."""
    rows: int
    shape: tuple[int, ...]
    """Of one answer."""
    dtype: str
    sha256: str
    """Of the file of answers."""
    max_abs_error: float
    """Largest difference that rounding to `dtype` made."""


class Answer(NamedTuple):
    """A signal as the store knows it."""

    name: str
    key: str


class Store:
    """Answers on disk.

    Args:
        folder: Where they are; shared by all runs, students and processes.
        precision: Whether they are rounded to half precision.
        events: Where a damaged file is reported.
    """

    def __init__(self, folder: Path, *, precision: str, events: Events) -> None:
        self.folder, self._dtype, self._events = folder, DTYPES[precision], events
        self._open: dict[tuple[str, int], NDArray[Any]] = {}
        self.views: dict[tuple[str, int], View] = {}
        """Of all that was opened."""

    def find(self, answer: Answer, view: int) -> NDArray[Any] | None:
        """Return the answers to a view, [rows, ...], mapped read-only, or `None`; damaged ones are removed and reported."""
        place = (answer.key, view)
        if place not in self._open:
            path = self._path(answer, view)
            record = _record(path)
            if not path.is_file() or not path.with_suffix(".json").is_file():
                return None
            if record is None or sha256_of(path) != record.sha256:
                self._events.say(f"targets: {path} is damaged; it is made anew")
                self._events.emit("targets_damaged", path=str(path))
                with writable(path):
                    path.with_suffix(".json").unlink(missing_ok=True)
                    path.unlink(missing_ok=True)
                return None
            self._open[place] = np.load(path, mmap_mode="r")
            self.views[place] = record
        return self._open[place]

    def make(self, answers: Sequence[Answer], view: int, *, rows: int, batches: Iterator[Sequence[Tensor]]) -> None:
        """Write the answers to one view, all or none.

        Args:
            answers: What is written.
            view: Which view.
            rows: Images of the split.
            batches: For each batch, in the order of the rows, one tensor [B, ...] for each of `answers`.

        Raises:
            Unreachable: The disk is full or the folder cannot be written.
            CompressError: A number is beyond half precision.
        """
        with ExitStack() as stack:
            files = [
                _Writer(stack.enter_context(whole(self._path(answer, view))), answer, self._dtype, rows) for answer in answers
            ]
            with writable(self.folder):
                for tensors in batches:
                    for file, tensor in zip(files, tensors, strict=True):
                        file.add(tensor)
                found = [file.close() for file in files]
        for answer, record in zip(answers, found, strict=True):
            records.save(self._path(answer, view).with_suffix(".json"), record)

    @contextmanager
    def locked(self, answers: Iterable[Answer]) -> Iterator[None]:
        """Let one process at a time make these answers; others wait and then find them."""
        locks = self.folder / "locks"
        with writable(locks):
            locks.mkdir(parents=True, exist_ok=True)
            with ExitStack() as stack:
                for key in sorted({answer.key for answer in answers}):
                    stack.enter_context(FileLock(locks / key))
                yield

    def _path(self, answer: Answer, view: int) -> Path:
        return self.folder / answer.key / f"view{view:04}-{self._dtype.name}.npy"


class _Writer:
    """One file of answers while it grows; sequential writes, so that a full disk is an error and not a crash."""

    def __init__(self, path: Path, answer: Answer, dtype: np.dtype[Any], rows: int) -> None:
        self._answer, self._dtype, self._rows = answer, dtype, rows
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file, self._digest = path.open("wb"), hashlib.sha256()
        self._shape: tuple[int, ...] = ()
        self._written, self._error = 0, 0.0

    def add(self, tensor: Tensor) -> None:
        exact = tensor.detach().float().cpu().numpy()
        if not self._written:
            self._shape = exact.shape[1:]
            header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._rows, *self._shape)}
            text = io.BytesIO()
            np.lib.format.write_array_header_1_0(text, header)
            self._put(text.getvalue())
        with np.errstate(over="ignore"):
            kept = np.ascontiguousarray(exact, self._dtype)
        if not np.isfinite(kept).all():
            largest = float(np.abs(exact).max())
            raise CompressError(
                f"targets: {self._answer.name} reaches {largest:g}, which {self._dtype.name} does not hold; "
                "set targets.precision: fp32, or check the teacher if that is not finite"
            )
        self._error = max(self._error, float(np.abs(exact - kept.astype(np.float32)).max(initial=0)))
        self._put(kept.data.cast("B"))
        self._written += len(kept)

    def _put(self, data: bytes | memoryview) -> None:
        self._digest.update(data)
        self._file.write(data)

    def close(self) -> View:
        self._file.close()
        if self._written != self._rows:
            raise CompressError(f"targets: {self._answer.name}: {self._written} answers for {self._rows} images")
        return View(
            signal=self._answer.name,
            rows=self._rows,
            shape=self._shape,
            dtype=self._dtype.name,
            sha256=self._digest.hexdigest(),
            max_abs_error=self._error,
        )


def _record(path: Path) -> View | None:
    """Return the record of a file of answers, unless it is missing or unreadable."""
    try:
        return records.read(path.with_suffix(".json"), View)
    except CompressError:
        return None


def digest(module: nn.Module) -> str:
    """Return the sha256 over weights, structure and source of a module: equal only where its answers are."""
    total = hashlib.sha256(repr(module).encode())
    for source in sorted({_source(cast("Any", type(part))) for part in module.modules()}):
        total.update(source.encode())
    for name, value in module.state_dict().items():
        total.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        total.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data if value.numel() else b"")
    return total.hexdigest()


@cache
def _source(kind: Any) -> str:
    """Return the source of a class outside torch, whose version is part of every key."""
    if kind.__module__.startswith("torch."):
        return f"{kind.__module__}.{kind.__qualname__}"
    try:
        path = inspect.getsourcefile(kind)
    except TypeError:  # made in a notebook or at a prompt: its name, structure and weights must do
        path = None
    return f"{kind.__module__}.{kind.__qualname__} {sha256_of(Path(path)) if path and Path(path).is_file() else ''}"


def file_system(folder: Path) -> str:
    """Return the type of the file system that a folder is on, as the operating system calls it."""
    where = folder.resolve()
    mounts = [part for part in psutil.disk_partitions(all=True) if where.is_relative_to(part.mountpoint)]
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype.lower() if mounts else ""
