"""Timing of training steps in interleaved rounds: what disturbs the machine disturbs all subjects alike.

A subject is a source of steps. In each round every subject has one turn; within a turn the first steps are not timed, so that
caches, and batches that worker processes have made ahead, are as they are in the middle of an epoch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

Steps = Generator[None, None, None]


@dataclass(frozen=True)
class Subject:
    """Something that can be done again and again."""

    name: str
    steps: Callable[[], Steps]
    """Begins a turn: each `next` does one step, with all that belongs to it; closing it ends the turn."""
    work: float
    """What one step does, in images, floating-point operations or bytes."""
    settle: int = 1
    """Steps at the beginning of a turn that are not timed."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What a reader of its rate must know."""


def measure_rates(
    subjects: Sequence[Subject],
    *,
    rounds: int,
    seconds: float,
    seed: int = 0,
    uncounted: int = 1,
    wait: Callable[[], None] = lambda: None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, tuple[float, ...]]:
    """Return the work per second of each subject in each round.

    Args:
        subjects: What is timed; their names differ.
        rounds: Rounds that count.
        seconds: How long each subject is timed in a round; at least one step is.
        seed: Of the order within the rounds.
        uncounted: Rounds before them that do not count.
        wait: Returns when the device has done all that it was given.
        progress: Told whose turn it is.
    """
    found: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    random = np.random.default_rng(seed)
    for number in range(-uncounted, rounds):
        for place in random.permutation(len(subjects)):
            subject = subjects[place]
            progress(subject.name)
            rate = _time_turn(subject, seconds if number >= 0 else 0.0, wait)
            if number >= 0:
                found[subject.name].append(rate)
    return {name: tuple(values) for name, values in found.items()}


def _time_turn(subject: Subject, seconds: float, wait: Callable[[], None]) -> float:
    with closing(subject.steps()) as steps:
        for _ in range(subject.settle):
            next(steps)
        wait()
        done, begun, elapsed = 0, time.perf_counter(), 0.0
        while not done or elapsed < seconds:
            next(steps)
            done += 1
            elapsed = time.perf_counter() - begun
        wait()
        return done * subject.work / (time.perf_counter() - begun)
