"""Measures the energy of loaded files: the task `energy` of `runner.py`, which loads this file and lends it its own functions.

Blocks of some seconds, interleaved: in each, the machine idles, and then every file is called without a pause, in another
order. What the sensor counted while a file was called is its total; what an idle machine takes in the same time is told beside
it, so that the energy above idle can be computed. A sensor that tells power alone is read by a process of its own, which also
runs while the machine idles, so that its cost is on both sides. A meter that stands beside the machine is read by
a program of its user's, which prints `seconds watts` for each sample.
"""

from __future__ import annotations

import json
import math
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
    sensors = runner.load_beside("sensors")
    sensor, reason = describe_meter(job["meter"]) if job.get("meter") else sensors.find_sensor(root)
    if sensor is None:
        return {"unavailable": reason}
    try:
        with Meter(sensor, sensors) as meter:
            return measure_blocks(job, folder, runner, meter)
    except BadMeter as error:
        return {"unavailable": str(error)}


def describe_meter(program: str) -> tuple[dict[str, Any], str]:
    """Return a sensor that is a program of the user's, who alone knows what it covers."""
    covers = "what its user connected to it"
    return {"name": program, "covers": covers, "kind": "power", "parts": [], "program": program}, ""


def measure_blocks(job: dict[str, Any], folder: Path, runner: Any, meter: Meter) -> dict[str, Any]:
    """Return the raw blocks of each subject and of idling.

    Raises:
        BadMeter: The user's program does not run, or prints something else than a power.
    """
    import numpy as np

    timer, subjects = runner.load_beside("timer"), job["subjects"]
    fed = runner.share_inputs(subjects, folder, job["batch_size"])
    states = [
        timer.load_subject(job, subject, folder, runner, batches=batches, seconds=1.0)
        for subject, batches in zip(subjects, fed)  # noqa: B905 (Python 3.9)
    ]
    shuffler, total = np.random.default_rng(job["seed"]), job["rounds"] * len(states)
    idle: list[dict[str, Any]] = []
    blocks: dict[str, list[dict[str, Any]]] = {subject["name"]: [] for subject in subjects}
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
    shown = {key: meter.sensor[key] for key in ("name", "covers", "kind")}
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


class BadMeter(Exception):
    """A program of the user's that is no power meter."""


class Meter:
    """A sensor that is read while something runs.

    Raises:
        BadMeter: A program of the user's cannot be started.
    """

    def __init__(self, sensor: dict[str, Any], sensors: Any) -> None:
        self.sensor, self._sensors = sensor, sensors
        self._samples: list[tuple[int, float]] = []
        self._fault = ""
        self._poller: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Meter:  # noqa: PYI034 (Python 3.9)
        if self.sensor["kind"] == "power":
            own = [sys.executable, self._sensors.__file__, json.dumps(self.sensor)]
            command = [self.sensor["program"]] if "program" in self.sensor else own
            try:
                self._poller = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace"
                )
            except OSError as error:
                raise BadMeter(f"{command[0]} cannot be started there: {error.strerror}") from error
            self._reader = threading.Thread(target=self._take_samples, daemon=True)
            self._reader.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._poller is not None and self._reader is not None:
            self._poller.kill()
            self._poller.wait()
            self._reader.join(5)
            if self._poller.stdout is not None and not self._reader.is_alive():
                self._poller.stdout.close()

    def _take_samples(self) -> None:
        read = read_user_line if "program" in self.sensor else read_line
        for line in (self._poller.stdout if self._poller else None) or ():
            try:
                self._samples.append(read(line))
            except ValueError:
                self._fault = f"{self.sensor['name']} printed {line.strip()[:40]!r} and no seconds and watts"
                return
        self._fault = f"{self.sensor['name']} ended before the measurement did"

    def measure(self, work: Any) -> dict[str, Any]:
        """Return seconds, joules, samples and calls of some work; of a counter, the samples are none.

        Raises:
            BadMeter: There are no samples any more.
        """
        counts = self.sensor["kind"] == "counter"
        time.sleep(0 if counts else SETTLE_SECONDS)
        before, begun = self._sensors.read_parts(self.sensor) if counts else [], time.monotonic_ns()
        calls = work()
        ended = time.monotonic_ns()
        after = self._sensors.read_parts(self.sensor) if counts else []
        joules, samples = self._sensors.count_joules(self.sensor, before, after), None
        if not counts:
            time.sleep(SETTLE_SECONDS)  # until the last sample has come
            if self._fault:
                raise BadMeter(self._fault)
            joules, samples = self._sensors.integrate_watts(list(self._samples), begun, ended)
        return {"seconds": (ended - begun) / 1e9, "joules": joules, "samples": samples, "calls": calls}


def read_line(line: str) -> tuple[int, float]:
    """Return time and power of a line of `sensors.py`, `nanoseconds watts` by this machine's monotonic clock."""
    at, _, watts = line.partition(" ")
    return int(at), float(watts)


def read_user_line(line: str) -> tuple[int, float]:
    """Return time and power of a line `seconds watts`, by the monotonic clock.

    Raises:
        ValueError: It is no such line.
    """
    seconds, watts = (float(word) for word in line.split())
    if not (math.isfinite(seconds) and math.isfinite(watts)):
        raise ValueError(line)
    return int((seconds - time.time() + time.monotonic()) * 1e9), watts
