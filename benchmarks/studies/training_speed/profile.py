"""Profile of a training step: torch's profiler over a few steps, operator by operator.

Times are those of the thread that trains: an operator's own, without the operators that it calls. What other threads or
processes do meanwhile, such as a data loader's workers, is not seen; what runs outside torch, such as a runtime that runs
the teacher, Python itself, and waiting, is the rest. Profiling slows small operators down, so shares tell where to look,
not how fast a step is.
"""

from __future__ import annotations

import time
from contextlib import closing

import torch.profiler

from benchmarks.studies.training_speed.rounds import Subject
from compress.records import Record

STEPS = 4
SHOWN = 8
REST, OUTSIDE = "other operators", "outside torch's operators"


class Share(Record):
    """One operator's part of the time."""

    operator: str
    calls_per_step: float
    percent: float


class Profile(Record):
    """Time of one subject's steps by operator."""

    subject: str
    ms_per_step: float
    """With the profiler on."""
    shares: tuple[Share, ...]
    """The largest first; then the other operators, then what is outside torch."""


def profile_steps(subject: Subject) -> Profile:
    """Profile a few settled steps."""
    with closing(subject.steps()) as steps:
        for _ in range(subject.settle):
            next(steps)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            begun = time.perf_counter()
            for _ in range(STEPS):
                next(steps)
            seconds = time.perf_counter() - begun
    found = sorted(profiler.key_averages(), key=lambda each: -each.self_cpu_time_total)
    own = {each.key: (each.self_cpu_time_total / 1e6, each.count) for each in found}
    listed = [_make_share(name, *own[name], seconds) for name in list(own)[:SHOWN]]
    others = list(own.values())[SHOWN:]
    inside = sum(spent for spent, _ in own.values())
    listed.append(_make_share(REST, sum(spent for spent, _ in others), sum(calls for _, calls in others), seconds))
    listed.append(_make_share(OUTSIDE, max(seconds - inside, 0.0), 0, seconds))
    return Profile(subject=subject.name, ms_per_step=1000 * seconds / STEPS, shares=tuple(listed))


def _make_share(operator: str, spent: float, calls: int, seconds: float) -> Share:
    return Share(operator=operator, calls_per_step=calls / STEPS, percent=100 * spent / seconds)
