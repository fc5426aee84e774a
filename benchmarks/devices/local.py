"""This machine: the runner as a process of its own, with the interpreter that runs us."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.devices._device import Progress
from compress.errors import CompressError, Unreachable
from compress.plugins import missing_package

POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
QUIET = {"ORT_DISABLE_TELEMETRY": "1"}
"""What keeps a runtime from talking to its vendor, before anything is imported."""


class Local:
    """Runs jobs on this machine."""

    name = "local"

    def run(self, job: Path, *, timeout_seconds: float, progress: Progress) -> None:
        """Run a job folder.

        Raises:
            CompressError: The runner said what is wrong with the job.
            Unreachable: The runner ran out of memory or time, or died; the message says which.
        """
        threads = json.loads((job / "job.json").read_text(encoding="utf-8"))["threads"]
        command = [sys.executable, "-P", str(job / "runner.py"), str(job)]
        environment = os.environ | dict.fromkeys(POOLS, str(threads)) | QUIET
        said, null, pipe = Said(), subprocess.DEVNULL, subprocess.PIPE
        # A session of its own, so that whatever the runtime starts can be killed with it.
        with subprocess.Popen(
            command, env=environment, stdin=null, stdout=null, stderr=pipe, text=True, errors="replace", start_new_session=True
        ) as process:
            timeout = threading.Timer(min(timeout_seconds, threading.TIMEOUT_MAX), _kill, [process])
            timeout.start()
            try:
                for line in process.stderr or ():
                    said.hear(line, progress)
                process.wait()
                late = not timeout.is_alive()
            finally:
                timeout.cancel()
                _kill(process)
        if process.returncode != 0:
            raise said.failure(process.returncode, timeout_seconds if late else None)


@dataclass
class Said:
    """What a runner said on stderr."""

    doing: str = "the runner"
    error: dict[str, Any] | None = None
    noise: deque[str] = field(default_factory=lambda: deque(maxlen=5))

    def hear(self, line: str, progress: Progress) -> None:
        """Take in one line; those that are not the runner's come from a runtime."""
        try:
            document = json.loads(line)
        except json.JSONDecodeError:
            document = None
        if isinstance(document, dict) and "error" in document:
            self.error = document
        elif isinstance(document, dict) and {"done", "total", "doing"} <= document.keys():
            self.doing = document["doing"] or self.doing
            progress(document["done"], document["total"], document["doing"])
        elif line.strip():
            self.noise.append(line.strip())

    def failure(self, status: int, late_after_seconds: float | None) -> CompressError:
        """Return the exception for a runner that ended with a non-zero status."""
        if late_after_seconds is not None:
            return Unreachable(f"{self.doing}: not done after {late_after_seconds:g} s, so it was stopped; allow more time")
        if status < 0 or self.error is None:
            return Unreachable(f"{self.doing}: {self._death(status)}")
        where = self.error["subject"] or "the job"
        if "missing" in self.error:
            return Unreachable(missing_package(where, ModuleNotFoundError(name=self.error["missing"])))
        if self.error["type"] == "MemoryError":
            return Unreachable(f"{where}: memory ran out; free some, or lower batch_size")
        return CompressError(f"{where}: {' '.join(self.error['error'].split())}")

    def _death(self, status: int) -> str:
        if status == -signal.SIGKILL:
            return "the runner was killed, most likely because memory ran out; free some, or lower batch_size"
        if status == -signal.SIGILL:
            return "this processor lacks instructions that the runtime was built with (SIGILL); take a build of it for this one"
        if status < 0:
            return f"the runtime crashed the process ({signal.Signals(-status).name}); try the file on another version of it"
        return f"the runner ended with status {status}: {' / '.join(self.noise) or 'it said nothing'}"


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill a process with all that it started, if anything of it is left, and reap it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()
