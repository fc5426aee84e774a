"""Record of the training speed, its verdicts against goals, and its Markdown report."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from benchmarks.report import pages
from benchmarks.studies.training_speed.memory import Peak
from benchmarks.studies.training_speed.ours import INT8, OURS
from benchmarks.studies.training_speed.pairs import Pair
from benchmarks.studies.training_speed.profile import Profile
from benchmarks.studies.training_speed.roofline import Cost
from compress.records import Document, Environment, Ratio, Record, save
from compress.statistics.series import (
    compute_median_interval,
    compute_paired_ratios,
    compute_unpaired_ratio,
    explain_instability,
    judge_ratio,
)

Outcome = Literal["met", "missed", "undecided", "not measured", "no goal"]
Rounds = Mapping[str, tuple[float, ...]]

MEMORY_GOAL = 1.1
STORE_GOAL_BYTES, STORE_GOAL_SIGNALS, STORE_GOAL_CLASSES = 1024, 4, 100
PEER_PAIR = "resnet56-resnet20"
"""The goals against torchdistill are set for this pair."""


class Wanted(NamedTuple):
    """A comparison, and what it should give."""

    subject: str
    against: str
    goal: float | None = None


WANTED = (
    Wanted("kd, cached", "plain", 0.95),
    Wanted("dist, cached", "plain", 0.95),
    Wanted("dih, cached", "plain", 0.95),
    Wanted("kd, fastest engine", "torchdistill", 3.0),
    Wanted("kd, cached", "torchdistill", 5.0),
    Wanted("kd", "torchdistill"),
    Wanted("kd", "torchdistill, tensors in memory"),
    Wanted("kd, fastest engine", "torchdistill, tensors in memory"),
    Wanted("kd, cached", "torchdistill, tensors in memory"),
    Wanted("kd", "plain"),
    Wanted("kd, fastest engine", "plain"),
    Wanted("kd, int8 teacher", "plain"),
    Wanted("kd, int8 teacher", "torchdistill"),
    Wanted("plain, compiled", "plain"),
    Wanted("kd, cached, compiled", "kd, cached"),
    Wanted("kd, cached, compiled", "torchdistill"),
)


class Speed(Record):
    """How fast one subject trains."""

    subject: str
    reason: str = ""
    """Why it was not measured; then there are no numbers."""
    images_per_s: float | None = None
    """Median over rounds."""
    ci95: tuple[float, float] | None = None
    rounds: tuple[float, ...] = ()
    stable: bool = False
    """Whether its rounds determine the median: a narrow interval, no drift."""
    facts: dict[str, str]


class Compared(Record):
    """Images per second of one subject over those of another."""

    subject: str
    against: str
    ratio: Ratio | None
    goal: float | None
    outcome: Outcome
    limit: float | None
    """The largest ratio that the roofline allows, given how fast the other was: median over rounds, as the ratio."""


class Roofline(Record):
    """Speed of the machine in the same rounds, cost of a step, and the bound that follows."""

    sgemm_gflop_per_s: float
    sgemm_ci95: tuple[float, float]
    sgemm_rounds: tuple[float, ...]
    """GFLOP/s in each round."""
    copy_gib_per_s: float
    copy_ci95: tuple[float, float]
    step_gflop_per_image: float
    """Forward and backward of the student."""
    teacher_gflop_per_image: float
    step_mib_per_image: float
    """Read and written by the operators of a student's eager step, as if nothing were held in caches."""
    step_bound_images_per_s: float
    """Arithmetic of the student alone at the speed of sgemm."""
    uncached_bound_images_per_s: float
    """Arithmetic of student and teacher at the speed of sgemm."""
    step_traffic_images_per_s: float
    """If that traffic went to memory at the speed of copy: an estimate, no bound."""


class Memory(Record):
    """Peak memory of a process that trains one subject."""

    subject: str
    peak_bytes: int | None
    """Median over processes."""
    mapped_bytes: int
    """Of it, pages of the store's files."""
    times_plain: float | None
    """Without those pages, over the peak of plain training: the ratio of medians."""
    ci95: tuple[float, float] | None = None
    peaks_bytes: tuple[int, ...] = ()
    """Of each process, without those pages."""
    outcome: Outcome


class Store(Record):
    """Disk space of the stored outputs of the DIH cohort."""

    signals: int
    classes: int
    bytes_per_image_and_view: float
    outcome: Outcome


class PairResult(Record):
    """Results for one pair."""

    pair: Pair
    images: str
    """What they show."""
    same_work: float | None
    """Difference of our and torchdistill's update of the weights after one step on one batch, relative to its size."""
    speeds: tuple[Speed, ...]
    compared: tuple[Compared, ...]
    roofline: Roofline
    profiles: tuple[Profile, ...]
    memory: tuple[Memory, ...]
    store: Store | None
    """Whether the cohort's outputs were stored, and how, in the subject `dih, cached`."""


class TrainingSpeed(Document):
    """The benchmark's result."""

    command: str
    environment: Environment
    device: str
    threads: int
    rounds: int
    seconds: float
    pairs: tuple[PairResult, ...]


def judge_goal(goal: float | None, ci95: tuple[float, float]) -> Outcome:
    """Judge the interval of a ratio against the goal that it should reach."""
    if goal is None:
        return "no goal"
    return "met" if ci95[0] >= goal else "missed" if ci95[1] < goal else "undecided"


def summarise_speed(name: str, rounds: Sequence[float], facts: Mapping[str, str]) -> Speed:
    """Return the summary of one subject's images per second in each round."""
    return Speed(
        subject=name, images_per_s=statistics.median(rounds), ci95=compute_median_interval(rounds),
        rounds=tuple(rounds), stable=not explain_instability(rounds), facts=dict(facts),
    )  # fmt: skip


