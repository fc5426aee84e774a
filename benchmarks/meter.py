"""Measures the energy of loaded files: the task `energy` of `runner.py`, which loads this file and lends it its own functions.

Blocks of some seconds, interleaved: in each, the machine idles, and then every file is called without a pause, in another
order. What the sensor counted while a file was called is its total; what an idle machine takes in the same time is told beside
it, so that the energy above idle can be computed. A sensor that tells power alone is read by a process of its own, which also
runs while the machine idles, so that its cost is on both sides.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

IDLE_SHARE = 0.4
"""Of the seconds of a block, so long the machine idles before it."""
SETTLE_SECONDS = 0.2


def measure_energy(job: dict[str, Any], folder: Path, runner: Any, root: Path = Path("/")) -> dict[str, Any]:
    """Return the raw blocks of each subject and of idling, or why there are none; `rounds` blocks of `seconds` each."""
    import numpy as np

    sensors, timer = runner.load_beside("sensors"), runner.load_beside("timer")
    sensor, reason = sensors.find_sensor(root)
    if sensor is None:
        return {"unavailable": reason}
    subjects = job["subjects"]
    fed = runner.share_inputs(subjects, folder, job["batch_size"])
    states = [
        timer.load_subject(job, subject, folder, runner, batches=batches, seconds=1.0)
        for subject, batches in zip(subjects, fed)  # noqa: B905 (Python 3.9)
    ]
    shuffler, total = np.random.default_rng(job["seed"]), job["rounds"] * len(states)
    idle: list[dict[str, Any]] = []
    blocks: dict[str, list[dict[str, Any]]] = {subject["name"]: [] for subject in subjects}
    with Meter(sensor, sensors) as meter:
        for block in range(job["rounds"]):
            idle.append(meter.measure(lambda: idle_for(IDLE_SHARE * job["seconds"])))
            for place, index in enumerate(shuffler.permutation(len(states)).tolist()):
                name = subjects[index]["name"]
                runner.report_progress(block * len(states) + place, total, name)
                with runner.tag_errors(name):
                    call = make_caller(states[index]["runtime"], fed[index], job["seconds"], timer)
                    blocks[name].append(meter.measure(call))
    runner.report_progress(total, total, "")
    effective = {subject["name"]: state["runtime"].effective() for subject, state in zip(subjects, states)}  # noqa: B905
    shown = {key: sensor[key] for key in ("name", "covers", "kind")}
    return {"sensor": shown, "idle": idle, "blocks": blocks, "effective": effective}


def idle_for(seconds: float) -> int:
    """Do nothing, so many calls."""
    time.sleep(seconds)
    return 0


def make_caller(runtime: Any, batches: list[Any], seconds: float, timer: Any) -> Any:
    """Return a function that calls a file without a pause for some seconds, and returns how often."""

    def call() -> int:
        begun, calls = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds:
            calls += len(timer.time_calls(runtime, batches, len(batches)))
        return calls

    return call


class Meter:
    """A sensor that is read while something runs."""

    def __init__(self, sensor: dict[str, Any], sensors: Any) -> None:
        self._sensor, self._sensors = sensor, sensors
        self._samples: list[tuple[int, float]] = []
        self._poller: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Meter:  # noqa: PYI034 (Python 3.9)
        if self._sensor["kind"] == "power":
            command = [sys.executable, self._sensors.__file__, json.dumps(self._sensor)]
            self._poller = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            self._reader = threading.Thread(target=self._take_samples, daemon=True)
            self._reader.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._poller is not None and self._reader is not None:
            self._poller.kill()
            self._poller.wait()
            self._reader.join(5)

    def _take_samples(self) -> None:
        for line in (self._poller.stdout if self._poller else None) or ():
            at, _, watts = line.partition(" ")
            self._samples.append((int(at), float(watts)))

    def measure(self, work: Any) -> dict[str, Any]:
        """Return seconds, joules, samples and calls of some work; of a counter, the samples are none."""
        counts = self._sensor["kind"] == "counter"
        time.sleep(0 if counts else SETTLE_SECONDS)
        before, begun = self._sensors.read_parts(self._sensor) if counts else [], time.monotonic_ns()
        calls = work()
        ended = time.monotonic_ns()
        after = self._sensors.read_parts(self._sensor) if counts else []
        joules, samples = self._sensors.count_joules(self._sensor, before, after), None
        if not counts:
            time.sleep(SETTLE_SECONDS)  # until the last sample has come
            joules, samples = self._sensors.integrate_watts(list(self._samples), begun, ended)
        return {"seconds": (ended - begun) / 1e9, "joules": joules, "samples": samples, "calls": calls}
