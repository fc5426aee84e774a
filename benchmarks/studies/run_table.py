"""Tables of one recipe: what each way of training was worth over seeds, and the files that came of it.

No command of its own: `python -m benchmarks.studies.readme` writes them, in seconds.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from benchmarks.report import wording
from benchmarks.report.spread import compute_spread_over_seeds, format_spread
from compress.records import Accuracy, Report, Scores, Variant
from compress.text import format_signed, quantify

PLAIN = "supervised"
LAST = 5
"""The last epochs, over which a converged network rises no more, are one in so many."""


class Rise(NamedTuple):
    """How a curve goes on in its last fifth."""

    points: float
    """Mean of the second half of it minus that of the first."""
    scatter: float
    """Standard deviation of all its values."""

    @property
    def is_over(self) -> bool:
        """Whether the curve rises by less than it scatters."""
        return self.points < self.scatter


def measure_rise(curve: Sequence[float]) -> Rise:
    """Return how a curve, [epochs], goes on in its last fifth, of which four values are the least."""
    last = curve[-max(4, len(curve) // LAST) :]
    half = len(last) // 2
    return Rise(statistics.fmean(last[-half:]) - statistics.fmean(last[:half]), statistics.stdev(last))


def make_run_tables(
    seeds: Report, files: Report, *, seeds_name: str, files_name: str, recipe: str, changes: str = ""
) -> Iterator[str]:
    """Yield the networks with their metric over seeds, the files, and how they were made, in Markdown.

    Args:
        seeds: Of a run with plain training among its baselines and several seeds.
        files: Of a run with exports; may be the same. Networks that it alone has stand in the table with their one seed.
        seeds_name: Of its folder in `benchmarks/results`, and below, of the other's.
        files_name: As that.
        recipe: Name of the recipe of both, without its ending.
        changes: What was typed behind it and `--seeds` for the first.
    """
    metric = wording.name_metric(seeds)
    yield f"| | method | parameters | {metric} on the test split | against plain training, points |"
    yield "|---|---|--:|--:|---|"
    known = {scores.network for scores in seeds.scores}
    alone = [scores for scores in files.scores if scores.network not in known]
    for report, scores in [*((seeds, each) for each in seeds.scores), *((files, each) for each in alone)]:
        parameters = next(row.parameters for row in report.variants if row.network == scores.network)
        cells = (scores.network, scores.method, f"{parameters:,}", _format_scores(scores), _compare(report, scores.network))
        yield f"| {' | '.join(cells)} |"
    if exported := [row for row in files.variants if row.size_bytes is not None and row.format != "torch"]:
        yield ""
        yield f"| file | size | {metric} on the test split | gate | rung |"
        yield "|---|--:|--:|---|---|"
    for row in exported:
        size = f"{(row.size_bytes or 0) / 1e6:.2f} MB"
        yield f"| {' | '.join((row.name, size, _format_accuracy(row.accuracy), row.status, _name_rung(row)))} |"
    yield ""
    yield _describe(seeds, f"{recipe}.yaml", changes, list(dict.fromkeys((seeds_name, files_name))))
    yield from _describe_convergence(seeds, metric)


def _format_scores(scores: Scores) -> str:
    """Return mean and standard deviation over seeds, or of one seed its metric."""
    if len(scores.seeds) > 1:
        return f"{format_spread(compute_spread_over_seeds(scores.seeds), 1)} %"
    return _format_accuracy(scores.seeds[0].accuracy)


def _compare(report: Report, network: str) -> str:
    found = next((row for row in report.paired if (row.this, row.other) == (network, PLAIN)), None)
    if found is None:
        return "–"
    low, high = map(format_signed, found.ci95)
    return f"{format_signed(found.points)} ({low} to {high}), {found.verdict}"


def _format_accuracy(found: Accuracy | None) -> str:
    return "–" if found is None else f"{found.percent:.1f} % ({found.ci95[0]:.1f}–{found.ci95[1]:.1f})"


def _name_rung(row: Variant) -> str:
    ladder = row.ladder
    return "–" if ladder is None or ladder.chosen is None else ladder.rungs[ladder.chosen].rung


def _describe(report: Report, recipe: str, changes: str, folders: Sequence[str]) -> str:
    """Return what one must know to judge the tables."""
    train, machine = report.recipe["train"], report.environment
    seeds = max(len(scores.seeds) for scores in report.scores)
    steps = train["epochs"] * (report.images["train"] // train["batch_size"])
    reports = " and ".join(f"`benchmarks/results/{name}/report.md`" for name in folders)
    took = f": {report.seconds / 60:.0f} minutes on {machine.cores_logical} cores ({machine.cpu})" if len(folders) == 1 else ""
    return (
        f"{report.images['train']:,} labelled training images of {len(report.classes)} classes, {report.images['test']:,} test "
        f"images; students from random weights, {train['epochs']} epochs, {steps:,} steps; mean ± standard deviation over "
        f"{quantify(seeds, 'seed')}, differences paired by image and seed with their 95 % interval; files are of the first "
        f"seed, and so is a network whose metric stands with its 95 % interval. `compress run recipes/{recipe} --seeds {seeds}"
        f"{changes}`{took}. Report: {reports}."
    )


def _describe_convergence(report: Report, metric: str) -> Iterator[str]:
    """Yield whether the networks of the first seed that were trained in epochs had converged; nothing where none was."""
    curves = {
        stage.stage: [percent for epoch in stage.epochs if (percent := epoch.validation_percent) is not None]
        for stage in report.stages
    }
    rises = {name: measure_rise(curve) for name, curve in curves.items() if len(curve) >= LAST * 4}
    if not rises:
        return
    each = ", ".join(f"{name} {format_signed(rise.points, 2)} ({rise.scatter:.2f})" for name, rise in rises.items())
    rising = [name for name, rise in rises.items() if not rise.is_over]
    verdict = " and ".join(rising) or "none"
    yield ""
    yield (
        f"Was training long enough? Change of validation {metric} within the last fifth of the epochs (mean of its second half "
        f"minus that of its first), in points, and in brackets the standard deviation of single epochs there: {each}. "
        f"Not converged is called what rises by more than it scatters: {verdict}."
    )
