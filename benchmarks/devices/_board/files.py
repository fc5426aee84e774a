"""Records, names and checksums: what is on the board's disk, and how it is read and written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 16
RECORD_BYTES = 4096
"""Room that a record takes from the start on, so that a disk that has become full does not hinder it."""
ATTEMPTS, ATTEMPT_SECONDS = 100, 0.1
"""How often and how fast a folder is emptied again in which an ended process had still been writing."""


def write_record(path: Path, document: dict[str, Any]) -> None:
    """Write a record of fixed length in one go, over what was there."""
    record = os.open(str(path), os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.pwrite(record, json.dumps(document).encode("ascii").ljust(RECORD_BYTES), 0)
    finally:
        os.close(record)


def read_json(path: Path) -> Any:
    """Return a record, or None where there is none."""
    try:
        return json.loads(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def read_text(path: str) -> str:
    """Return the text of a small file, empty where it cannot be read."""
    try:
        return Path(path).read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""


def check_name(name: str) -> str:
    """Return a name that names a file in a folder and nothing else.

    Raises:
        ValueError: It is none.
    """
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} is no name of a file")
    return name


def hash_file(path: Path) -> str:
    """Return the sha256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(CHUNK_BYTES), b""):
            found.update(chunk)
    return found.hexdigest()


def remove_folder(path: Path) -> None:
    """Remove a folder in which a process that was just ended may still have made a file while it was being emptied."""
    for attempt in range(ATTEMPTS):
        try:
            shutil.rmtree(str(path))
        except FileNotFoundError:
            pass  # another process removes it, too
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or attempt == ATTEMPTS - 1:
                raise
        if not path.exists():
            return
        time.sleep(ATTEMPT_SECONDS)


def remove(path: Path) -> bool:
    """Remove a file or folder; return whether it was there."""
    if path.is_dir() and not path.is_symlink():
        remove_folder(path)
        return True
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
