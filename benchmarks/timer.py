"""Times loaded files: the tasks `measure` and `sustain` of `runner.py`, which loads this file and lends it its own functions.

`measure` loads all subjects into one process, warms each up until it stops getting faster, and times them in interleaved
rounds, so that whatever disturbs the machine disturbs all alike. A process has one layout of its memory and one moment, so the
rounds are split among `launches` processes, one after the other. `sustain` calls one subject without a pause for minutes, which
shows what heat does.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CALLS_BEFORE_BLOCK = 2
"""Untimed calls when a subject's turn comes: the others have cooled its caches and put its threads to sleep."""
CALLS_IN_BLOCK = (3, 5000)
"""Fewest and most timed calls of one subject in one round: a median needs three; more than 5000 tell nothing new."""
WARMUP_WINDOW_NS = 20_000_000
"""A warm-up window lasts this long and at least three calls, so that its median is not one scheduling accident."""
WARMUP_LIMIT_SECONDS = (0.5, 5.0)
"""A subject that has not settled is warmed up at least this long, and never longer."""
DISTURBED_SHARE = 0.05
"""A round is disturbed if its process waited for a core for a larger share of the time in which it wanted one."""
MOST_ROUNDS = 2
"""Disturbed rounds are repeated until there are so many times the rounds that were asked for."""
WINDOW_SECONDS = 10.0
"""A sustained run tells one median for each such window."""


def measure(job: dict[str, Any], folder: Path, runner: Any) -> dict[str, Any]:
    """Time all subjects in interleaved rounds, in as many processes as the job says, and join what they found."""
    launches = job.get("launches", 1)
    if launches == 1:
        return join([time_launch(job, folder, runner, 0)])
    parts = []
    for number in range(launches):
        start_launch(runner.__file__, folder, number)
        part = folder / f"launch-{number}.json"
        parts.append(json.loads(part.read_text(encoding="utf-8")))
        part.unlink()
    return join(parts)


def start_launch(program: str, folder: Path, number: int) -> None:
    """Run one launch in a process of its own; what ends it badly ends this one in the same way, for it has said why itself."""
    flags = {"-P": "safe_path", "-E": "ignore_environment", "-s": "no_user_site", "-S": "no_site"}
    kept = [flag for flag, name in flags.items() if getattr(sys.flags, name, False)]
    done = subprocess.run([sys.executable, *kept, program, "--launch", str(number), str(folder)], check=False)
    if done.returncode < 0:
        os.kill(os.getpid(), -done.returncode)
        time.sleep(5)  # a signal arrives when it likes
    if done.returncode:
        sys.exit(done.returncode)


