"""What the agent does when it is asked."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from .facts import probe, read_facts, read_memory, read_place, read_prepared
from .files import CHUNK_BYTES, check_name, hash_file, read_json, remove, remove_folder
from .keeper import LOCK, is_alive, kill_group, read_end, start_keeper, take_lock
from .packages import adopt, install, unpack_wheels
from .store import STORE, is_stored, make_job, receive, trim_store

JOBS = Path("jobs")
OLD_SECONDS = 7 * 86400
CUT = 94
"""Status of an agent whose request did not arrive whole: the connection was lost, which the other end may try again."""
ALIVE_SECONDS = 5.0
"""So often at least a follower says something, so that both ends notice when the connection is gone."""


def main() -> None:
    """Carry out a verb; whatever goes wrong is an answer, too."""
    try:
        os.umask(0o077)
        answer({"running": sys.version_info[0]})
        line = sys.stdin.buffer.readline()
        if not line.endswith(b"\n"):
            sys.exit(CUT)
        request = json.loads(line.decode("utf-8"))
        VERBS[sys.argv[1]](request)
    except BrokenPipeError:
        os._exit(1)
    except Exception as error:  # noqa: BLE001 (told to the other end, which decides)
        number = error.errno if isinstance(error, OSError) else None
        answer({"error": str(error), "type": type(error).__name__, "errno": number})
        sys.exit(3)


def answer(document: dict[str, Any]) -> None:
    """Write one line of JSON."""
    sys.stdout.buffer.write(json.dumps(document).encode("ascii") + b"\n")
    sys.stdout.buffer.flush()


def open_job(request: dict[str, Any]) -> None:
    """Tell what the board is, which of a job's files are missing, and who works there."""
    remove_old_jobs()
    files, python = request.get("files", {}), request.get("python")
    place = {"python": python or sys.executable, "site": None} if request.get("system") else read_place(python)
    missing = sorted({sha for sha, size in files.values() if not is_stored(sha, size)})
    lock = take_lock()
    if lock is not None:
        os.close(lock)
    answer({
        "facts": read_facts(), "missing": missing, "free_bytes": shutil.disk_usage(".").free,
        "memory_bytes": read_memory("MemAvailable"),
        "busy": read_json(LOCK) if lock is None else None, "runner": probe(place, request.get("modules", [])),
        "prepared": read_prepared(python).get("name"),
    })  # fmt: skip


def put_job(request: dict[str, Any]) -> None:
    """Take in files, make the job of all that it needs, and start it, unless another one runs."""
    job, files = JOBS / check_name(request["job"]), request["files"]
    if (job / "state.json").exists():  # the answer to an earlier call was lost
        answer({"started": True})
        return
    receive(dict(files.values()))
    damaged = [sha for sha, size in files.values() if not is_stored(sha, size) or hash_file(STORE / sha) != sha]
    for sha in damaged:
        remove(STORE / sha)
    if damaged:
        answer({"missing": sorted(set(damaged))})
        return
    lock = take_lock()
    if lock is None:
        answer({"busy": read_json(LOCK)})
        return
    end_orphans()
    trim_store(request["store_bytes"], {sha for sha, _ in files.values()})
    make_job(job, files, request)
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps({"job": job.name, "host": request["host"], "since": time.time()}).encode(), 0)
    start_keeper(job, request, lock)
    answer({"started": True})


def install_packages(request: dict[str, Any]) -> None:
    """Install packages with the board's own pip."""
    adopt(request, python=install(request))
    answer({"prepared": True})


def unpack_packages(request: dict[str, Any]) -> None:
    """Take in wheels and unpack them."""
    receive(dict(request["files"].values()))
    adopt(request, site=unpack_wheels(request))
    answer({"prepared": True})


def follow_job(request: dict[str, Any]) -> None:
    """Write the log from an offset on, line by line, until the job has ended, then how it did."""
    job, offset, said = find_job(request["job"]), request["offset"], time.monotonic()
    while True:
        end = read_end(job)
        text = read_log(job / "log", offset, whole=end is not None)
        if text or time.monotonic() - said > ALIVE_SECONDS:
            offset += len(text)
            answer({"log": text.decode("utf-8", "replace"), "next": offset})
            said = time.monotonic()
        elif end is not None:
            answer({"end": end})
            return
        if not text:
            time.sleep(request["pause"])


