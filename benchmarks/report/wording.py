"""Judge the rows of a report and word its verdicts and differences, alike for terminal, Markdown and HTML.

A difference whose interval holds 0 is called not distinguishable.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from compress.records import Accuracy, EngineTrial, Latency, Ratio, Report, StageResult, TeacherOutputsResult, Variant
from compress.text import (
    MISSING,
    format_number,
    format_percent,
    quantify,
)

State = Literal["passed", "failed", "skipped", "none"]


class Row(NamedTuple):
    """A variant with the verdict on it."""

    variant: Variant
    gate: State
    """`none` where nothing was gated, as for the torch network itself."""
    problem: str
    """What failed, is unstable or was skipped; empty where all is well."""
    unstable: bool

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


class Verdict(NamedTuple):
    """The first lines of a report."""

    state: State
    headline: str
    shipped: str
    """The best file that may be shipped; empty when there is none."""
    problems: tuple[str, ...]


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
    latency, ratio = variant.latency_ms, variant.ratio
    unstable = (latency is not None and not latency.stable) or (ratio is not None and ratio.verdict == "unstable")
    if unstable:
        reasons.append("latency unstable: its rounds scatter or drift by more than 10 %, so take it as a rough figure")
    problem = "; ".join(dict.fromkeys(filter(None, reasons)))
    return Row(variant, state, problem or (f"{state} without a reason" if state in ("failed", "skipped") else ""), unstable)


def judge_report(report: Report) -> Verdict:
    """Return whether the gate passed, and what may be shipped."""
    files = [row for row in judge_rows(report) if _may_ship(report, row)]
    passed = [row for row in files if row.gate == "passed"]
    if report.status == "failed" or len(passed) < len(files):
        state: State = "failed"
        refused = len(files) - len(passed)
        headline = (
            f"Failed: {refused} of {len(files)} files must not be shipped" if refused else "Failed: see what went wrong below"
        )
    elif passed:
        state, headline = "passed", f"Gate passed: {len(passed)} of {len(files)} files may be shipped"
        headline += ", but heed the warning" if report.warnings else ""
    else:
        state, headline = "none", "Not gated: no file was exported, so nothing may be shipped"
    return Verdict(state, headline, _describe_shipped(report, passed), (*report.warnings, *_group_problems(judge_rows(report))))


def _group_problems(found: Sequence[Row]) -> Iterator[str]:
    """Yield each problem once, after the names of all that have it."""
    for problem in dict.fromkeys(row.problem for row in found if row.problem):
        yield f"{', '.join(row.variant.name for row in found if row.problem == problem)}: {problem}"


def _may_ship(report: Report, row: Row) -> bool:
    """Return whether a row is a file of the student that a device could run; torch is what it is compared with."""
    return row.variant.network == "student" and row.variant.format != "torch" and row.variant.name in report.gates


def _describe_shipped(report: Report, passed: list[Row]) -> str:
    if not passed:
        return ""
    row = min(passed, key=lambda row: (row.unstable, row.variant.latency_ms.p50 if row.variant.latency_ms else math.inf))
    best = row.variant
    facts = [f"{format_percent(best.accuracy.top1_percent)} top-1 (n={best.accuracy.samples})"] if best.accuracy else []
    teacher = next((other for other in report.variants if other.network.startswith("teacher")), None)
    if teacher and teacher.parameters > best.parameters:
        facts.append(
            f"{format_number(teacher.parameters / best.parameters, 2)}× fewer parameters than {_name_network(teacher.network)}"
        )
    if best.ratio and best.latency_ms:
        rough = " (unstable, a rough figure)" if row.unstable else ""
        facts.append(
            f"{_describe_speed(report, best.ratio)}{rough} on {best.runtime}, {quantify(best.latency_ms.threads, 'thread')}"
        )
    if len({variant.device for variant in report.variants}) > 1:
        facts.append(f"device {best.device}")
    return f"{best.network} as {best.format} {best.precision}: {', '.join(facts)}"


def _describe_speed(report: Report, ratio: Ratio) -> str:
    network = next((variant.network for variant in report.variants if variant.name == ratio.against), ratio.against)
    other = _name_network(network)
    if ratio.verdict in ("faster", "slower"):
        times = ratio.speedup if ratio.verdict == "faster" else 1 / ratio.speedup
        return f"{format_number(times, 2)}× {ratio.verdict} than {other}"
    return f"latency {ratio.verdict} from {other}'s" if ratio.verdict == "not distinguishable" else "latency unstable"


def _name_network(network: str) -> str:
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


def compute_difference(this: Accuracy, other: Accuracy) -> Difference:
    """Return this minus other with a 95 % interval from both Wilson intervals (Newcombe 1998, method 10).

    The two count as independent samples. On the same images they agree on most, so the true interval is narrower and a
    difference that is called distinguishable here is so there.
    """
    points = this.top1_percent - other.top1_percent
    low = points - math.hypot(this.top1_percent - this.ci95[0], other.ci95[1] - other.top1_percent)
    high = points + math.hypot(this.ci95[1] - this.top1_percent, other.top1_percent - other.ci95[0])
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
        yield f"top-1 on {' and '.join(map(str, samples))} test images, Wilson 95 % interval"
    timed = [variant.latency_ms for variant in report.variants if variant.latency_ms]
    for count, batch in sorted({(latency.threads, latency.batch_size) for latency in timed}):
        threads = quantify(count, "thread")
        yield f"latency: median over rounds of the median call, {threads}, batch {batch}, bootstrap 95 % interval"


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
