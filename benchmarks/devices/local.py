"""This machine: the runner as a process of its own, with the interpreter that runs us."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from benchmarks.devices._device import Progress
from benchmarks.devices._runner_output import RunnerOutput

POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
QUIET = {"ORT_DISABLE_TELEMETRY": "1"}
"""What keeps a runtime from talking to its vendor, before anything is imported."""


class Local:
    """Runs jobs on this machine."""

    name = "local"

    def run(self, job: Path, *, timeout_seconds: float, progress: Progress) -> None:
        """Run a job folder.

        Raises:
            CompressError: The runner reported what is wrong with the job.
            Unreachable: The runner ran out of memory or time, or died; the message says which.
        """
        facts = json.loads((job / "job.json").read_text(encoding="utf-8"))
        shared = _shared.get()
        if shared is not None and facts["task"] == "evaluate":
            _serve(shared, job, facts, timeout_seconds=timeout_seconds, progress=progress)
            return
        process = _start(job / "runner.py", str(job), threads=facts["threads"], stdin=subprocess.DEVNULL)
        with process:
            output, late = _listen(process, timeout_seconds, progress)
        if process.returncode != 0:
            raise output.make_error(process.returncode, timeout_seconds if late else None)


Processes = dict[tuple[str, int], "subprocess.Popen[str]"]
"""Runners that wait for jobs, by runtime and threads."""
_shared: ContextVar[Processes | None] = ContextVar("shared", default=None)


@contextmanager
def share_processes() -> Iterator[None]:
    """Let all files of one runtime that are evaluated within this context share one runner, which imports it once.

    Each file still has a process of its own, a fork of that runner: a crash ends nothing else, and peak memory is the file's.
    """
    shared: Processes = {}
    before = _shared.set(shared if hasattr(os, "fork") else None)
    try:
        yield
    finally:
        _shared.reset(before)
        for process in shared.values():
            _end(process)


def _serve(shared: Processes, job: Path, facts: dict[str, Any], *, timeout_seconds: float, progress: Progress) -> None:
    """Have a job carried out by the runner of its runtime, started where there is none.

    Raises:
        CompressError: The runner said what is wrong with the job.
        Unreachable: The job ran out of memory or time, or died.
    """
    key = (facts["subjects"][0]["runtime"], facts["threads"])
    process = shared.get(key)
    if process is None or not _send(process, job):
        if process is not None:  # it died while it waited, so the job has not begun
            _end(shared.pop(key))
        process = shared[key] = _start(job / "runner.py", "--serve", threads=facts["threads"], stdin=subprocess.PIPE)
        _send(process, job)
    ended = False
    try:
        output, late = _listen(process, timeout_seconds, progress)
        ended = output.ended is not None
    finally:
        if not ended:  # it died, was too late, or we were interrupted: what it still does must not disturb the next
            _end(shared.pop(key))
    status = process.returncode if output.ended is None else output.ended
    if status != 0:
        raise output.make_error(status, timeout_seconds if late else None)


def _start(runner: Path, argument: str, *, threads: int, stdin: int) -> subprocess.Popen[str]:
    """Start the runner in a session of its own, so that whatever a runtime starts can be killed with it."""
    environment = QUIET | os.environ | dict.fromkeys(POOLS, str(threads))
    return subprocess.Popen(
        [sys.executable, "-P", str(runner), argument], env=environment, stdin=stdin, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True,
    )  # fmt: skip


def _send(process: subprocess.Popen[str], job: Path) -> bool:
    """Give a job to a runner that waits for jobs; return whether it was there to take it."""
    if process.poll() is not None or process.stdin is None:
        return False
    try:
        process.stdin.write(f"{job}\n")
        process.stdin.flush()
    except BrokenPipeError:
        return False
    return True


def _listen(process: subprocess.Popen[str], timeout_seconds: float, progress: Progress) -> tuple[RunnerOutput, bool]:
    """Follow a runner to its end, or to the end of the job that it was given; return its output, and whether it was late."""
    output = RunnerOutput()
    timeout = threading.Timer(min(timeout_seconds, threading.TIMEOUT_MAX), _kill, [process])
    timeout.start()
    try:
        while output.ended is None and process.stderr is not None and (line := process.stderr.readline()):
            output.read_line(line, progress)
        if output.ended is None:
            process.wait()
        late = not timeout.is_alive()
    finally:
        timeout.cancel()
        if output.ended is None:
            _kill(process)
    return output, late


def _end(process: subprocess.Popen[str]) -> None:
    """Kill a runner that waits for jobs, and close what led to it."""
    _kill(process)
    for stream in (process.stdin, process.stderr):
        if stream is not None:
            with suppress(BrokenPipeError):  # of a job that it no longer took
                stream.close()


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill a process with all that it started, if anything of it is left, and reap it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()
