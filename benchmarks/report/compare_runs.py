"""Compare several runs: one table and one chart, with mean and spread where runs differ only in their seed.

Runs whose recipes are equal apart from `seed` and `name` are one group, and each of its files one row; so is a run that has
several seeds of its own. Files of different runs were never timed in the same interleaved rounds, so no verdict about their
latency is given; about the accuracy of their students there is one, against the first run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from benchmarks.report import against_others, devices, pages, scores, trade_off, wording
from benchmarks.report.spread import Spread, compute_spread, find_scores, format_spread, list_top1
from benchmarks.report.wording import Row
from compress.errors import CompressError
from compress.records import Paired, Report, Variant
from compress.text import MISSING, format_bytes, format_count, quantify

APART = (
    "Latencies of different runs are not compared: they were not timed in the same rounds, and the machine differs from run to "
    "run by more than their intervals say. `compress bench RUN...` times them together."
)


class Entry(NamedTuple):
    """One file over the runs of a group."""

    run: str
    seeds: tuple[int, ...]
    variant: Variant
    """Of the first run."""
    accuracy: Spread | None
    latency: Spread | None
    metric: str
    """What the accuracy is, in words."""
    problems: tuple[str, ...]
    state: wording.State
    instability: str
    """Why its latency is a rough figure in a run; empty where it is not."""

    @property
    def unstable(self) -> bool:
        """Whether its latency is a rough figure in a run."""
        return bool(self.instability)


class Comparison(NamedTuple):
    """Files and students of several runs."""

    entries: tuple[Entry, ...]
    paired: tuple[Paired, ...]
    """The student of each run against that of the first, where both were tested on the same images."""
    warnings: tuple[str, ...]


def compare(reports: Sequence[Report]) -> Comparison:
    """Compare the files and the students of several runs; runs that differ only in their seed count as one.

    Raises:
        CompressError: There is no report.
    """
    if not reports:
        raise CompressError("compare: there is no report to compare; give the folder of at least one run that has finished")
    groups = _group_by_recipe(reports)
    entries = [entry for group in groups for entry in _merge_files(group)]
    paired, apart = against_others.compare_with_first([(_name_group(group), group) for group in groups])
    return Comparison(tuple(entries), paired, (*apart, *_collect_warnings(reports)))


def make_document(reports: Sequence[Report]) -> dict[str, Any]:
    """Return the comparison for programs: the unchanged reports, paired comparisons and warnings.

    Raises:
        CompressError: There is no report.
    """
    comparison = compare(reports)
    return {"reports": list(reports), "paired": comparison.paired, "warnings": comparison.warnings}


def make_comparison_table(reports: Sequence[Report]) -> Table:
    """Return the comparison as a table for 100 columns or more.

    Raises:
        CompressError: There is no report.
    """
    comparison = compare(reports)
    drawn = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, caption_justify="left", caption_style=""
    )
    for heading in ("run", "network\nmethod", "runtime\nfile"):
        drawn.add_column(heading, overflow="fold")
    for heading in ("param.\nsize", f"{_name_metrics(reports)} %\n± std or 95 %", "latency ms\n± std or 95 %"):
        drawn.add_column(heading, justify="right", overflow="fold")
    drawn.add_column("gate")
    last = ""
    trained = {run: max(len(each.seeds) for each in comparison.entries if each.run == run) for run in _list_runs(comparison)}
    for entry in comparison.entries:
        if last and entry.run != last:
            drawn.add_section()
        drawn.add_row(*_make_cells(entry, trained=trained[entry.run] if entry.run != last else None))
        last = entry.run
    causes = wording.list_instabilities(comparison.entries)
    rough = [f"≈ unstable, a rough figure: {'; '.join(causes)}"] if causes else []
    drawn.caption = Text("\n".join([*rough, *comparison.warnings]))
    return drawn


def make_student_tables(reports: Sequence[Report]) -> list[Table]:
    """Return the students against that of the first run as a table for 100 columns, none for one run.

    Raises:
        CompressError: There is no report.
    """
    paired = compare(reports).paired
    return [scores.make_contrast_table(paired)] if paired else []


def write_comparison(reports: Sequence[Report], path: Path) -> Path:
    """Write the comparison as one page, whole or not at all, and return its path.

    Args:
        reports: At least one.
        path: The page, or a folder that gets `comparison.html`.

    Raises:
        CompressError: There is no report.
        Unreachable: The disk is full or the folder cannot be written.
    """
    comparison = compare(reports)
    target = path if path.suffix == ".html" else path / "comparison.html"
    points: dict[str, list[trade_off.Point]] = {entry.variant.device: [] for entry in comparison.entries}
    for entry in comparison.entries:
        points[entry.variant.device] += filter(None, [_make_point(entry)])
    pictures = trade_off.draw_pictures(points)
    page = pages.render_html(
        "comparison.html.j2",
        comparison=comparison,
        contrasts=scores.describe_contrasts(comparison.paired),
        metric=_name_metrics(reports),
        pictures=pictures,
        format_spread=format_spread,
        describe_seeds=scores.describe_seeds,
        instabilities=wording.list_instabilities(comparison.entries),
    )
    pages.save(target, page)
    return target


def _name_metrics(reports: Sequence[Report]) -> str:
    """Return what the accuracies are, for a column: of runs of several tasks each."""
    return " or ".join(dict.fromkeys(wording.name_metric(report) for report in reports))


def _group_by_recipe(reports: Sequence[Report]) -> list[list[Report]]:
    """Return runs that differ only in their seed together; a second run of a seed is no new evidence and stands alone."""
    groups: dict[tuple[str, int, tuple[int, ...]], list[Report]] = {}
    seen: dict[tuple[str, object], int] = {}
    for report in reports:
        recipe = json.dumps({key: value for key, value in report.recipe.items() if key not in ("seed", "name")}, sort_keys=True)
        repeat = seen[recipe, report.recipe.get("seed")] = seen.get((recipe, report.recipe.get("seed")), -1) + 1
        seeds = _list_seeds(report)
        groups.setdefault((recipe, repeat, seeds if len(seeds) > 1 else ()), []).append(report)
    return list(groups.values())


def _list_seeds(report: Report, network: str = "student") -> tuple[int, ...]:
    """Return the seeds of a network; before reports kept scores, that of the recipe."""
    return tuple(score.seed for score in find_scores(report, network)) or (int(report.recipe.get("seed", 0)),)


def _merge_files(group: Sequence[Report]) -> list[Entry]:
    files: dict[str, list[tuple[Report, Row]]] = {}
    for report in group:
        for row in wording.judge_rows(report):
            files.setdefault(row.variant.name, []).append((report, row))
    return [_merge_file(_name_group(group), found) for found in files.values()]


def _merge_file(run: str, found: Sequence[tuple[Report, Row]]) -> Entry:
    rows = [row for _, row in found]
    seeds = tuple(seed for report, row in found for seed in _list_seeds(report, row.variant.network))
    accuracies = [each for report, row in found for each in list_top1(report, row.variant)]
    latencies = [(time.p50, *time.ci95) for row in rows if (time := row.variant.latency_ms)]
    worst = min((row.gate for row in rows), key=("failed", "skipped", "none", "passed").index)
    problems = tuple(dict.fromkeys(row.problem for row in rows if row.problem))
    causes = dict.fromkeys(cause for row in rows if row.unstable for cause in row.instability.split("; "))
    metric = wording.name_metric(found[0][0])
    spreads = compute_spread(accuracies), compute_spread(latencies)
    return Entry(run, seeds, rows[0].variant, *spreads, metric, problems, worst, "; ".join(causes))


def _name_group(group: Sequence[Report]) -> str:
    names = [report.name for report in group]
    if len(set(names)) == 1:
        return names[0]
    shared = "".join(letters[0] for letters in takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False)))
    return re.sub(r"[-_. ]+(s|seed)?[-_. ]*$", "", shared) or names[0]


def _collect_warnings(reports: Sequence[Report]) -> list[str]:
    warnings = [APART]
    machines = sorted({f"{report.environment.cpu} ({report.environment.platform})" for report in reports})
    if len(machines) > 1:
        warnings.append(f"The runs come from different machines, so their latencies do not compare: {'; '.join(machines)}.")
    warnings += devices.list_compared_apart(reports)
    if any(len(_list_seeds(report)) > 1 for report in reports):
        warnings.append(
            "A run with several seeds exported the first. Its files stand at the mean over seeds of their network, less what"
            " the file lost against it on that seed; ± is the sample standard deviation over seeds."
        )
    return warnings


def _list_runs(comparison: Comparison) -> dict[str, None]:
    return dict.fromkeys(entry.run for entry in comparison.entries)


def _make_cells(entry: Entry, *, trained: int | None) -> list[Text]:
    """Return a row; the first of a run says with how many seeds it was `trained`."""
    variant = entry.variant
    run = f"{entry.run}\n{quantify(trained, 'seed')}" if trained is not None else ""
    file = variant.precision if variant.format == variant.runtime else f"{variant.format} {variant.precision}"
    gate = MISSING if entry.state == "none" else entry.state
    style = "bold red" if entry.state == "failed" else ""
    return [
        Text(run),
        Text(variant.network if variant.network == variant.method else f"{variant.network}\n{variant.method}"),
        Text(f"{variant.runtime}\n{file}"),
        Text(f"{format_count(variant.parameters)}\n{format_bytes(variant.size_bytes)}"),
        Text(format_spread(entry.accuracy, 1)),
        Text(format_spread(entry.latency) + (" ≈" if entry.unstable else "")),
        Text(gate, style=style),
    ]


def _make_point(entry: Entry) -> trade_off.Point | None:
    variant, accuracy, latency = entry.variant, entry.accuracy, entry.latency
    if accuracy is None or latency is None:
        return None
    return trade_off.Point(
        name=f"{entry.run} {variant.network} {variant.runtime} {variant.precision}",
        series=f"{entry.run}: {variant.network}",
        runtime=variant.runtime,
        latency=(latency.mean, max(latency.low, 0.05 * latency.mean), latency.high),
        accuracy=(accuracy.mean, accuracy.low, min(100.0, accuracy.high)),
        state="failed" if entry.state in ("failed", "skipped") else "unstable" if entry.unstable else "good",
        metric=entry.metric,
    )
