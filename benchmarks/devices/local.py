"""This machine: the runner as a process of its own, with the interpreter that runs us."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from benchmarks.devices._cpu_quota import make_quota
from benchmarks.devices._device import Progress
from benchmarks.devices._process import follow, kill, start
from compress.errors import CompressError

MOST_CORES = 4096


class Local:
    """Runs jobs on this machine, or on a part of it.

    A part says how fast files are with fewer cores of this processor. It is no stand-in for another machine, whose cores
    differ.

    Args:
        cpus: The cores that may be used: `all`, the `big` or `little` ones of a processor that has both, or numbers as `0-3,6`.
        cpu_quota: Cores' worth of time in all, such as 0.5, which the kernel enforces by stopping the process; `None` for no
            limit. It needs the right to make control groups.

    Raises:
        CompressError: The quota is not above 0.
    """

    name: str = "local"

    def __init__(self, *, cpus: str = "all", cpu_quota: float | None = None) -> None:
        if cpu_quota is not None and not 0 < cpu_quota <= MOST_CORES:
            raise CompressError(f"local: cpu_quota {cpu_quota:g} is no number of cores; give one above 0, such as 0.5")
        self.cpus, self.cpu_quota = cpus, cpu_quota
        limits = [f"cpus {cpus}"] * (cpus != "all") + [f"{cpu_quota} cores' time"] * (cpu_quota is not None)
        self.name = f"local ({', '.join(limits)})" if limits else "local"

    def run(self, job: Path, *, timeout_seconds: float, progress: Progress) -> None:
        """Run a job folder.

        Raises:
            CompressError: The runner reported what is wrong with the job.
            Unreachable: The runner ran out of memory or time, or died; the message says which.
        """
        with nullcontext() if self.cpu_quota is None else make_quota(self.cpu_quota) as group:
            self._run(job, group, timeout_seconds=timeout_seconds, progress=progress)

    def _run(self, job: Path, group: Path | None, *, timeout_seconds: float, progress: Progress) -> None:
        facts = json.loads((job / "job.json").read_text(encoding="utf-8"))
        if self.name != "local":
            facts |= {"cpus": self.cpus, "cgroup": None if group is None else str(group)}
            (job / "job.json").write_text(json.dumps(facts), encoding="utf-8")
        shared = _shared.get() if group is None else None
        if shared is not None and facts["task"] == "evaluate":
            _serve(shared, job, facts, timeout_seconds=timeout_seconds, progress=progress)
            return
        process = _start(job / "runner.py", str(job), threads=facts["threads"], stdin=subprocess.DEVNULL)
        with process:
            output, late = follow(process, timeout_seconds, progress)
        if process.returncode != 0:
            raise output.make_error(process.returncode, timeout_seconds if late else None)


Processes = dict[tuple[str, int], "subprocess.Popen[str]"]
"""Runners that wait for jobs, by runtime and threads."""
_shared: ContextVar[Processes | None] = ContextVar("shared", default=None)


@contextmanager
def share_processes() -> Iterator[None]:
    """Let all files of one runtime that are evaluated within this context share one runner, which imports it once.

    Each file still has a process of its own, a fork of that runner: a crash ends nothing else, and peak memory is the file's.
    A context within another one shares the runners of the outer.
    """
    if _shared.get() is not None:
        yield
        return
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
        output, late = follow(process, timeout_seconds, progress)
        ended = output.ended is not None
    finally:
        if not ended:  # it died, was too late, or we were interrupted: what it still does must not disturb the next
            _end(shared.pop(key))
    status = process.returncode if output.ended is None else output.ended
    if status != 0:
        raise output.make_error(status, timeout_seconds if late else None)


def _start(runner: Path, argument: str, *, threads: int, stdin: int) -> subprocess.Popen[str]:
    """Start the runner with the interpreter that runs us, which finds no package in the working folder."""
    return start([sys.executable, "-P", str(runner), argument], threads=threads, environment=os.environ, stdin=stdin)


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


def _end(process: subprocess.Popen[str]) -> None:
    """Kill a runner that waits for jobs, and close what led to it."""
    kill(process)
    for stream in (process.stdin, process.stderr):
        if stream is not None:
            with suppress(BrokenPipeError):  # of a job that it no longer took
                stream.close()
