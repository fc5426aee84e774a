"""Judge the rows of a report and word its verdicts and differences, alike for terminal, Markdown and HTML.

A difference whose interval holds 0 is called not distinguishable.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

from compress.records import Accuracy, EngineTrial, Latency, Report, StageResult, TeacherOutputsResult, Variant
from compress.tasks import CLASSIFICATION, load_task
from compress.text import (
    MISSING,
    format_number,
    quantify,
)

_NUMBER = re.compile(r"\d+(?:\.\d+)?")

State = Literal["passed", "failed", "skipped", "none"]


class Row(NamedTuple):
    """A variant with the verdict on it."""

    variant: Variant
    gate: State
    """`none` where nothing was gated, as for the torch network itself."""
    problem: str
    """What failed or was skipped; empty where all is well."""
    instability: str
    """Why its latency is a rough figure; empty where it is not."""

    @property
    def unstable(self) -> bool:
        """Whether its latency is a rough figure."""
        return bool(self.instability)

    @property
    def fit(self) -> bool:
        """Whether the row may be called good: nothing failed, nothing skipped, a settled latency."""
        return self.gate in ("passed", "none") and not self.unstable


class Difference(NamedTuple):
    """Top-1 of one network minus that of another, in points."""

    points: float
    low: float
    high: float
    verdict: Literal["better", "worse", "not distinguishable"]


class MethodResult(NamedTuple):
    """Accuracy of one network on the test split, and its difference to plain training and to the teacher."""

    variant: Variant
    accuracy: Accuracy
    to_supervised: Difference | None
    to_teacher: Difference | None


def judge_rows(report: Report) -> list[Row]:
    """Return every variant with its judgement, in the report's order."""
    return [_judge_row(report, variant) for variant in report.variants]


def _judge_row(report: Report, variant: Variant) -> Row:
    gate = report.gates.get(variant.name)
    state: State = gate.status if gate else "none"
    reasons = [gate.reason if gate else ""]
    if variant.status != "passed":
        state = variant.status if state in ("none", "passed") else state
        reasons.append(variant.reason)
    problem = "; ".join(dict.fromkeys(filter(None, reasons)))
    problem = problem or (f"{state} without a reason" if state in ("failed", "skipped") else "")
    return Row(variant, state, problem, _explain_instability(variant))


def _explain_instability(variant: Variant) -> str:
    latency, ratio = variant.latency_ms, variant.ratio
    if latency is not None and not latency.stable:
        return latency.instability or "its rounds scatter or drift by more than 10 %"
    return "its ratio is known to no better than 20 %" if ratio is not None and ratio.verdict == "unstable" else ""


def list_problems(report: Report) -> list[str]:
    """Return the warnings of a report, then what failed, each once after the names of all that have it."""
    return [*report.warnings, *_group_problems(row for row in judge_rows(report) if not _is_for_comparison(row))]


def list_omissions(rows: Sequence[Row]) -> list[str]:
    """Return why networks that were trained for comparison have no files, for a footnote."""
    return list(_group_problems(row for row in rows if _is_for_comparison(row)))


def _is_for_comparison(row: Row) -> bool:
    """Return whether a row is a network that was never meant to become a file."""
    return row.gate == "skipped" and row.variant.format == "torch"


class _Timed(Protocol):
    """A file whose latency may be a rough figure."""

    @property
    def instability(self) -> str: ...


def list_instabilities(rows: Sequence[_Timed]) -> list[str]:
    """Return why latencies are rough figures, for one footnote: each cause once, with how many files it concerns.

    Causes that differ in their numbers alone are one, with the range of each number.
    """
    alike: dict[str, list[str]] = {}
    for row in rows:
        for cause in filter(None, row.instability.split("; ")):
            alike.setdefault(_NUMBER.sub("#", cause), []).append(cause)
    return [f"{_join_numbers(causes)} ({quantify(len(causes), 'file')})" for causes in alike.values()]


def _join_numbers(texts: Sequence[str]) -> str:
    """Return one text for several that differ in their numbers alone: `40–44 %`."""
    places = [sorted(set(each), key=float) for each in zip(*map(_NUMBER.findall, texts), strict=True)]
    written = iter(each[0] if len(each) == 1 else f"{each[0]}–{each[-1]}" for each in places)
    return _NUMBER.sub(lambda _: next(written), texts[0])


