"""Jobs that this machine started on boards and has not fetched: a file for each, written before the job starts."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from compress.errors import CompressError
from compress.system.files import writable, write_whole

ID = re.compile(r"[0-9a-f]{12}")
FOLDER = "EDGE_COMPRESS_JOBS"
"""Environment variable that names another folder."""


def find_ledger() -> Path:
    """Return the folder of the files."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(FOLDER) or Path(cache) / "edge-compress" / "jobs")


def record_job(job: str, device: str, memo: dict[str, Any]) -> None:
    """Note a job that is about to start.

    Raises:
        Unwritable: The folder cannot be written.
    """
    place = find_ledger() / f"{job}.json"
    with writable(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(place) as temporary:
            temporary.write_text(json.dumps({"device": device, "memo": memo}), encoding="utf-8")


def read_job(job: str) -> tuple[str, dict[str, Any]]:
    """Return the device of a job, and what was noted with it.

    Raises:
        CompressError: No such job was started from here, or it was fetched.
    """
    place = find_ledger() / f"{job}.json"
    if ID.fullmatch(job) is None or not place.is_file():
        known = sorted(path.stem for path in find_ledger().glob("*.json"))
        there = f"there are: {', '.join(known)}" if known else "there is none to fetch"
        raise CompressError(f"job {job}: was not started from here, or was fetched already; {there}")
    try:
        document = json.loads(place.read_text(encoding="utf-8"))
        return str(document["device"]), dict(document["memo"])
    except (ValueError, KeyError, TypeError) as error:
        raise CompressError(f"{place}: is no note of a job; remove it") from error


def forget_job(job: str) -> None:
    """Remove the note of a job that was fetched or ended."""
    (find_ledger() / f"{job}.json").unlink(missing_ok=True)