def join(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the series of all launches one behind the other: of each subject, of the orders, and one state for each launch."""
    subjects: dict[str, Any] = {}
    for name in parts[0]["subjects"]:
        every = [part["subjects"][name] for part in parts]
        subjects[name] = {"effective": every[0]["effective"], "settled": all(each["settled"] for each in every)}
        for key in ("load_ns", "first_call_ns", "warmup_medians_ns"):
            subjects[name][key] = [each[key] for each in every]
        for key in ("rounds_ns", "cpu_ns", "waited", "major_faults"):
            subjects[name][key] = [value for each in every for value in each[key]]
    return {
        "subjects": subjects,
        "orders": [order for part in parts for order in part["orders"]],
        "launches": [part["launch"] for part in parts],
    }


def time_launch(job: dict[str, Any], folder: Path, runner: Any, number: int) -> dict[str, Any]:
    """Time all subjects in this process, in its share of the rounds; each round runs them in another order.

    A round in which this process had to wait for a core is repeated, up to `MOST_ROUNDS` times the rounds.
    """
    import numpy as np

    machine = runner.load_beside("machine")
    before = machine.read_state()
    launches, rounds = job.get("launches", 1), share_rounds(job, number)
    already = sum(share_rounds(job, each) + 1 for each in range(number))
    total, subjects = job["rounds"] + launches, job["subjects"]
    fed = runner.share_inputs(subjects, folder, job["batch_size"])
    seconds = job["seconds"] / launches / len(subjects)
    states = []
    for subject, batches in zip(subjects, fed):  # noqa: B905 (Python 3.9)
        runner.report_progress(already, total, subject["name"])
        states.append(load_subject(job, subject, folder, runner, batches=batches, seconds=seconds))
    set_calls(states, job)
    shuffler, quiet = np.random.default_rng([job["seed"], number]), 0
    orders: list[list[int]] = []
    clocks: list[float | None] = []
    gc.collect()
    gc.freeze()  # what is loaded by now stays; without this each collection between rounds takes 0.1 s
    while quiet < rounds and len(orders) < MOST_ROUNDS * rounds:
        gc.collect()
        orders.append(shuffler.permutation(len(states)).tolist())
        for index in orders[-1]:
            name = subjects[index]["name"]
            runner.report_progress(already + 1 + quiet, total, name)
            with runner.tag_errors(name):
                time_block(states[index], fed[index], machine, job.get("calls_per_second"))
                if job.get("cgroup"):
                    states[index]["waited"][-1] = None  # for its quota, as was asked
        clocks.append(machine.read_mean_clock_khz())
        quiet += all((state["waited"][-1] or 0) <= DISTURBED_SHARE for state in states)
    runner.report_progress(already + 1 + rounds, total, "")
    for state in states:
        state["effective"] = state.pop("runtime").effective()
    return {
        "subjects": {subject["name"]: state for subject, state in zip(subjects, states)},  # noqa: B905 (Python 3.9)
        "orders": orders,
        "launch": {
            "wanted": rounds, "rounds": len(orders), "clock_khz": clocks, "before": before, "after": machine.read_state(),
        },
    }  # fmt: skip


def share_rounds(job: dict[str, Any], number: int) -> int:
    """Return how many of a job's rounds are those of one launch."""
    launches = job.get("launches", 1)
    return int(job["rounds"] // launches + (number < job["rounds"] % launches))


def set_calls(states: list[dict[str, Any]], job: dict[str, Any]) -> None:
    """Set how often each subject is called in a round: so that all rounds of all subjects take the job's time."""
    share_ns = job["seconds"] * 1e9 / job["rounds"] / len(states)
    pause_ns = 1e9 / job["calls_per_second"] if job.get("calls_per_second") else 0.0
    for state in states:
        least_ns = max(state["warmup_medians_ns"][-1], pause_ns, 1.0)
        state["calls"] = int(min(max(share_ns / least_ns, CALLS_IN_BLOCK[0]), CALLS_IN_BLOCK[1]))


def load_subject(
    job: dict[str, Any], subject: dict[str, Any], folder: Path, runner: Any, *, batches: list[Any], seconds: float
) -> dict[str, Any]:
    """Load one subject and warm it up; what is special about the first calls is recorded apart."""
    with runner.tag_errors(subject["name"]):
        open_file = runner.make_opener(job, subject, folder)
        begun = time.perf_counter_ns()
        runtime = open_file()
        loaded = time.perf_counter_ns()
        runtime(batches[0])
        first = time.perf_counter_ns()
        medians, settled = warm_up(runtime, batches, seconds)
    return {
        "runtime": runtime,
        "load_ns": loaded - begun,
        "first_call_ns": first - loaded,
        "warmup_medians_ns": medians,
        "settled": settled,
        "rounds_ns": [],
        "cpu_ns": [],
        "waited": [],
        "major_faults": [],
    }


def warm_up(runtime: Any, batches: list[Any], seconds: float) -> tuple[list[float], bool]:
    """Call until the windows' medians stop falling; return these medians and whether they did."""
    import numpy as np

    limit = min(max(seconds, WARMUP_LIMIT_SECONDS[0]), WARMUP_LIMIT_SECONDS[1])
    medians: list[float] = []
    begun, calls = time.perf_counter(), CALLS_IN_BLOCK[0]
    while not is_steady(medians):
        if time.perf_counter() - begun > limit and len(medians) >= 4:
            return medians, False
        medians.append(float(np.median(time_calls(runtime, batches, calls))))
        calls = int(min(max(WARMUP_WINDOW_NS / max(medians[-1], 1.0), CALLS_IN_BLOCK[0]), CALLS_IN_BLOCK[1]))
    return medians, True


def is_steady(medians: list[float], *, tolerance: float = 0.03, windows: int = 3) -> bool:
    """Return whether warm-up is over: none of the last `windows` medians beat the best before them by more than `tolerance`.

    Only getting faster counts as warming up. Noise and throttling make a window slower; the rounds show those.
    """
    if len(medians) <= windows:
        return False
    return min(medians[-windows:]) >= (1 - tolerance) * min(medians[:-windows])


def time_block(state: dict[str, Any], batches: list[Any], machine: Any, calls_per_second: float | None) -> None:
    """Time the calls of one subject in one round, and add them to its series with what the process did meanwhile.

    That is the CPU time of a call, over all threads; the share of the time in which the process wanted a core and had none;
    and how often it waited for a page from disk.
    """
    before, faults = machine.read_times(), machine.read_major_faults()
    begun_ns = time.process_time_ns()
    time_calls(state["runtime"], batches, CALLS_BEFORE_BLOCK)
    calls_ns = time.process_time_ns()
    durations = time_calls(state["runtime"], batches, state["calls"], calls_per_second)
    ended_ns = time.process_time_ns()
    after, faults_after = machine.read_times(), machine.read_major_faults()
    state["rounds_ns"].append(durations)
    state["cpu_ns"].append((ended_ns - calls_ns) / len(durations))
    waited_ns = None if before is None or after is None else max(0, after[1] - before[1])
    wanted_ns = None if waited_ns is None else waited_ns + max(1, ended_ns - begun_ns)
    state["waited"].append(None if waited_ns is None or wanted_ns is None else waited_ns / wanted_ns)
    state["major_faults"].append(None if faults is None or faults_after is None else faults_after - faults)


def time_calls(runtime: Any, batches: list[Any], calls: int, calls_per_second: float | None = None) -> list[int]:
    """Return the nanoseconds of each of `calls` calls, with the garbage collector off.

    With `calls_per_second` a call begins at its time or, where the one before it took longer, at once; until then it sleeps.
    """
    clock, durations = time.perf_counter_ns, []
    pause_ns = 1e9 / calls_per_second if calls_per_second else 0.0
    first = clock()
    gc.disable()
    try:
        for number in range(calls):
            images = batches[number % len(batches)]
            if pause_ns:
                time.sleep(max(0.0, (first + number * pause_ns - clock()) / 1e9))
            begun = clock()
            runtime(images)
            durations.append(clock() - begun)
    finally:
        gc.enable()
    return durations


def sustain(job: dict[str, Any], folder: Path, runner: Any) -> dict[str, Any]:
    """Call one subject without a pause for the job's seconds, and tell what became of it in windows."""
    machine, subject = runner.load_beside("machine"), job["subjects"][0]
    (batches,) = runner.share_inputs([subject], folder, job["batch_size"])
    state = load_subject(job, subject, folder, runner, batches=batches, seconds=WARMUP_LIMIT_SECONDS[1])
    window_seconds = min(WINDOW_SECONDS, job["seconds"] / 6)
    windows: list[dict[str, Any]] = []
    begun = time.perf_counter()
    with runner.tag_errors(subject["name"]):
        while (now := time.perf_counter() - begun) < job["seconds"]:
            runner.report_progress(int(now), int(job["seconds"]), subject["name"])
            windows.append({"begin_s": now, **time_window(state["runtime"], batches, machine, window_seconds)})
    runner.report_progress(int(job["seconds"]), int(job["seconds"]), "")
    kept = ("load_ns", "first_call_ns", "warmup_medians_ns", "settled")
    return {"windows": windows, "effective": state["runtime"].effective(), **{key: state[key] for key in kept}}


def time_window(runtime: Any, batches: list[Any], machine: Any, seconds: float) -> dict[str, Any]:
    """Return the durations of the calls of one window, and what the machine was like at its end."""
    before, begun_ns, begun = machine.read_times(), time.process_time_ns(), time.perf_counter()
    durations: list[int] = []
    while time.perf_counter() - begun < seconds:
        durations += time_calls(runtime, batches, len(batches))
    after, cpu_ns = machine.read_times(), time.process_time_ns() - begun_ns
    waited_ns = None if before is None or after is None else max(0, after[1] - before[1])
    return {
        "calls_ns": durations,
        "waited": None if waited_ns is None else waited_ns / (waited_ns + max(1, cpu_ns)),
        "clock_khz": machine.read_mean_clock_khz(),
        "temperature_millicelsius": max(machine.read_numbers("sys/class/thermal/thermal_zone*/temp"), default=None),
        "throttling": machine.find_throttling(),
    }
