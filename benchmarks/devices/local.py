"""This machine: the runner as a process of its own, with the interpreter that runs us."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

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
        threads = json.loads((job / "job.json").read_text(encoding="utf-8"))["threads"]
        command = [sys.executable, "-P", str(job / "runner.py"), str(job)]
        environment = os.environ | dict.fromkeys(POOLS, str(threads)) | QUIET
        output, null, pipe = RunnerOutput(), subprocess.DEVNULL, subprocess.PIPE
        # A session of its own, so that whatever the runtime starts can be killed with it.
        with subprocess.Popen(
            command, env=environment, stdin=null, stdout=null, stderr=pipe, text=True, errors="replace", start_new_session=True
        ) as process:
            timeout = threading.Timer(min(timeout_seconds, threading.TIMEOUT_MAX), _kill, [process])
            timeout.start()
            try:
                for line in process.stderr or ():
                    output.read_line(line, progress)
                process.wait()
                late = not timeout.is_alive()
            finally:
                timeout.cancel()
                _kill(process)
        if process.returncode != 0:
            raise output.make_error(process.returncode, timeout_seconds if late else None)


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill a process with all that it started, if anything of it is left, and reap it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()