def read_log(path: Path, offset: int, *, whole: bool) -> bytes:
    """Return the next lines of a log; of one that still grows no half line, unless it is longer than a chunk."""
    if not path.exists():
        return b""
    with path.open("rb") as file:
        file.seek(offset)
        text = file.read(CHUNK_BYTES)
    return text if whole or len(text) == CHUNK_BYTES else text[: text.rfind(b"\n") + 1]


def take_results(request: dict[str, Any]) -> None:
    """Write the results of a job; remove it once the other end says that they arrived."""
    job = find_job(request["job"])
    results = (read_end(job) or {}).get("results", {})
    damaged = [name for name, (_, size) in results.items() if not is_as_long(job / check_name(name), size)]
    answer({"results": results, "damaged": damaged})
    if damaged:
        return
    for name in results:
        with (job / check_name(name)).open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer, CHUNK_BYTES)
    sys.stdout.buffer.flush()
    if sys.stdin.buffer.readline() == b"arrived\n":
        remove_folder(job)


def is_as_long(path: Path, size: int) -> bool:
    """Return whether a file has that length."""
    return path.is_file() and path.stat().st_size == size


def list_jobs(_request: dict[str, Any]) -> None:
    """Tell which jobs run or lie there."""
    answer({"jobs": [describe_job(job) for job in sorted(JOBS.glob("*"))]})


def describe_job(job: Path) -> dict[str, Any]:
    """Return what is known of a job."""
    end, size = read_end(job), sum(path.stat().st_size for path in job.rglob("*") if path.is_file())
    kept = {**(read_json(job / "request.json") or {}), **(read_json(job / "state.json") or {})}
    said = "running" if end is None else end.get("vanished") or ("finished" if end.get("code") == 0 else "failed")
    return {
        "id": job.name,
        "state": said,
        "host": kept.get("host", ""),
        "since": kept.get("since", 0),
        "bytes": size,
        "digest": kept.get("digest", ""),
    }


def stop_job(request: dict[str, Any]) -> None:
    """End a job, and remove it."""
    job = find_job(request["job"])
    state = read_json(job / "state.json") or {}
    for who in ("keeper", "runner"):  # in this order, so that nobody writes how it ended
        if is_alive(state.get(who)):
            kill_group(state[who][0])
    remove_folder(job)
    answer({"stopped": True})


def clean(request: dict[str, Any]) -> None:
    """Remove the jobs and the store, or all that is ours; nothing while a job runs."""
    lock = take_lock()
    if lock is None:
        answer({"busy": read_json(LOCK)})
        return
    places = sorted(Path().glob("*")) if request["everything"] else [JOBS, STORE]
    answer({"removed": [path.name for path in places if remove(path)]})
    if request["everything"]:
        here = Path.cwd()
        os.chdir("/")
        shutil.rmtree(str(here))


def remove_old_jobs() -> None:
    """Remove ended jobs that nobody fetched within a week."""
    for job in JOBS.glob("*"):
        if time.time() - job.stat().st_mtime > OLD_SECONDS and (not (job / "state.json").exists() or read_end(job)):
            remove_folder(job)


def end_orphans() -> None:
    """End runners whose keeper is gone; called by who holds the lock, so none of them has a keeper that works."""
    for job in JOBS.glob("*"):
        read_end(job)


def find_job(name: str) -> Path:
    """Return the folder of a job.

    Raises:
        FileNotFoundError: There is none.
    """
    job = JOBS / check_name(name)
    if not (job / "state.json").exists():
        raise FileNotFoundError(f"there is no job {name}")
    return job


VERBS = {
    "open": open_job, "put": put_job, "follow": follow_job, "take": take_results, "list": list_jobs, "stop": stop_job,
    "clean": clean,
    "install": install_packages,
    "unpack": unpack_packages,
}  # fmt: skip
