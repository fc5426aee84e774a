"""Write files whole or not at all, read no more than can be meant, turn refusals of the file system into messages."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from compress.errors import CompressError, Unreachable, Unwritable, explain_refusal
from compress.system.leftovers import ASIDE, name_beside, remove, remove_leftovers
from compress.text import format_bytes


def resolve_path(base: Path, text: str) -> Path:
    """Return the place that a path in a recipe or a command names; it need not exist.

    Args:
        base: Folder at which a relative path starts.
        text: A path, in which `~` and variables such as `$HOME` stand for folders unless something has that very name.
    """
    plain = base / text
    if os.path.exists(plain):  # noqa: PTH110 (says no of names that are too long, where pathlib raises)
        return plain
    return base / os.path.expandvars(os.path.expanduser(text))  # noqa: PTH111 (leaves what it cannot expand)


@contextmanager
def write_whole(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path` that takes its place when the block ends well, and vanishes when it does not.

    The path may become a file or a folder. A folder that is already there is moved aside, replaced, and then removed: no
    system call exchanges folders everywhere, so between two renames there is neither, but nothing is ever half there. What
    processes left that were killed at this is removed first.

    Args:
        path: File or folder to write.
        durable: Also survive a loss of power: the content is on the disk before it gets its name, and the name before this
            returns. Without it a killed process leaves nothing half-written, but a power cut may leave an empty file.

    Raises:
        Unwritable: The disk is full or the folder cannot be written.
    """
    temporary = name_beside(path)
    aside = temporary.with_suffix(ASIDE)
    with writable(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path.parent)
            yield temporary
            if durable:
                sync(temporary)
            if temporary.is_dir() and path.is_dir():
                path.replace(aside)
            temporary.replace(path)
            if durable:
                sync_folder(path.parent)
        finally:
            if aside.exists() and not path.exists():
                aside.replace(path)
            for left in (temporary, aside):
                remove(left)


def sync(path: Path) -> None:
    """Force a file, or a folder with all that is in it, onto the disk."""
    if path.is_dir():
        for inner in path.iterdir():
            sync(inner)
        sync_folder(path)
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
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
        Unwritable: The disk is full or the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS and not (error.errno == errno.ENOENT and _nothing_can_be_made(path)):
            raise
        raise Unwritable(explain_refusal(_find_refused(path, error), error)) from error


def _find_refused(path: Path, error: OSError) -> Path:
    """Return what a file system refuses to write: the path, unless the error names a file that lies elsewhere."""
    if not isinstance(error.filename, str | Path):
        return path
    named = Path(error.filename)
    return path if named.absolute().is_relative_to(path.parent.absolute()) else named


def _nothing_can_be_made(path: Path) -> bool:
    """Return whether the nearest folder above a path that is there takes no new file."""
    folder = next((place for place in (path, *path.parents) if place.is_dir()), None)
    try:
        with tempfile.TemporaryFile(dir=folder):
            return False
    except OSError:
        return True


@contextmanager
def open_file(path: Path) -> Iterator[BufferedReader]:
    """Open a file that somebody named, for reading; a device, which never ends, or a pipe, which may never begin, is refused.

    Raises:
        Unreachable: The file cannot be read, or is a folder.
        CompressError: It is no file.
    """
    try:
        _require_file(path, path.stat().st_mode)
        with os.fdopen(os.open(path, _READ), "rb") as file:
            _require_file(path, os.fstat(file.fileno()).st_mode)
            yield file
    except OSError as error:
        raise Unreachable(f"{path}: cannot be read ({error.strerror})") from error


_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""How to open a path that may have become a pipe since it was looked at."""
_KINDS = {
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket",
}  # fmt: skip


def _require_file(path: Path, mode: int) -> None:
    if kind := _KINDS.get(stat.S_IFMT(mode)):
        raise CompressError(f"{path}: is {kind}, not a file; write what it gives to a file, and give that")


_MORE_BYTES = 1 << 20


def read_bounded(path: Path, *, limit_bytes: int, what: str) -> bytes:
    """Return the content of a file that somebody named, if it is no larger than such a file can be.

    Args:
        path: The file.
        limit_bytes: The most it may hold.
        what: What it should be, for the message, such as `a recipe`.

    Raises:
        Unreachable: The file cannot be read, or is a folder.
        CompressError: It is no file, or larger.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(size + 1) if size <= limit_bytes else b""  # reading takes room for all that is asked for
        while size < len(content) <= limit_bytes and (more := file.read(_MORE_BYTES)):  # it grows, or says no size
            content += more
    if max(size, len(content)) > limit_bytes:
        held = format_bytes(max(size, len(content)))
        raise CompressError(f"{path}: holds {held}, and {what} has at most {format_bytes(limit_bytes)}; give the right file")
    return content


def hash_file(path: Path) -> str:
    """Return the checksum of a file.

    Raises:
        Unreachable: The file cannot be read.
        CompressError: It is no file but a device or a pipe.
    """
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
