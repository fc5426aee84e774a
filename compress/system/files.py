"""Write files whole or not at all, turn refusals of the file system into messages, compute checksums."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compress.errors import Unreachable


@contextmanager
def write_whole(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path` that takes its place when the block ends well, and vanishes when it does not.

    The path may become a file or a folder. A folder that is already there is moved aside, replaced, and then removed: no
    system call exchanges folders everywhere, so between two renames there is neither, but nothing is ever half there.

    Args:
        path: File or folder to write.
        durable: Also survive a loss of power: the content is on the disk before it gets its name, and the name before this
            returns. Without it a killed process leaves nothing half-written, but a power cut may leave an empty file.

    Raises:
        Unreachable: The disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    aside = temporary.with_suffix(".old")
    with writable(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if durable:
                _sync(temporary)
            if temporary.is_dir() and path.is_dir():
                path.replace(aside)
            temporary.replace(path)
            if durable:
                _sync_folder(path.parent)
        finally:
            if aside.exists() and not path.exists():
                aside.replace(path)
            for left in (temporary, aside):
                if left.is_dir():
                    shutil.rmtree(left)
                left.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Force a file, or a folder with all that is in it, onto the disk."""
    if path.is_dir():
        for inner in path.iterdir():
            _sync(inner)
        _sync_folder(path)
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Force the names in a folder onto the disk, where the system can open a folder."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


REFUSALS = frozenset({
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
    errno.ENAMETOOLONG,
})  # fmt: skip
"""Errors by which a file system refuses to write; any other is ours, but for one.

Some file systems, such as /proc, say ENOENT of whatever should be made in them. So does every file of ours that is missing,
hence that error is a refusal only where nothing can be made.
"""


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turn a file system's refusal to write at `path` into a message.

    Raises:
        Unreachable: The disk is full or the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS and not (error.errno == errno.ENOENT and _nothing_can_be_made(path)):
            raise
        raise Unreachable(f"{path}: cannot be written ({error.strerror}); free space or choose another folder") from error


def _nothing_can_be_made(path: Path) -> bool:
    """Return whether the nearest folder above a path that is there takes no new file."""
    folder = next((place for place in (path, *path.parents) if place.is_dir()), None)
    try:
        with tempfile.TemporaryFile(dir=folder):
            return False
    except OSError:
        return True


def hash_file(path: Path) -> str:
    """Return the checksum of a file.

    Raises:
        Unreachable: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Unreachable(f"{path}: cannot be read ({error.strerror})") from error
