"""The stage cache: results of stages, found again by a key of all that decides them.

A stage's key is the sha256 over everything that can change its result: its recipe section, the keys of what it reads, and the
versions of the engine. Its folder lies under `.cache/` of the runs folder and has its final name only when it is whole; while
it is being made it is `KEY.partial`, where an interrupted stage keeps its state. A lock lets one process make it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from compress.errors import CompressError
from compress.system.files import writable, write_whole


class Cache:
    """Finished and half-finished stages.

    Args:
        root: Folder of all runs.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / ".cache"

    def find(self, stage_key: str) -> Path | None:
        """Return the folder of a finished stage, if there is one."""
        path = self.folder / stage_key
        return path if path.is_dir() else None

    def drop(self, stage_key: str) -> None:
        """Forget a finished stage, so that it is made again."""
        with writable(self.folder):
            shutil.rmtree(self.folder / stage_key, ignore_errors=True)

    def make(self, stage_key: str, work: Callable[[Path], None]) -> Path:
        """Return the folder of a stage, made by `work(folder)` unless it is there.

        `work` may find what it left in the folder when it was interrupted; what it leaves when it ends well is the stage.

        Raises:
            Unreachable: The folder cannot be written.
        """
        path, partial = self.folder / stage_key, self.folder / f"{stage_key}.partial"
        locks = self.folder / "locks"
        with writable(self.folder):
            locks.mkdir(parents=True, exist_ok=True)
            with FileLock(locks / stage_key):
                if not path.is_dir():
                    partial.mkdir(exist_ok=True)
                    work(partial)
                    partial.replace(path)
        return path


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
