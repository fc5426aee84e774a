"""Table of the study of methods: accuracy of each method for each student, and paired differences over seeds.

No command of its own: `python -m benchmarks.studies.readme` writes it, in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.report import paired
from benchmarks.report.spread import compute_spread_over_seeds, format_spread
from compress.records import Paired, Report, Scores
from compress.text import format_signed

REFERENCES = ("supervised", "kd")
SIGNS = {"better": "better", "worse": "worse", "not distinguishable": "–"}


def make_table(reports: Mapping[str, Report]) -> Iterator[str]:
    """Yield the table in Markdown, best first for the first student, with what one must know to judge it.

    Args:
        reports: By the name of the recipe that made them; each with the same teacher and data, and several seeds.
    """
    tables = [_make_rows(report) for report in reports.values()]
    students = [report.recipe["student"]["model"].rpartition(".")[2] for report in reports.values()]
    heads = [f"{student} | against supervised | against kd" for student in students]
    yield f"| method | {' | '.join(heads)} |"
    yield f"|---|{'---|---|---|' * len(tables)}"
    for method in _order_methods(tables):
        cells = [" | ".join(rows.get(method, ("not run", "", ""))) for rows in tables]
        yield f"| {method} | {' | '.join(cells)} |"
    yield ""
    yield _make_legend(reports)


def _order_methods(tables: Sequence[Mapping[str, tuple[str, str, str]]]) -> list[str]:
    return list(dict.fromkeys(method for rows in tables for method in rows))


def _make_rows(report: Report) -> dict[str, tuple[str, str, str]]:
    """Return the three cells of each way of training, best mean on the test images first."""
    known = [scores for scores in report.scores if not paired.is_teacher(scores.network)]
    references = {scores.method: scores for scores in known if scores.method in REFERENCES}
    found = {}
    for scores in sorted(known, key=_average, reverse=True):
        supervised, kd = (_format_comparison(scores, references[name]) for name in REFERENCES)
        found[scores.method] = format_spread(compute_spread_over_seeds(scores.seeds), 1), supervised, kd
    return found


def _average(scores: Scores) -> float:
    return sum(score.accuracy.top1_percent for score in scores.seeds) / len(scores.seeds)


def _format_comparison(scores: Scores, other: Scores) -> str:
    return "" if scores is other else _format_points(paired.pair(scores, other))


def _format_points(found: Paired) -> str:
    low, high = map(format_signed, found.ci95)
    return f"{format_signed(found.points)} ({low} to {high}) {SIGNS[found.verdict]}"


def _make_legend(reports: Mapping[str, Report]) -> str:
    report = next(iter(reports.values()))
    seeds = len(report.scores[-1].seeds)
    train, data = report.recipe["train"], report.recipe["data"]["source"]
    commands = " and ".join(f"`compress run recipes/{name}.yaml --seeds {seeds}`" for name in reports)
    return (
        f"Top-1 on {report.images['test']:,} test images, mean ± standard deviation over {seeds} seeds; differences in points, "
        f"paired by image and seed, with their 95 % interval; `–`: not distinguishable. {commands}: {report.images['train']:,} "
        f"training images ({data}), {train['epochs']} epochs, the same for all; a small budget, so this ranks methods for "
        "short training on little data. Reports: "
        + ", ".join(f"`benchmarks/results/{name}/report.md`" for name in reports)
        + "."
    )
