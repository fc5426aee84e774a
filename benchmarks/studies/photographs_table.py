"""Table of what a teacher with published weights was worth on real photographs, and of the files that came of it.

No command of its own: `python -m benchmarks.studies.readme` writes it, in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.report.spread import compute_spread_over_seeds, format_spread
from compress.records import Report, Scores, Variant
from compress.text import format_signed, quantify

PLAIN = "supervised"


def make_photographs_table(report: Report, name: str) -> Iterator[str]:
    """Yield the networks with their accuracy over seeds, the files, and how they were made, in Markdown.

    Args:
        report: Of a run with plain training among its baselines and several seeds.
        name: Of its folder in `benchmarks/results`.
    """
    yield "| | method | parameters | top-1 on the test split | against plain training, points |"
    yield "|---|---|--:|--:|---|"
    for scores in report.scores:
        parameters = next(row.parameters for row in report.variants if row.network == scores.network)
        cells = (scores.network, scores.method, f"{parameters:,}", _format_scores(scores), _compare(report, scores.network))
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield "| file | size | top-1 on the test split | gate | rung |"
    yield "|---|--:|--:|---|---|"
    for row in report.variants:
        if row.size_bytes is not None and row.format != "torch":
            size = f"{row.size_bytes / 1e6:.2f} MB"
            yield f"| {' | '.join((row.name, size, _format_accuracy(row), row.status, _name_rung(row)))} |"
    yield ""
    yield _describe(report, name)


def _format_scores(scores: Scores) -> str:
    """Return mean and standard deviation over seeds, or of one seed its accuracy."""
    if len(scores.seeds) > 1:
        return f"{format_spread(compute_spread_over_seeds(scores.seeds), 1)} %"
    accuracy = scores.seeds[0].accuracy
    return f"{accuracy.top1_percent:.1f} % ({accuracy.ci95[0]:.1f}–{accuracy.ci95[1]:.1f})"


def _compare(report: Report, network: str) -> str:
    found = next((row for row in report.paired if (row.this, row.other) == (network, PLAIN)), None)
    if found is None:
        return "–"
    low, high = map(format_signed, found.ci95)
    return f"{format_signed(found.points)} ({low} to {high}), {found.verdict}"


def _format_accuracy(row: Variant) -> str:
    found = row.accuracy
    return "–" if found is None else f"{found.top1_percent:.1f} % ({found.ci95[0]:.1f}–{found.ci95[1]:.1f})"


def _name_rung(row: Variant) -> str:
    ladder = row.ladder
    return "–" if ladder is None or ladder.chosen is None else ladder.rungs[ladder.chosen].rung


def _describe(report: Report, name: str) -> str:
    """Return what one must know to judge the tables."""
    train, machine = report.recipe["train"], report.environment
    seeds = max(len(scores.seeds) for scores in report.scores)
    steps = train["epochs"] * (report.images["train"] // train["batch_size"])
    return (
        f"{report.images['train']:,} labelled training images of {len(report.classes)} classes, {report.images['test']:,} test "
        f"images; students from random weights, {train['epochs']} epochs, {steps:,} steps; mean ± standard deviation over "
        f"{quantify(seeds, 'seed')}, differences paired by image and seed with their 95 % interval; files are of the first "
        f"seed. `compress run recipes/photographs.yaml --seeds {seeds}`: {report.seconds / 60:.0f} minutes on "
        f"{machine.cores_logical} cores ({machine.cpu}). Report: `benchmarks/results/{name}/report.md`."
    )
