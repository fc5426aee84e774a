"""Many runs beside each other: one table and one picture, with mean and spread where runs differ only in their seed.

Runs whose recipes are equal apart from `seed` and `name` are one group, and each of its files one row. Files of different
runs were never timed in the same interleaved rounds, so no verdict about their latency is given.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from benchmarks import _facts, _pages, _pictures
from benchmarks._facts import MISSING, Row
from compress.errors import CompressError
from compress.records import Report, Variant


class Spread(NamedTuple):
    """A quantity over runs, or with its interval from one run."""

    mean: float
    low: float
    high: float
    deviation: float | None
    """Sample standard deviation over seeds; `None` for a single run."""


class Entry(NamedTuple):
    """One file over the runs of a group."""

    run: str
    seeds: tuple[int, ...]
    variant: Variant
    """Of the first run."""
    accuracy: Spread | None
    latency: Spread | None
    problems: tuple[str, ...]
    state: _facts.State
    unstable: bool


class Comparison(NamedTuple):
    """Runs beside each other."""

    entries: tuple[Entry, ...]
    warnings: tuple[str, ...]


def compare(reports: Sequence[Report]) -> Comparison:
    """Return every file of every group of runs.

    Raises:
        CompressError: There is no report.
    """
    if not reports:
        raise CompressError("compare: there is no report to compare; give the folder of at least one run that has finished")
    entries = [entry for group in _groups(reports) for entry in _entries(group)]
    return Comparison(tuple(entries), tuple(_warnings(reports)))


def compare_table(reports: Sequence[Report]) -> Table:
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
    for heading in ("param.\nsize", "top-1 %\n± std or 95 %", "latency ms\n± std or 95 %"):
        drawn.add_column(heading, justify="right", overflow="fold")
    drawn.add_column("gate")
    last = ""
    for entry in comparison.entries:
        if last and entry.run != last:
            drawn.add_section()
        drawn.add_row(*_cells(entry, first=entry.run != last))
        last = entry.run
    drawn.caption = Text("\n".join(comparison.warnings))
    return drawn


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
    points: dict[str, list[_pictures.Point]] = {entry.variant.device: [] for entry in comparison.entries}
    for entry in comparison.entries:
        points[entry.variant.device] += filter(None, [_point(entry)])
    pictures = _pictures.pictures(points)
    _pages.save(target, _pages.html("comparison.html.j2", comparison=comparison, pictures=pictures, written=spread_text))
    return target


def _groups(reports: Sequence[Report]) -> list[list[Report]]:
    """Return runs that differ only in their seed together; a second run of a seed is no new evidence and stands alone."""
    groups: dict[tuple[str, int], list[Report]] = {}
    seen: dict[tuple[str, object], int] = {}
    for report in reports:
        recipe = json.dumps({key: value for key, value in report.recipe.items() if key not in ("seed", "name")}, sort_keys=True)
        repeat = seen[recipe, report.recipe.get("seed")] = seen.get((recipe, report.recipe.get("seed")), -1) + 1
        groups.setdefault((recipe, repeat), []).append(report)
    return list(groups.values())


def _entries(group: Sequence[Report]) -> list[Entry]:
    seeds = tuple(int(report.recipe.get("seed", 0)) for report in group)
    files: dict[str, list[Row]] = {}
    for report in group:
        for row in _facts.rows(report):
            files.setdefault(row.variant.name, []).append(row)
    return [_entry(_title(group), seeds, rows) for rows in files.values()]


def _entry(run: str, seeds: tuple[int, ...], rows: Sequence[Row]) -> Entry:
    accuracies = [(score.top1_percent, *score.ci95) for row in rows if (score := row.variant.accuracy)]
    latencies = [(time.p50, *time.ci95) for row in rows if (time := row.variant.latency_ms)]
    worst = min((row.gate for row in rows), key=("failed", "skipped", "none", "passed").index)
    problems = tuple(dict.fromkeys(row.problem for row in rows if row.problem))
    unstable = any(row.unstable for row in rows)
    return Entry(run, seeds, rows[0].variant, _spread(accuracies), _spread(latencies), problems, worst, unstable)


def _spread(values: Sequence[tuple[float, float, float]]) -> Spread | None:
    if not values:
        return None
    if len(values) == 1:
        return Spread(*values[0], deviation=None)
    middles = [value for value, _, _ in values]
    mean, deviation = statistics.fmean(middles), statistics.stdev(middles)
    return Spread(mean, mean - deviation, mean + deviation, deviation)


def _title(group: Sequence[Report]) -> str:
    names = [report.name for report in group]
    if len(set(names)) == 1:
        return names[0]
    shared = "".join(letters[0] for letters in takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False)))
    return re.sub(r"[-_. ]+(s|seed)?[-_. ]*$", "", shared) or names[0]


def _warnings(reports: Sequence[Report]) -> list[str]:
    warnings = [
        "Latencies of different runs were not timed in the same rounds: compare them only by far more than their intervals."
    ]
    machines = sorted({f"{report.environment.cpu} ({report.environment.platform})" for report in reports})
    if len(machines) > 1:
        warnings.append(f"The runs come from different machines, so their latencies do not compare: {'; '.join(machines)}.")
    if len({report.images.get("test") for report in reports}) > 1:
        warnings.append("The runs were tested on different numbers of images, so their accuracies may not compare.")
    return warnings


def spread_text(spread: Spread | None, digits: int | None = None) -> str:
    """Return `98.2 ± 0.3` over seeds, or `98.2 (96.2–99.2)` for a single run."""
    if spread is None:
        return MISSING
    if spread.deviation is None:
        middle = _facts.significant(spread.mean) if digits is None else f"{spread.mean:.{digits}f}"
        return f"{middle} ({_facts.span((spread.low, spread.high), digits)})"
    decimals = len(_facts.significant(spread.mean).partition(".")[2]) if digits is None else digits + 1
    return f"{spread.mean:.{decimals}f} ± {spread.deviation:.{decimals}f}"


def _cells(entry: Entry, *, first: bool) -> list[Text]:
    variant = entry.variant
    seeds = f"{entry.run}\n{len(entry.seeds)} seed{'s' * (len(entry.seeds) > 1)}"
    file = variant.precision if variant.format == variant.runtime else f"{variant.format} {variant.precision}"
    gate = MISSING if entry.state == "none" else entry.state
    style = "bold red" if entry.state == "failed" else "yellow" if entry.unstable else ""
    return [
        Text(seeds if first else ""),
        Text(variant.network if variant.network == variant.method else f"{variant.network}\n{variant.method}"),
        Text(f"{variant.runtime}\n{file}"),
        Text(f"{_facts.count(variant.parameters)}\n{_facts.size(variant.size_bytes)}"),
        Text(spread_text(entry.accuracy, 1)),
        Text(spread_text(entry.latency)),
        Text(gate + ("\nunstable" if entry.unstable else ""), style=style),
    ]


def _point(entry: Entry) -> _pictures.Point | None:
    variant, accuracy, latency = entry.variant, entry.accuracy, entry.latency
    if accuracy is None or latency is None:
        return None
    return _pictures.Point(
        name=f"{entry.run} {variant.network} {variant.runtime} {variant.precision}",
        series=f"{entry.run}: {variant.network}",
        runtime=variant.runtime,
        latency=(latency.mean, max(latency.low, 0.05 * latency.mean), latency.high),
        accuracy=(accuracy.mean, accuracy.low, min(100.0, accuracy.high)),
        state="failed" if entry.state in ("failed", "skipped") else "unstable" if entry.unstable else "good",
    )
