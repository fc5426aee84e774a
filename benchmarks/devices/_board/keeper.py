"""The keeper of a job: starts the runner, ends it in time, writes how it ended; and who asks for that."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from .facts import make_environment, read_place
from .files import hash_file, read_json, read_text, write_record

LOCK = Path("lock")
MOST_RESULTS = 12


def take_lock() -> int | None:
    """Return the lock, or None where another job holds it."""
    lock = os.open(str(LOCK), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def start_keeper(job: Path, request: dict[str, Any], lock: int) -> None:
    """Start the process that keeps the job: no child of ours, in no session of ours, holding the lock.

    Raises:
        OSError: It could not be started.
    """
    ready, started = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            status = 1
            try:
                os.close(ready)
                keep(job, request, started)
                status = 0
            finally:
                os._exit(status)
        os._exit(0)
    os.close(started)
    os.waitpid(child, 0)
    if os.read(ready, 1) != b"1":
        shutil.rmtree(str(job))
        raise OSError("the keeper of the job could not be started")
    os.close(lock)


def keep(job: Path, request: dict[str, Any], started: int) -> None:
    """Run the runner to its end, at the latest to its deadline, and write how it ended."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    place, begun, late = read_place(request.get("python")), time.time(), []
    try:
        with (job / "log").open("wb") as log:
            runner = subprocess.Popen(
                [place["python"], "runner.py", "."], cwd=str(job), stdin=nothing, stdout=nothing, stderr=log,
                env=make_environment(place, request["environment"]), start_new_session=True,
            )  # fmt: skip
    except OSError as error:
        write_record(job / "state.json", {"keeper": identify(os.getpid()), "since": begun})
        write_record(job / "status.json", {"failed": f"{place['python']}: {error.strerror}"})
        os.write(started, b"1")
        return
    write_record(job / "state.json", {"keeper": identify(os.getpid()), "runner": identify(runner.pid), "since": begun})

    def end_late(_signal: int, _frame: object) -> None:
        late.append(True)
        kill_group(runner.pid)

    signal.signal(signal.SIGALRM, end_late)
    signal.setitimer(signal.ITIMER_REAL, min(request["seconds"], 1e8))
    os.write(started, b"1")
    os.close(started)
    code = runner.wait()
    signal.setitimer(signal.ITIMER_REAL, 0)
    kill_group(runner.pid)  # what it started and left
    write_record(job / "status.json", {
        "code": code, "late": bool(late), "free_bytes": shutil.disk_usage(".").free, "seconds": time.time() - begun,
        "results": find_results(job, request["files"]),
    })  # fmt: skip


def find_results(job: Path, files: dict[str, tuple[str, int]]) -> dict[str, tuple[str, int]]:
    """Return checksum and length of what a runner left beside what it was given."""
    ours = {"log", "state.json", "status.json", "request.json", *(name.split("/")[0] for name in files)}
    fits = [path for path in sorted(job.glob("[!.]*")) if path.suffix in (".json", ".npy") and path.is_file()]
    found = [path for path in fits if path.name not in ours]
    return {path.name[:64]: (hash_file(path), path.stat().st_size) for path in found[:MOST_RESULTS]}


def read_end(job: Path) -> dict[str, Any] | None:
    """Return how a job ended, or None while it runs."""
    state = read_json(job / "state.json")
    gone = state is None or not is_alive(state["keeper"])  # looked at first, for its last deed is to write how it ended
    status = read_json(job / "status.json")
    if status or not gone:
        return status or None
    if state is None:
        return {"vanished": "killed"}
    if state["keeper"][2] != read_boot():
        return {"vanished": "rebooted"}
    if is_alive(state.get("runner")):
        kill_group(state["runner"][0])
    return {"vanished": "killed"}


def identify(process: int) -> list[Any]:
    """Return number and start of a process, and which boot that was."""
    stat = read_text(f"/proc/{process}/stat").rpartition(")")[2].split()
    return [process, stat[19] if len(stat) > 19 and stat[0] not in "ZX" else None, read_boot()]


def is_alive(known: list[Any] | None) -> bool:
    """Return whether a process that was identified is there, and is the same one."""
    return known is not None and known[1] is not None and identify(known[0]) == known


def read_boot() -> str:
    """Return what names this boot."""
    return read_text("/proc/sys/kernel/random/boot_id").strip()


def kill_group(process: int) -> None:
    """Kill a process and all that it started, as far as it is there."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process, signal.SIGKILL)
