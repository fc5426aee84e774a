"""Four ways to time the same file, each in a process of its own: ours, OpenVINO's `benchmark_app`, and two plain loops."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np

from benchmarks.devices._process import POOLS, QUIET
from benchmarks.protocol import Images, Subject, measure
from benchmarks.studies.fidelity import bare_loop
from benchmarks.studies.fidelity.networks import NETWORKS, File, make_images
from compress.errors import CompressError, Unreachable, Unstable

APP = "benchmark_app"
LOOP = "bare loop"
START_APP = "import sys; sys.modules['openvino_telemetry'] = None; from openvino.tools.benchmark.main import main; main()"
"""`benchmark_app` without the telemetry that its command switches on."""
OURS_ROUNDS = 5
BATCHES = 16
"""Number of images that ours feeds in turn, as always."""
TRIES = 3
"""Number of times that ours is tried where other work makes it unstable; the others give a median of whatever they measured."""
WAIT_SECONDS = 300
MEDIAN = re.compile(r"Median:\s+([0-9.]+) (us|ms)")


def time_ours(file: File, seconds: float) -> float:
    """Return p50 in milliseconds as our reports state it.

    Raises:
        CompressError: The file does not fit its runtime.
        Unreachable: The runtime is not there or crashed.
        Unstable: Three times the rounds scattered so much that there is no figure.
    """
    subject = Subject("ours", file.path, file.runtime)
    images = make_images(NETWORKS[file.network])[:BATCHES]
    for _ in range(TRIES - 1):
        with suppress(Unstable):
            return _measure(subject, images, seconds)
    return _measure(subject, images, seconds)


def _measure(subject: Subject, images: Images, seconds: float) -> float:
    """Return p50 of one file in milliseconds, timed on images [N, C, H, W]."""
    return measure([subject], images, against=None, rounds=OURS_ROUNDS, seconds=seconds)[subject.name].latency.p50


def time_benchmark_app(file: File, seconds: float) -> float:
    """Return the median in milliseconds that OpenVINO's own tool prints; its JSON file rounds to hundredths of a millisecond.

    Raises:
        Unreachable: The tool failed.
        CompressError: It printed no median.
    """
    shape, whole_seconds = ",".join(map(str, NETWORKS[file.network].shape)), max(1, round(seconds))
    options = {
        "-m": file.path, "-d": "CPU", "-hint": "none", "-nstreams": 1, "-nthreads": 1, "-api": "sync", "-t": whole_seconds,
        "-infer_precision": "f32", "-pin": "NO", "-ip": "f32", "-shape": f"[{shape}]",
    }  # fmt: skip
    printed = _run(APP, "-c", START_APP, *(str(part) for option in options.items() for part in option))
    return read_median(printed)


def read_median(printed: str) -> float:
    """Return the median in milliseconds from what `benchmark_app` printed.

    Raises:
        CompressError: There is none.
    """
    found = MEDIAN.search(printed)
    if found is None:
        tail = " / ".join(printed.strip().splitlines()[-3:])
        raise CompressError(f"{APP}: printed no median ({tail}); this study knows how OpenVINO 2026.4 prints it")
    return float(found[1]) * {"us": 1e-3, "ms": 1.0}[found[2]]


def time_bare_loop(file: File, seconds: float) -> float:
    """Return the median in milliseconds of a loop without anything of ours.

    Raises:
        Unreachable: The loop failed.
    """
    images = file.path.with_name(f"{file.network}.npy")
    if not images.exists():
        np.save(images, make_images(NETWORKS[file.network])[:1], allow_pickle=False)
    printed = _run(LOOP, bare_loop.__file__, file.runtime, str(file.path), str(images), str(seconds))
    return float(json.loads(printed)["median_ms"])


def _run(name: str, *arguments: str) -> str:
    """Return what a Python program with one thread printed.

    Raises:
        Unreachable: It failed or did not end.
    """
    environment = QUIET | os.environ | dict.fromkeys(POOLS, "1")
    command = [sys.executable, *arguments]
    try:
        done = subprocess.run(
            command, env=environment, cwd=Path.home(), capture_output=True, text=True, timeout=WAIT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Unreachable(
            f"{name}: not done after {WAIT_SECONDS} s, so it was stopped; look what else the machine does"
        ) from error
    if done.returncode != 0:
        last = " / ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise Unreachable(f"{name}: ended with status {done.returncode}: {last}")
    return done.stdout


OTHER_TIMERS = {APP: time_benchmark_app, LOOP: time_bare_loop}
COMPARED = {"openvino": (APP, LOOP), "onnxruntime": (LOOP,)}
"""By runtime: what its files are also timed with."""
