"""Latencies, their ratios, and the machine that they were measured on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from compress.records.base import Document, Record


class Latency(Record):
    """Time per call of one file, from interleaved rounds."""

    p50: float
    """Median of all calls, milliseconds; so are the fields below."""
    p90: float
    p99: float
    mean: float
    stdev: float
    ci95: tuple[float, float]
    """Bootstrap interval of the median over rounds."""
    samples: int
    """Timed calls."""
    rounds: tuple[float, ...]
    """Median of each interleaved round, in order."""
    first_call: float
    """The first inference after loading."""
    load: float
    """Loading and compiling the file."""
    threads: int
    batch_size: int
    stable: bool
    """Whether warm-up settled and the rounds agree."""


class Ratio(Record):
    """How many times faster a file is than the one it is compared with, from the same interleaved rounds."""

    against: str
    """Name of the slower or faster other."""
    speedup: float
    """Median over rounds of other / this; above 1 this one is faster."""
    ci95: tuple[float, float]
    """Bootstrap interval."""
    verdict: Literal["faster", "slower", "not distinguishable", "unstable"]


class Environment(Document):
    """Where numbers were made."""

    packages: dict[str, str]
    python: str
    platform: str
    cpu: str
    cores_physical: int | None
    cores_logical: int
    memory_bytes: int
    facts: dict[str, str] = Field(default_factory=dict)
    """Governor, turbo, temperature, cgroup quota, affinity, load, hypervisor: what could be read, `unavailable` where not."""


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile with linear interpolation between the closest ranks."""
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)
