"""Latencies, their ratios, and the machine that they were measured on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from compress.records.base import Document, Record


class Latency(Record):
    """Time per call of one file, from interleaved rounds."""

    p50: float
    """Median over rounds of each round's median call, milliseconds; so are the fields below."""
    p90: float | None
    """Percentile of all calls, and so is p99; `None` where there are too few calls."""
    p99: float | None
    mean: float
    stdev: float
    ci95: tuple[float, float]
    """Of p50, by the order of the rounds (`compress.statistics.series`)."""
    samples: int
    """Timed calls."""
    percentiles_missing: str | None = None
    """Why p90 or p99 is missing; `None` where both are there."""
    rounds: tuple[float, ...]
    """Median of each interleaved round, in order."""
    first_call: float
    """The first inference after loading."""
    load: float
    """Loading and compiling the file."""
    threads: int
    batch_size: int
    stable: bool
    """Whether warm-up settled, and the rounds agree and are independent."""
    instability: str | None = None
    """Why it is not stable; `None` where it is, or where an older record does not say."""


class Ratio(Record):
    """How many times faster a file is than the one it is compared with, from the same interleaved rounds."""

    against: str
    """Name of the slower or faster other."""
    speedup: float
    """Median over rounds of other / this; above 1 this one is faster."""
    ci95: tuple[float, float]
    """By the order of the rounds' ratios."""
    verdict: Literal["faster", "slower", "not distinguishable", "unstable"]


class Environment(Document):
    """The machine and the packages with which numbers were measured."""

    packages: dict[str, str]
    python: str
    platform: str
    cpu: str
    cores_physical: int | None
    cores_logical: int
    memory_bytes: int
    facts: dict[str, str] = Field(default_factory=dict)
    """Governor, turbo, temperature, cgroup quota, affinity, load, hypervisor: what could be read, `unavailable` where not."""
