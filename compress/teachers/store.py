"""The store of teacher outputs: one row for each image, on disk and memory-mapped.

One folder per signal, named by the sha256 over all that decides its values; in it one `.npy` file per view of the split, with
one row per image, and a record that is written after it. Every file has its final name only when it is whole, and its checksum
is verified when a process first opens it: what is damaged is computed anew, and what belongs to another teacher, transform or
data set has another name.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import psutil
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from compress import records
from compress.errors import CompressError
from compress.events import Events
from compress.recipe import TeacherOutputsSection
from compress.records import Document
from compress.system.files import hash_file, writable, write_whole
from compress.text import quantify

DTYPES: Mapping[str, np.dtype[Any]] = {"fp16": np.dtype(np.float16), "fp32": np.dtype(np.float32)}
NETWORK = frozenset({
    "nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "afpfs", "webdav", "davfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs",
    "glusterfs", "ocfs2", "orangefs", "fuse.sshfs", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse", "fuse.glusterfs",
    "fuse.ceph-fuse", "fuse.juicefs", "fuse.mount-s3", "fuse.davfs2",
})  # fmt: skip
"""File systems on which a mapped file can vanish or change under its reader."""


class ViewRecord(Document):
    """What is known of the outputs for one view; beside the file of outputs, and written after it."""

    key: str
    """Of the signal: outputs that were copied to another place are not those of that place."""
    view: int
    signal: str
    """Name of the signal, for people."""
    shape: tuple[int, ...]
    """[rows, ...]."""
    dtype: str
    sha256: str
    """Of the file of outputs."""
    max_abs_error: float
    """Largest difference that rounding to `dtype` made."""


class StoredSignal(NamedTuple):
    """A signal as the store knows it."""

    name: str
    key: str
    shape: tuple[int, ...]
    """Of the outputs for a whole view, [rows, ...]."""


class Store:
    """Teacher outputs on disk.

    Args:
        folder: Where they are; shared by all runs, students and processes.
        precision: Whether they are rounded to half precision.
        events: Where a damaged file is reported.
    """

    def __init__(self, folder: Path, *, precision: str, events: Events) -> None:
        self.folder, self._dtype, self._events = folder, DTYPES[precision], events
        self._open: dict[str, tuple[int, NDArray[Any]]] = {}  # one view of each signal: every mapped file holds a descriptor
        self._damaged: set[Path] = set()

    def find(self, signal: StoredSignal, view: int) -> NDArray[Any] | None:
        """Return the outputs for a view, [rows, ...], mapped read-only, or `None`; what is damaged is reported and not used."""
        opened, found = self._open.get(signal.key, (None, None))
        if opened != view:
            found = self._open_verified(signal, view)
            if found is None:
                return None
            self._open[signal.key] = view, found
        return found

    def _open_verified(self, signal: StoredSignal, view: int) -> NDArray[Any] | None:
        path = self._locate(signal, view)
        if not path.is_file() or not path.with_suffix(".json").is_file():
            return None
        record = self.read_record(signal, view)
        if record is not None and self._fits(record, signal, view) and hash_file(path) == record.sha256:
            outputs: NDArray[Any] = np.load(path, mmap_mode="r")
            if outputs.shape == signal.shape and outputs.dtype == self._dtype:
                return outputs
        if path not in self._damaged:
            self._damaged.add(path)
            self._events.warn(f"teacher_outputs: {path} is damaged; it is computed anew")
            self._events.emit("teacher_outputs_damaged", path=str(path))
        return None

    def read_record(self, signal: StoredSignal, view: int) -> ViewRecord | None:
        """Return what is known of the outputs for a view, unless the record is missing or unreadable."""
        try:
            return records.read(self._locate(signal, view).with_suffix(".json"), ViewRecord)
        except CompressError:
            return None

    def _fits(self, record: ViewRecord, signal: StoredSignal, view: int) -> bool:
        known = record.key, record.view, record.shape, record.dtype
        return known == (signal.key, view, signal.shape, self._dtype.name)

    def has(self, signal: StoredSignal, view: int) -> bool:
        """Return whether there are outputs for a view, without opening them."""
        path = self._locate(signal, view)
        return path.is_file() and path.with_suffix(".json").is_file()

    def write(self, signals: Sequence[StoredSignal], view: int, batches: Iterator[Sequence[Tensor]]) -> None:
        """Write the outputs for one view, all or none; the caller holds their locks.

        Args:
            signals: What is written.
            view: Which view.
            batches: For each batch, in the order of the rows, one tensor [B, ...] for each of `signals`.

        Raises:
            Unreachable: The disk is full or the folder cannot be written.
            CompressError: A number is not finite or beyond half precision.
        """
        with ExitStack() as stack:
            files = [stack.enter_context(self._open_writer(signal, view)) for signal in signals]
            with writable(self.folder):
                for tensors in batches:
                    for file, tensor in zip(files, tensors, strict=True):
                        file.add(tensor)
                found = [file.close() for file in files]
        for signal, (digest_of_file, error) in zip(signals, found, strict=True):
            path = self._locate(signal, view)
            record = ViewRecord(
                key=signal.key, view=view, signal=signal.name, shape=signal.shape, dtype=self._dtype.name,
                sha256=digest_of_file, max_abs_error=error,
            )  # fmt: skip
            records.save(path.with_suffix(".json"), record)
            self._damaged.discard(path)

    @contextmanager
    def _open_writer(self, signal: StoredSignal, view: int) -> Iterator[_Writer]:
        path = self._locate(signal, view)
        with writable(path):
            for left in path.parent.glob(f".{path.stem}.*.partial"):  # of a process that was killed: we hold the lock
                left.unlink()
        with write_whole(path) as temporary, temporary.open("wb") as file:
            yield _Writer(file, signal, self._dtype)

    @contextmanager
    def lock(self, signals: Iterable[StoredSignal]) -> Iterator[None]:
        """Let one process at a time compute these outputs; others wait and then find them."""
        locks = self.folder / "locks"
        with writable(locks):
            locks.mkdir(parents=True, exist_ok=True)
            with ExitStack() as stack:
                for key in sorted({signal.key for signal in signals}):
                    stack.enter_context(FileLock(locks / key))
                yield

    def _locate(self, signal: StoredSignal, view: int) -> Path:
        return self.folder / signal.key / f"view{view:04}-{self._dtype.name}.npy"


class _Writer:
    """One file of outputs while it grows; sequential writes, so that a full disk is an error and not a crash."""

    def __init__(self, file: BinaryIO, signal: StoredSignal, dtype: np.dtype[Any]) -> None:
        self._file, self._signal, self._dtype = file, signal, dtype
        self._digest, self._written, self._error = hashlib.sha256(), 0, 0.0
        header = io.BytesIO()
        described = {"descr": dtype.str, "fortran_order": False, "shape": signal.shape}
        np.lib.format.write_array_header_1_0(header, described)
        self._put(header.getvalue())

    def add(self, tensor: Tensor) -> None:
        """Write the outputs for the next images, [B, ...].

        Raises:
            CompressError: They have another shape than those before, are not finite, or too large for half precision.
        """
        exact = tensor.detach().float().cpu().numpy()
        if exact.shape[1:] != self._signal.shape[1:]:
            raise CompressError(
                f"teacher_outputs: {self._signal.name} is {list(exact.shape[1:])} for some images and "
                f"{list(self._signal.shape[1:])} for others; set teacher_outputs.store: off"
            )
        with np.errstate(over="ignore"):
            kept = np.ascontiguousarray(exact, self._dtype)
        if not np.isfinite(kept).all():
            self._refuse(exact)
        self._error = max(self._error, float(np.abs(exact - kept.astype(np.float32)).max(initial=0)))
        self._put(kept.data.cast("B"))
        self._written += len(kept)

    def _refuse(self, exact: NDArray[np.float32]) -> None:
        if not np.isfinite(exact).all():
            raise CompressError(
                f"teacher_outputs: {self._signal.name} is not finite for some images; check the teacher's weights"
            )
        raise CompressError(
            f"teacher_outputs: {self._signal.name} reaches {float(np.abs(exact).max()):g}, more than {self._dtype.name} holds; "
            "set teacher_outputs.precision: fp32"
        )

    def _put(self, data: bytes | memoryview) -> None:
        self._digest.update(data)
        self._file.write(data)

    def close(self) -> tuple[str, float]:
        """Return the checksum of the whole file, and the largest error of rounding.

        Raises:
            CompressError: There were not as many outputs as images.
        """
        self._file.close()
        if self._written != self._signal.shape[0]:
            raise CompressError(
                f"teacher_outputs: {self._signal.name}: {self._written} outputs for {self._signal.shape[0]} images; report this"
            )
        return self._digest.hexdigest(), self._error


def count_bytes_per_image(outputs: Sequence[Tensor], section: TeacherOutputsSection) -> int:
    """Return what one view of one image takes on disk, given outputs [B, ...] for a few images."""
    return sum(output[0].numel() for output in outputs) * DTYPES[section.precision].itemsize


def find_obstacle(folder: Path, section: TeacherOutputsSection, *, bytes_per_view: int, views: int) -> str:
    """Return why the outputs for so many views cannot be kept in a folder, or nothing."""
    where, size = find_file_system(folder.parent), bytes_per_view * views / 2**30
    if where in NETWORK:
        return f"{folder} is on {where}, where a mapped file can change under its reader; put --runs on a local disk"
    if size > section.max_gib:
        limit = f"teacher_outputs.max_gib {section.max_gib:g}"
        return f"{quantify(views, 'view')} would take {size:.2g} GiB, more than {limit}; raise it"
    return ""


def find_file_system(folder: Path) -> str:
    """Return the type of the file system that a folder is on, as the operating system calls it."""
    where = folder.resolve()
    mounts = [part for part in psutil.disk_partitions(all=True) if where.is_relative_to(part.mountpoint)]
    mounts.reverse()  # of several mounts on one place, such as an automounter's, the last is what one sees
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype.lower() if mounts else ""
