"""A runner as a process of this machine: started in a session of its own, followed to its end, killed with all its children."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence

from benchmarks.devices._device import Progress
from benchmarks.devices._runner_output import RunnerOutput

POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
QUIET = {"ORT_DISABLE_TELEMETRY": "1"}
"""What keeps a runtime from talking to its vendor, before anything is imported."""


def start(
    command: Sequence[str], *, threads: int, environment: Mapping[str, str], stdin: int = subprocess.DEVNULL
) -> subprocess.Popen[str]:
    """Start a runner in a session of its own, so that whatever a runtime starts can be killed with it."""
    return subprocess.Popen(
        command, env=QUIET | dict(environment) | dict.fromkeys(POOLS, str(threads)), stdin=stdin, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True,
    )  # fmt: skip


def follow(process: subprocess.Popen[str], timeout_seconds: float, progress: Progress) -> tuple[RunnerOutput, bool]:
    """Follow a runner to its end, or to the end of the job that it was given; return its output, and whether it was late."""
    output = RunnerOutput()
    timeout = threading.Timer(min(timeout_seconds, threading.TIMEOUT_MAX), kill, [process])
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
            kill(process)
    return output, late


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a process with all that it started, if anything of it is left, and reap it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()
