"""Table of what each method was worth over plain training in every committed study.

No command of its own: `python -m benchmarks.studies.readme` writes it into `docs/concepts/which_method.md`, in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmarks.report import paired
from compress.records import Report, Scores
from compress.text import format_signed, quantify

PLAIN = "supervised"


def make_choice_table(reports: Mapping[str, Report]) -> Iterator[str]:
    """Yield the table in Markdown: a row for each method, a column for each study.

    Args:
        reports: By the name of their folder in `benchmarks/results`; each with plain training among its baselines.
    """
    columns = {name: _compare(report) for name, report in reports.items()}
    methods = dict.fromkeys(method for column in columns.values() for method in column)
    ranked = sorted(methods, key=lambda method: -sum(method in column for column in columns.values()))
    yield f"| method | {' | '.join(_head(name, report) for name, report in reports.items())} |"
    yield f"|---|{'---|' * len(columns)}"
    for method in ranked:
        yield f"| {method} | {' | '.join(column.get(method, 'not run') for column in columns.values())} |"


def _head(name: str, report: Report) -> str:
    """Return what a study was: student, images, steps, optimizer, seeds."""
    train, student = report.recipe["train"], report.recipe["student"]["model"].rpartition(".")[2]
    steps = train["epochs"] * (report.images["train"] // train["batch_size"])
    seeds = max(len(scores.seeds) for scores in report.scores)
    what = f"{student}, {report.recipe['data']['source']}, {report.images['train']:,} images, {steps:,} steps"
    return f"`benchmarks/results/{name}`: {what}, {train['optimizer']}, {quantify(seeds, 'seed')}"


def _compare(report: Report) -> dict[str, str]:
    """Return each method's points over plain training."""
    students = [scores for scores in report.scores if not paired.is_teacher(scores.network)]
    plain = next(scores for scores in students if scores.method == PLAIN)
    return {scores.method: _format(scores, plain) for scores in students if scores is not plain}


def _format(scores: Scores, plain: Scores) -> str:
    found = paired.pair(scores, plain)
    low, high = map(format_signed, found.ci95)
    verdict = "–" if found.verdict == "not distinguishable" else found.verdict
    return f"{format_signed(found.points)} ({low} to {high}) {verdict}"
