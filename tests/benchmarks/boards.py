"""Boards without a board: a folder of this machine behind a shell, whose connection can be made to fail, and jobs for it."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import job as jobs
from benchmarks.devices._remote import Remote
from benchmarks.devices._remote.packing import list_files, send_files
from benchmarks.devices._remote.transport import Lost
from compress.errors import Unreachable

CUT = Path(__file__).with_name("cut.py")
"""Carries bytes between two programs, up to a number."""


@dataclass
class Shell:
    """A transport to a folder of this machine; each failure is used once, in turn, by the calls to a verb."""

    home: Path
    where: str = "board"
    failures: dict[str, list[str]] = field(default_factory=dict)
    """By verb: `in:N` and `out:N` cut the connection after so many bytes, `away` lets none come about."""
    scripts: list[str] = field(default_factory=list)
    path: str = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    sent: Path | None = None
    """File to which the number of bytes is added that each call carried to the board."""

    @contextmanager
    def hold(self) -> Iterator[None]:
        yield

    def command(self, script: str) -> list[str]:
        self.scripts.append(script)
        verb = script.rpartition(" ")[2]
        failures = self.failures.get(verb, [])
        failure = failures.pop(0) if failures else ""
        if failure == "away":
            return ["sh", "-c", "echo 'Connection refused' >&2; exit 255"]
        prefix = [sys.executable, str(CUT), failure, str(self.sent or "")] if failure or self.sent else []
        return [
            *prefix,
            "env",
            "-i",
            f"HOME={self.home}",
            f"PATH={self.path}",
            "sh",
            "-c",
            f"cd; exec sh -c {shlex.quote(script)}",
        ]

    def explain(self, status: int, said: str) -> Unreachable | None:
        return Lost(said.strip() or "the connection was closed") if status in {255, -9} else None


RUNTIME = """
import os, signal, subprocess, sys, time
import numpy as np

class Bad:
    @staticmethod
    def prepare():
        import numpy

    def __init__(self, path, *, threads, batch_size):
        self.path = path

    def __call__(self, images):
        {call}
        return images.mean(axis=(2, 3))

    def effective(self):
        return {{"omp": os.environ.get("OMP_NUM_THREADS"), "pid": os.getpid()}}
"""


def make_job(folder: Path, call: str = "pass", *, task: str = "evaluate", images: np.ndarray | None = None) -> Path:
    """Write a job folder whose runtime does `call` whenever it is run."""
    (folder / "runtimes").mkdir(parents=True)
    (folder / "runtimes" / "bad.py").write_text(RUNTIME.format(call=call))
    for program in jobs.PROGRAMS:
        shutil.copyfile(Path(str(jobs.__file__)).with_name(program), folder / program)
    np.save(folder / "images.npy", np.ones((5, 3, 4, 4), np.float32) if images is None else images)
    subject = {"name": "culprit", "runtime": "bad", "class": "Bad", "file": "files/0/model", "images": "images.npy"}
    job = {"task": task, "threads": 1, "batch_size": 2, "seed": 0, "rounds": 5, "seconds": 0.1, "subjects": [subject]}
    (folder / "job.json").write_text(json.dumps(job))
    return folder


def make_images(count: int = 16, size: int = 64) -> np.ndarray:
    """Return normalised images [count, 3, size, size] of pixels of one byte."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, size, size)).astype(np.float32)
    mean, std = np.float32([0.4, 0.5, 0.6])[:, None, None], np.float32([0.2, 0.25, 0.3])[:, None, None]
    return (pixels / np.float32(255) - mean) / std


def make_wheel(folder: Path, name: str, member: str = "{}/__init__.py") -> Path:
    """Write a wheel with one module."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(member.format(name), "sent = True\n")
    return path


def send_wheels(device: Remote, folder: Path, name: str) -> None:
    """Have a board unpack the wheels of a folder, as `device prepare` does for one without an index."""
    files = list_files(folder)
    missing = device.agent.ask("open", {"files": files})["missing"]
    device.agent.ask("unpack", {"files": files, "name": name}, partial(send_files, folder, files, missing))