def _group_problems(rows: Iterable[Row]) -> Iterator[str]:
    """Yield each problem once, after the names of all that have it."""
    found = list(rows)
    for problem in dict.fromkeys(row.problem for row in found if row.problem):
        yield f"{', '.join(row.variant.name for row in found if row.problem == problem)}: {problem}"


def may_ship(report: Report, row: Row, student: str) -> bool:
    """Return whether a row is a file of the student that a device could run; torch is what it is compared with."""
    return row.variant.network == student and row.variant.format != "torch" and row.variant.name in report.gates


def name_network(network: str) -> str:
    """Return a network's name within a sentence; of several teachers each has a number."""
    return f"the {network}" if network.isalpha() else network


def compare_methods(report: Report) -> list[MethodResult]:
    """Compare the networks on the test split with plain training and with the teacher; the teacher comes first."""
    trained: dict[tuple[str, str], Variant] = {}
    for variant in sorted(report.variants, key=lambda variant: variant.format != "torch"):
        if variant.accuracy:
            trained.setdefault((variant.network, variant.method), variant)
    teacher = next((each.accuracy for each in trained.values() if _is_teacher(each)), None)
    plain = next((each.accuracy for each in trained.values() if each.method == "supervised" and not _is_teacher(each)), None)
    return [
        MethodResult(
            each,
            each.accuracy,
            compute_difference(each.accuracy, plain)
            if plain and each.accuracy is not plain and not _is_teacher(each)
            else None,
            compute_difference(each.accuracy, teacher) if teacher and each.accuracy is not teacher else None,
        )
        for each in sorted(
            trained.values(), key=lambda each: (not _is_teacher(each), each.network == "student", each.method != "supervised")
        )
        if each.accuracy
    ]


def name_metric(report: Report) -> str:
    """Return the metric of a report's networks in words."""
    return load_task(report.task).metric.title


def compute_difference(this: Accuracy, other: Accuracy) -> Difference:
    """Return this minus other with a 95 % interval from both Wilson intervals (Newcombe 1998, method 10).

    The two count as independent samples. On the same images they agree on most, so the true interval is narrower and a
    difference that is called distinguishable here is so there.
    """
    points = this.percent - other.percent
    low = points - math.hypot(this.percent - this.ci95[0], other.ci95[1] - other.percent)
    high = points + math.hypot(this.ci95[1] - this.percent, other.percent - other.ci95[0])
    return Difference(points, low, high, "better" if low > 0 else "worse" if high < 0 else "not distinguishable")


def find_reference(report: Report) -> str:
    """Return the network that latencies are compared with, for a column title."""
    named = {variant.ratio.against for variant in report.variants if variant.ratio}
    networks = {variant.network for variant in report.variants if variant.name in named}
    return networks.pop() if len(networks) == 1 else "other"


def describe_protocol(report: Report) -> Iterator[str]:
    """Yield how accuracy and latency were measured."""
    samples = sorted({variant.accuracy.samples for variant in report.variants if variant.accuracy})
    if samples:
        kind = "Wilson 95 % interval" if report.task == CLASSIFICATION.name else "95 % interval by bootstrap over images"
        yield f"{name_metric(report)} on {' and '.join(map(str, samples))} test images, {kind}"
    timed = [variant.latency_ms for variant in report.variants if variant.latency_ms]
    for count, batch in sorted({(latency.threads, latency.batch_size) for latency in timed}):
        threads = quantify(count, "thread")
        yield f"latency: median over rounds of the median call, {threads}, batch {batch}, 95 % interval"


def _is_teacher(variant: Variant) -> bool:
    return variant.network.startswith("teacher")


def format_latency(latency: Latency | None) -> str:
    """Return the median latency."""
    return MISSING if latency is None else format_number(latency.p50)


def describe_engine_difference(trials: Sequence[EngineTrial]) -> tuple[str, str]:
    """Return how far the chosen engine of a teacher is from eager torch, and by which measure."""
    if not trials:
        return MISSING, ""
    chosen = trials[0]
    if chosen.max_logit_difference is None or chosen.agreement_percent is None:
        return format_number(chosen.relative_difference, 2), "relative rms"
    return format_number(chosen.max_logit_difference, 2), f"of a logit; {chosen.agreement_percent:.2f} % same class"


def list_teacher_outputs(stages: Iterable[StageResult]) -> list[tuple[StageResult, TeacherOutputsResult]]:
    """Return every stage with each record of the teacher outputs that it read."""
    return [(stage, teaching) for stage in stages for teaching in stage.teacher_outputs]
