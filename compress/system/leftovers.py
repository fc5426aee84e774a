"""Name temporary files and folders by the process that owns them, and remove those whose owner was killed.

A process that is killed (SIGKILL, a power cut) cannot tidy up. What it leaves carries its owner in the name: a token of the
machine, the process id, and when that process started, for ids are used again. Of this machine it is removed as soon as the
owner is gone; of another one, whose processes nobody here can see, once nothing in it has changed for a day.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from compress.errors import Unwritable

TEMPORARY, ASIDE = ".partial", ".old"
"""Ends of what is being written, and of what was moved aside to be replaced."""
PREFIX = "edge-compress-"
"""Of our folders in the system's temporary folder."""

_MARK = r"(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-(?P<start>\d+)-[0-9a-f]{8}"
_BESIDE = re.compile(rf"\.(?P<name>.+)\.{_MARK}(?P<end>\{TEMPORARY}|\{ASIDE})", re.DOTALL)
_IN_TEMPORARY = re.compile(rf"{PREFIX}{_MARK}.*")
_NAME_BYTES = 180
"""Of a name of at most 255 bytes, what is left for the name of the file itself."""
_FOREIGN_SECONDS = 24 * 3600.0


def name_beside(path: Path) -> Path:
    """Return a path for what will become `path`, beside it; its name is hidden and says whose it is."""
    name = path.name
    while len(os.fsencode(name)) > _NAME_BYTES:
        name = name[:-1]
    return path.with_name(f".{name}.{_make_mark()}{TEMPORARY}")


def remove_leftovers(folder: Path, *, recursive: bool = False) -> None:
    """Remove from a folder what killed processes left there; a folder that one had just moved aside gets its name back.

    What cannot be removed stays, for example another user's.

    Args:
        folder: Where to look; it need not be there.
        recursive: Also look into the folders below.
    """
    try:
        entries = list(os.scandir(folder))
    except OSError:  # not there, or not ours to read
        return
    for entry in entries:
        found = _BESIDE.fullmatch(entry.name)
        if found is None:
            if recursive and entry.is_dir(follow_symlinks=False):
                remove_leftovers(Path(entry), recursive=True)
        elif _is_abandoned(found, Path(entry)):
            original = folder / found["name"]
            if found["end"] == ASIDE and not os.path.lexists(original):  # killed between two renames
                with suppress(OSError):
                    Path(entry).replace(original)
            else:
                remove(Path(entry))


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there and can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


@contextmanager
def make_temporary_folder() -> Iterator[Path]:
    """Give a folder in the system's temporary folder that vanishes afterwards; first remove those of killed processes.

    Raises:
        Unwritable: There is no room for it.
    """
    try:
        _remove_temporary_folders(Path(tempfile.gettempdir()))
        folder = tempfile.TemporaryDirectory(prefix=f"{PREFIX}{_make_mark()}-")
    except OSError as error:
        where = error.filename or "the temporary folder"
        raise Unwritable(
            f"{where}: cannot be written ({error.strerror}); free space, or set TMPDIR to another folder"
        ) from error
    with folder as name:
        yield Path(name)


def _remove_temporary_folders(place: Path) -> None:
    for path in place.glob(f"{PREFIX}*"):
        found = _IN_TEMPORARY.fullmatch(path.name)
        if found is not None and not path.is_symlink() and _is_abandoned(found, path):
            remove(path)


def _make_mark() -> str:
    return f"{_identify_machine()}-{os.getpid()}-{_read_start(os.getpid())}-{secrets.token_hex(4)}"


@cache
def _identify_machine() -> str:
    """Return a token of all that shares process ids with us: the machine, and in a container the container."""
    namespace = Path("/proc/self/ns/pid")
    shared = namespace.readlink() if namespace.is_symlink() else ""
    return hashlib.sha256(f"{platform.node()} {shared}".encode()).hexdigest()[:8]


def _read_start(process: int) -> int | None:
    """Return when a process started, in the system's own unit, or nothing if there is none."""
    try:
        state, *rest = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:  # no such process, or no Linux
        pass
    else:  # ticks since the system started, which a clock that is set does not move
        return None if state in "ZX" else int(rest[18])
    import psutil

    try:
        return int(psutil.Process(process).create_time())
    except psutil.Error:
        return None


def _is_abandoned(mark: re.Match[str], path: Path) -> bool:
    if mark["machine"] == _identify_machine():
        return _read_start(int(mark["process"])) != int(mark["start"])
    return time.time() - _find_last_change(path) > _FOREIGN_SECONDS


def _find_last_change(path: Path) -> float:
    changes = [0.0]
    for place in (path, *path.rglob("*")):
        with suppress(OSError):
            changes.append(place.lstat().st_mtime)
    return max(changes)
