"""The stage cache: results of stages, found again by a key of all that decides them.

A stage's key is the sha256 over everything that can change its result: its recipe section, the keys of what it reads, and the
versions of the engine. Its folder lies under `.cache/` of the runs folder and has its final name only when it is whole; while
it is being made it is `KEY.partial`, where an interrupted stage keeps its state. A lock lets one process make it.

A finished folder is sealed: `SHA256SUMS` in it lists the checksum of every file, as in a bundle, and `sha256sum -c` reads it
too. Whoever finds the folder checks all of them; one that is damaged, lost or half-written is dropped, said, and made anew.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from compress.errors import CompressError
from compress.events import Events
from compress.system.files import hash_file, read_bounded, sync, sync_folder, writable, write_whole
from compress.system.leftovers import remove, remove_leftovers

SUMS = "SHA256SUMS"
_SUMS_BYTES = 1 << 24
_LINE = re.compile(r"(?P<sha256>[0-9a-f]{64})  (?P<name>.+)")


class Cache:
    """Finished and half-finished stages.

    Args:
        root: Folder of all runs.
        events: Where damage is reported; silent by default.
    """

    def __init__(self, root: Path, events: Events | None = None) -> None:
        self.folder, self._events = root / ".cache", events or Events()
        self._verified: set[str] = set()

    def find(self, stage_key: str, what: str) -> Path | None:
        """Return the folder of a finished stage, if there is one that is as it was made; a damaged one is dropped.

        Args:
            stage_key: Its key.
            what: What it is, for the message about a damaged one.

        Raises:
            Unreachable: A damaged one cannot be removed.
        """
        if not (self.folder / stage_key).is_dir():
            return None
        with self._lock(stage_key):
            return self._find_locked(stage_key, what)

    def drop(self, stage_key: str) -> None:
        """Forget a finished stage, so that it is made again.

        Raises:
            Unreachable: It cannot be removed.
        """
        with self._lock(stage_key):
            self._drop_locked(stage_key)

    def make(self, stage_key: str, what: str, work: Callable[[Path], None]) -> Path:
        """Return the folder of a stage, made by `work(folder)` unless it is there.

        `work` may find what it left in the folder when it was interrupted; what it leaves when it ends well is the stage.

        Args:
            stage_key: Its key.
            what: What it is, for the message about a damaged one.
            work: What makes it.

        Raises:
            Unreachable: The folder cannot be written.
        """
        path, partial = self.folder / stage_key, self.folder / f"{stage_key}.partial"
        with self._lock(stage_key):
            if self._find_locked(stage_key, what) is None:
                for place in (path, partial):
                    if not place.is_dir():
                        remove(place)
                partial.mkdir(exist_ok=True)
                remove_leftovers(partial, recursive=True)
                work(partial)
                seal(partial)
                partial.replace(path)
                sync_folder(self.folder)
                self._verified.add(stage_key)
        return path

    @contextmanager
    def _lock(self, stage_key: str) -> Iterator[None]:
        locks = self.folder / "locks"
        with writable(self.folder):
            locks.mkdir(parents=True, exist_ok=True)
            with FileLock(locks / stage_key):
                yield

    def _find_locked(self, stage_key: str, what: str) -> Path | None:
        path = self.folder / stage_key
        if not path.is_dir():
            return None
        damage = None if stage_key in self._verified else find_damage(path)
        if damage is None:
            self._verified.add(stage_key)
            return path
        self._events.warn(f"{what}: what was made in {path} is damaged ({damage}); it is made anew")
        self._events.emit("cache_damaged", what=what, path=str(path), damage=damage)
        self._drop_locked(stage_key)
        return None

    def _drop_locked(self, stage_key: str) -> None:
        self._verified.discard(stage_key)
        shutil.rmtree(self.folder / stage_key)


def seal(folder: Path) -> None:
    """Force all that is in a folder onto the disk, and list the checksum of every file, but for hidden ones.

    Raises:
        Unreachable: The folder cannot be written.
    """
    lines = [f"{hash_file(folder / name)}  {name}\n" for name in _list_files(folder)]
    with write_whole(folder / SUMS) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
    sync(folder)


def find_damage(folder: Path) -> str | None:
    """Return what is wrong with a sealed folder, or nothing."""
    try:
        lines = read_bounded(folder / SUMS, limit_bytes=_SUMS_BYTES, what="a list of checksums").decode("utf-8", "replace")
        found = [_LINE.fullmatch(line) for line in lines.splitlines()]
        listed = {each["name"]: each["sha256"] for each in found if each is not None}
        if not listed or None in found:
            return f"{SUMS} is no list of checksums"
        there = _list_files(folder)
        if names := sorted(listed.keys() ^ set(there)):
            return f"{names[0]} {'is missing' if names[0] in listed else f'is not in {SUMS}'}"
        changed = [name for name in there if hash_file(folder / name) != listed[name]]
    except CompressError as error:
        return str(error).removeprefix(f"{folder}/")
    return f"{changed[0]} does not have the checksum of {SUMS}" if changed else None


def _list_files(folder: Path) -> list[str]:
    """Return the paths of all files of a stage, relative to its folder, but for what is hidden."""
    paths = [path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()]
    shown = [path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)]
    return sorted(name for name in shown if name != SUMS)


@contextmanager
def lock_run(run: Path) -> Iterator[None]:
    """Hold the lock of a run folder.

    Raises:
        CompressError: Another process works in it.
        Unreachable: The folder cannot be written.
    """
    lock = FileLock(run / ".lock")
    try:
        with writable(run):
            run.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
    except Timeout as error:
        raise CompressError(
            f"{run}: another process works in this run; wait for it, or give the recipe another name"
        ) from error
    try:
        yield
    finally:
        lock.release()


def publish(stage: Path, folder: Path) -> None:
    """Copy a finished stage into the run's folder; a file that is changed there does not change the cache.

    Raises:
        Unreachable: The folder cannot be written.
    """
    with write_whole(folder, durable=True) as temporary:
        temporary.mkdir()
        for path in sorted(stage.glob("[!.]*")):  # what a killed process left has a dot
            shutil.copy2(path, temporary / path.name)


def copy(path: Path, target: Path) -> None:
    """Copy one file of a finished stage out of the cache; the copy is the user's.

    Raises:
        Unreachable: The folder cannot be written.
    """
    with write_whole(target) as temporary:
        shutil.copy2(path, temporary)
