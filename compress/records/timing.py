"""Latencies, their ratios, and the machine that they were measured on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from compress.records.base import Count, Document, Factor, Figure, Milliseconds, Record


class Latency(Record):
    """Time per call of one file, from interleaved rounds."""

    p50: Milliseconds
    """Median over rounds of each round's median call, milliseconds; so are the fields below."""
    p90: Milliseconds | None
    """Percentile of all calls, and so is p99; `None` where there are too few calls."""
    p99: Milliseconds | None
    mean: Milliseconds
    stdev: Figure
    ci95: tuple[Milliseconds, Milliseconds]
    """Of p50, by the order of the rounds (`compress.statistics.series`)."""
    samples: Count
    """Timed calls."""
    percentiles_missing: str | None = None
    """Why p90 or p99 is missing; `None` where both are there."""
    rounds: tuple[Milliseconds, ...]
    """Median of each interleaved round, in order."""
    first_call: Figure
    """The first inference after loading."""
    load: Figure
    """Loading and compiling the file."""
    threads: Count
    batch_size: Count
    stable: bool
    """Whether warm-up settled, and the rounds agree and are independent."""
    instability: str | None = None
    """Why it is not stable; `None` where it is, or where an older record does not say."""


class Ratio(Record):
    """How many times faster a file is than the one it is compared with, from the same interleaved rounds."""

    against: str
    """Name of the slower or faster other."""
    speedup: Factor
    """Median over rounds of other / this; above 1 this one is faster."""
    ci95: tuple[Factor, Factor]
    """By the order of the rounds' ratios."""
    verdict: Literal["faster", "slower", "not distinguishable", "unstable"]


class Environment(Document):
    """The machine and the packages with which numbers were measured."""

    packages: dict[str, str]
    python: str
    platform: str
    cpu: str
    cores_physical: Count | None
    cores_logical: Count
    memory_bytes: Count
    facts: dict[str, str] = Field(default_factory=dict)
    """Governor, turbo, temperature, cgroup quota, affinity, load, hypervisor: what could be read, `unavailable` where not."""
