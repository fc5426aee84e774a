"""Latencies, their ratios, and the machine that they were measured on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from compress.records.base import Count, Document, Factor, Figure, Milliseconds, Percent, Record


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
    """Of p50, by the order of the rounds and by how processes differ (`compress.statistics.series`)."""
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
    launches: tuple[Count, ...] = ()
    """Rounds of each process, in order; none in older records, where one process made all."""
    cpu: Figure | None = None
    """CPU time of a call over all threads, median over rounds; `None` where it is not known, and so for the fields below."""
    waited_percent: Percent | None = None
    """Share of the time in which the process wanted a core and other work had it, in the rounds that count."""
    disturbed_rounds: Count | None = None
    """Rounds in which that was more than 5 %; they were repeated, up to twice the rounds."""
    calls_per_second: Factor | None = None
    """The pace at which calls began; `None` where one followed the other without a pause."""


class Ratio(Record):
    """How many times faster a file is than the one it is compared with, from the same interleaved rounds."""

    against: str
    """Name of the slower or faster other."""
    speedup: Factor
    """Median over rounds of other / this; above 1 this one is faster."""
    ci95: tuple[Factor, Factor]
    """By the order of the rounds' ratios."""
    verdict: Literal["faster", "slower", "not distinguishable", "unstable"]


class NativeTiming(Record):
    """Latency of a file by a runtime's own program; such a program gives no answers, so there is neither gate nor accuracy."""

    tool: str
    statistic: Literal["median", "mean"]
    """What the tool tells of the calls of a round."""
    device: str
    p50: Milliseconds
    """Median over rounds of what the tool told."""
    ci95: tuple[Milliseconds, Milliseconds]
    rounds: tuple[Milliseconds, ...]
    """Each by a process of its own."""
    threads: Count
    ratio: Ratio | None = None
    """Against the first file, from the same rounds."""


class Energy(Record):
    """Energy of a call of one file, as a sensor of the machine measured it, or why none did; nothing of it is estimated."""

    unavailable: str = ""
    """Why there is none; empty where it was measured."""
    above_idle_mj: Figure | None = None
    """Above what the idle machine takes in the same time, millijoules a call; median over blocks."""
    above_idle_ci95: tuple[Figure, Figure] | None = None
    total_mj: Figure | None = None
    """With what the idle machine takes."""
    total_ci95: tuple[Figure, Figure] | None = None
    idle_watts: Figure | None = None
    """Of the idle machine, median over blocks."""
    sensor: str = ""
    covers: str = ""
    """What the sensor sees; energies of sensors that see different things do not compare."""
    blocks: Count = 0
    samples: Count | None = None
    """Samples of power in all blocks; `None` of a sensor that counts energy by itself."""


class Window(Record):
    """Some seconds of a sustained run."""

    begin_s: Figure
    """Since the run began."""
    calls: Count
    p50: Milliseconds
    waited_percent: Percent | None
    """Share of the time in which the process wanted a core and other work had it; `None` where it is not known."""
    clock_mhz: Figure | None
    """Mean over the cores at its end, and so are the fields below."""
    celsius: Figure | None
    """Of the hottest sensor."""
    throttling: tuple[str, ...]
    """By which signs the machine slowed down; empty where there were none, or none can be read."""


class Layer(Record):
    """One operator of a file, as its runtime ran it."""

    name: str
    kind: str
    """The runtime's name of what it computes."""
    kernel: str
    """The provider or kernel that computed it."""
    arithmetic: Literal["int8", "moving", "float"]
    """What it computes in; `moving` computes nothing, it changes type, order or place of values."""
    ms: Figure
    """Median over calls."""
    percent: Percent
    """Of all layers."""


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


class Sustained(Record):
    """A file called without a pause for minutes."""

    minutes: Figure
    threads: Count
    batch_size: Count
    first: Milliseconds
    """Median of the windows' medians at the beginning: a minute, or a sixth of a shorter run."""
    last: Milliseconds
    """The same at the end."""
    throttled_from_s: Figure | None
    """When the machine first showed that it slows down; `None` where it did not, or does not tell."""
    disturbed_windows: Count | None
    """Windows in which other work had the core for more than 5 % of the time."""
    windows: tuple[Window, ...]
    machine: Environment
