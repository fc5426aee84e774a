"""Say what was proved where, from committed results alone: task × format × precision × runtime × device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from benchmarks.studies.int8.records import OURS, Int8
from compress.records import Precision, Report
from compress.tasks import CLASSIFICATION

LOCAL = "local"
TORCH = "torch"
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


class Place(NamedTuple):
    """A format on a runtime, and where it ran."""

    task: str
    format: str
    runtime: str
    device: str


class Judged(NamedTuple):
    """A file, by its network, and whether it passed its gate."""

    place: Place
    precision: Precision
    network: str
    passed: bool


def make_support_table(reports: Iterable[Report], int8: Int8) -> Iterator[str]:
    """Yield the table in Markdown: for each place and precision how many files passed, and of which networks."""
    judged = [*(found for report in reports for found in list_judged(report)), *list_judged_int8(int8)]
    yield f"| {' | '.join(Place._fields)} | {' | '.join(PRECISIONS)} |"
    yield "|---" * (len(Place._fields) + len(PRECISIONS)) + "|"
    for place in sorted({each.place for each in judged}):
        counts = [
            count_passed([each for each in judged if (each.place, each.precision) == (place, precision)])
            for precision in PRECISIONS
        ]
        yield f"| {' | '.join((*place, *counts))} |"
    yield ""
    yield f"Files that passed their gate, of those that were judged; of {', '.join(sorted({each.network for each in judged}))}."


def count_passed(judged: Sequence[Judged]) -> str:
    """Return `7 of 7`."""
    return f"{sum(each.passed for each in judged)} of {len(judged)}" if judged else "–"


def list_judged(report: Report) -> Iterator[Judged]:
    """Yield the files of a run that were exported and judged; networks of maps and boxes by family and name."""
    sections = {"student": report.recipe["student"], "teacher": report.recipe["teacher"][0]}
    for row in report.variants:
        if row.format != TORCH and row.status in {"passed", "failed"}:
            where = "x86-64" if row.device == LOCAL else row.device
            place = Place(report.task, row.format, row.runtime, where)
            section = sections[row.network]
            model = str(section.get("architecture") or section["model"])  # `timm.any` has the name as an option
            name = model.rpartition(".")[2] if report.task == CLASSIFICATION.name else model
            yield Judged(place, row.precision, name, row.status == "passed")


def list_judged_int8(int8: Int8) -> Iterator[Judged]:
    """Yield the files that we made in the study of int8."""
    for network in int8.networks:
        for row in network.rows:
            if row.made_by == OURS and row.status in {"passed", "failed"}:
                place = Place(CLASSIFICATION.name, row.format, row.runtime, "x86-64")
                yield Judged(place, row.precision, network.name, row.status == "passed")