def compare(wanted: Wanted, speeds: Mapping[str, Speed], pair: Pair, bounds: Roofline) -> Compared:
    """Return one comparison, from the rounds that the two have in common."""
    own, other = speeds[wanted.subject], speeds[wanted.against]
    peer = wanted.against not in OURS
    goal = wanted.goal if pair.name == PEER_PAIR or not peer else None
    if not own.rounds or not other.rounds:
        return Compared(subject=own.subject, against=other.subject, ratio=None, goal=goal, outcome="not measured", limit=None)
    ratios = compute_paired_ratios([1 / rate for rate in other.rounds], [1 / rate for rate in own.rounds])
    ci95 = compute_median_interval(ratios)
    ratio = Ratio(against=other.subject, speedup=statistics.median(ratios), ci95=ci95, verdict=judge_ratio(ci95))
    step = OURS[own.subject]
    alone = step.cached or step.method == "supervised" or step.engine == INT8  # no float32 bounds what int8 can do
    gflop = bounds.step_gflop_per_image + (0 if alone else bounds.teacher_gflop_per_image)
    limits = [peak / gflop / rate for peak, rate in zip(bounds.sgemm_rounds, other.rounds, strict=True)]
    return Compared(
        subject=own.subject, against=other.subject, ratio=ratio, goal=goal, outcome=judge_goal(goal, ci95),
        limit=statistics.median(limits),
    )  # fmt: skip


def compute_roofline(cost: Cost, rounds: Rounds, images: int) -> Roofline:
    """Return the bounds that follow from the cost of a step of so many images and the speed of the machine."""
    sgemm, copy = statistics.median(rounds["sgemm"]), statistics.median(rounds["copy"])
    return Roofline(
        sgemm_gflop_per_s=sgemm / 1e9,
        sgemm_ci95=_scale(compute_median_interval(rounds["sgemm"]), 1e9),
        sgemm_rounds=tuple(rate / 1e9 for rate in rounds["sgemm"]),
        copy_gib_per_s=copy / 2**30,
        copy_ci95=_scale(compute_median_interval(rounds["copy"]), 2**30),
        step_gflop_per_image=cost.step_flop / images / 1e9,
        teacher_gflop_per_image=cost.teacher_flop / images / 1e9,
        step_mib_per_image=cost.step_bytes / images / 2**20,
        step_bound_images_per_s=sgemm * images / cost.step_flop,
        uncached_bound_images_per_s=sgemm * images / (cost.step_flop + cost.teacher_flop),
        step_traffic_images_per_s=copy * images / cost.step_bytes,
    )


def _scale(bounds: tuple[float, float], unit: float) -> tuple[float, float]:
    return bounds[0] / unit, bounds[1] / unit


def summarise_memory(name: str, peaks: Sequence[Peak], plain: Sequence[Peak]) -> Memory:
    """Return how much memory a subject needs beside plain training; the goal is for subjects that read the store.

    Args:
        name: The subject.
        peaks: Of its processes.
        plain: Of as many processes of plain training; none where that was not measured.
    """
    known = [peak.peak_bytes for peak in peaks if peak.peak_bytes is not None]
    mapped = max(peak.mapped_bytes for peak in peaks)
    own = [peak.peak_bytes - peak.mapped_bytes for peak in peaks if peak.peak_bytes is not None]
    other = [peak.peak_bytes for peak in plain if peak.peak_bytes is not None]
    whole = int(statistics.median(known)) if known else None
    if not own or not other:
        found: Outcome = "not measured" if OURS[name].cached else "no goal"
        return Memory(subject=name, peak_bytes=whole, mapped_bytes=mapped, times_plain=None, outcome=found)
    if name == "plain":
        return Memory(
            subject=name, peak_bytes=whole, mapped_bytes=mapped, times_plain=1.0, peaks_bytes=tuple(own), outcome="no goal"
        )  # fmt: skip
    ratio, ci95 = compute_unpaired_ratio(own, other)
    judged: Outcome = "met" if ci95[1] <= MEMORY_GOAL else "missed" if ci95[0] > MEMORY_GOAL else "undecided"
    return Memory(
        subject=name, peak_bytes=whole, mapped_bytes=mapped, times_plain=ratio, ci95=ci95, peaks_bytes=tuple(own),
        outcome=judged if OURS[name].cached else "no goal",
    )  # fmt: skip


def summarise_store(signals: int, classes: int, bytes_per_image: float) -> Store:
    """Return what the store takes; the goal is for four members and 100 classes."""
    met: Outcome = "met" if bytes_per_image <= STORE_GOAL_BYTES else "missed"
    asked = (signals, classes) == (STORE_GOAL_SIGNALS, STORE_GOAL_CLASSES)
    return Store(
        signals=signals, classes=classes, bytes_per_image_and_view=bytes_per_image, outcome=met if asked else "no goal"
    )


def write(result: TrainingSpeed, folder: Path) -> None:
    """Write `report.json` and `report.md` into a folder, each whole or not at all.

    Raises:
        Unreachable: The disk is full or the folder cannot be written.
    """
    save(folder / "report.json", result)
    pages.save(folder / "report.md", render(result))


def render(result: TrainingSpeed) -> str:
    """Return the result as Markdown."""
    goals = {"memory": MEMORY_GOAL, "store": STORE_GOAL_BYTES}
    return pages.render_markdown("report.md.j2", folder=Path(__file__).parent, result=result, goals=goals)
