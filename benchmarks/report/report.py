"""Report of a run: `report.json` for programs, and the same as a page, as Markdown and as a table in the terminal.

The page is one file that needs no network, no font and no script, follows light and dark, and prints.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich import box
from rich.table import Table
from rich.text import Text

from benchmarks.report import curves, devices, energies, ladder, pages, scores, trade_off, wording
from benchmarks.report.calibrations import describe_calibrations
from benchmarks.report.headline import compute_headline
from benchmarks.report.recalls import describe_parts, describe_recalls
from benchmarks.report.wording import Row
from compress.records import Epoch, Headline, Ratio, Report, StageResult, Variant, save
from compress.tasks import CLASSIFICATION, load_task, name_metric
from compress.text import MISSING, format_bytes, format_count, format_interval, format_number, format_percent

DECISION_STYLES = {"ship": "bold green", "ship if": "bold yellow", "do not ship": "bold red", "nothing to ship": "bold yellow"}
STYLES = {"passed": "green", "failed": "bold red", "skipped": "yellow", "none": "dim"}


def write(report: Report, folder: Path) -> None:
    """Write `report.json`, `report.md` and `report.html` into a folder, each whole or not at all.

    Raises:
        Unreachable: The disk is full or the folder cannot be written.
    """
    report = add_headline(report)
    save(folder / "report.json", report)
    facts = _collect_context(report)
    pages.save(folder / "report.md", pages.render_markdown("report.md.j2", **facts))
    pages.save(folder / "report.html", pages.render_html("report.html.j2", **facts, **_draw_charts(report)))


def draw_picture(report: Report, *, narrow: bool = False) -> str:
    """Return accuracy against latency of a run on one device as a file of its own, SVG.

    Args:
        report: The record.
        narrow: For a phone.
    """
    points = [point for row in wording.judge_rows(report) if (point := _make_point(row))]
    key = trade_off.Key.from_points(points)
    width, height = (400, 400) if narrow else (1040, 520)
    drawing = trade_off.draw_trade_off(points, key, width=width, height=height)
    legend, bottom = _place_legend(trade_off.make_legend(points, key), left=8 if narrow else 56, top=height + 2, width=width)
    label = trade_off.describe_chart(points)
    return pages.render_html("picture.svg.j2", drawing=drawing, legend=legend, label=label, width=width, height=bottom)


def _place_legend(
    signs: Sequence[tuple[str, Markup]], *, left: int, top: int, width: int
) -> tuple[list[tuple[str, int, str, Markup]], int]:
    """Return the signs with their places in pixels, row by row, and where they end."""
    placed, x, y = [], float(left), top
    for name, sign in signs:
        if x > left and x + 26 + 5.7 * len(name) > width:
            x, y = float(left), y + 20
        placed.append((f"{x:.0f}", y, name, sign))
        x += 44 + 6.6 * len(name)
    return placed, y + 30


def add_headline(report: Report) -> Report:
    """Return the report with its headline, computed from all else in it."""
    return report.model_copy(update={"headline": compute_headline(report)})


def make_headline(report: Report, folder: Path | None = None) -> Text:
    """Return the headline for the terminal: all answers in a line, why to ship or not, and what to ship instead.

    Args:
        report: The record.
        folder: Of the run, for the command that ships another network.
    """
    headline = compute_headline(report)
    instead = headline.instead if folder is None else headline.instead.replace("RUN", shlex.quote(str(folder)), 1)
    text = Text(headline.line, style=DECISION_STYLES[headline.decision])
    text.append(f"\n{headline.why}", style="not bold default")
    text.append(f"\nto ship the better one: {instead}" if instead else "", style="not bold default")
    return text.append("".join(f"\n{line}" for line in _list_details(headline)), style="not bold dim default")


def _list_details(headline: Headline) -> list[str]:
    """Return what the answers were measured on, for those that were."""
    titles = {"speed": headline.speed, "against the teacher": headline.loss, "against plain training": headline.plain}
    return [f"{title}: {answer.detail}" for title, answer in titles.items() if answer.detail]


def make_table(report: Report) -> Table:
    """Return the results as a table for 100 columns or more: one row for each file, with what failed below it."""
    rows = wording.judge_rows(report)
    several = len({row.variant.device for row in rows}) > 1
    drawn = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, caption_justify="left", caption_style=""
    )
    for heading in ("network\nmethod", "runtime\nfile"):
        drawn.add_column(heading, overflow="fold")
    numbers = (
        "param.\nsize",
        f"{wording.name_metric(report)} %\n95 %",
        "agree\n%",
        "latency ms\n95 %",
        f"speed-up over\n{wording.find_reference(report)}, 95 %",
        "images\nper s",
    )
    for heading in numbers:
        drawn.add_column(heading, justify="right", overflow="fold")
    drawn.add_column("gate")
    for network in dict.fromkeys(row.variant.network for row in rows):
        for index, row in enumerate(each for each in rows if each.variant.network == network):
            drawn.add_row(*_make_cells(row, first=index == 0, with_device=several))
        drawn.add_section()
    drawn.caption = _make_caption(report)
    return drawn


def _make_cells(row: Row, *, first: bool, with_device: bool) -> list[Text]:
    variant, latency, ratio = row.variant, row.variant.latency_ms, row.variant.ratio
    file = variant.precision if variant.format == variant.runtime else f"{variant.format} {variant.precision}"
    cells = [
        _name_network(variant) if first else "",
        f"{variant.runtime}\n{file}" + (f"\n{variant.device}" if with_device else ""),
        f"{format_count(variant.parameters)}\n{format_bytes(variant.size_bytes)}",
        _stack(f"{variant.accuracy.percent:.1f}", format_interval(variant.accuracy.ci95, 1)) if variant.accuracy else MISSING,
        format_percent(variant.agreement_percent).removesuffix(" %"),
        _stack(format_number(latency.p50) + (" ≈" if row.unstable else ""), format_interval(latency.ci95))
        if latency
        else MISSING,
        _format_ratio(ratio) if ratio else MISSING,
        format_count(variant.throughput_per_s and round(variant.throughput_per_s)),
    ]
    gate = MISSING if row.gate == "none" else row.gate
    return [*(Text(cell) for cell in cells), Text(gate, style=STYLES[row.gate])]


def _name_network(variant: Variant) -> str:
    return variant.network if variant.network == variant.method else f"{variant.network}\n{variant.method}"


def _format_ratio(ratio: Ratio) -> str:
    """Return the verdict with its ratio and interval, or the verdict alone where it names no difference."""
    if ratio.verdict in ("faster", "slower"):
        return f"{format_number(ratio.speedup)}× {ratio.verdict}\n{format_interval(ratio.ci95, 2)}"
    return ratio.verdict.replace(" ", "\n", 1)


def _stack(value: str, bounds: str) -> str:
    return f"{value}\n{bounds}"


def _make_caption(report: Report) -> Text:
    rows = wording.judge_rows(report)
    caption = Text("\n".join(wording.describe_protocol(report)) + "\n", style="dim")
    if causes := wording.list_instabilities(rows):
        caption.append(f"≈ unstable, a rough figure: {'; '.join(causes)}\n")
    caption.append("\n".join(wording.list_omissions(rows)) + "\n")
    caption.append("\n".join(_list_other_problems(report, compute_headline(report))), style="not dim")
    caption.rstrip()
    return caption


def _list_other_problems(report: Report, headline: Headline) -> list[str]:
    """Return the problems of a report that the headline does not tell already."""
    return [problem for problem in wording.list_problems(report) if problem[1:] != headline.why[1:]]


def _collect_context(report: Report) -> dict[str, Any]:
    """Collect the values that both templates show."""
    rows = wording.judge_rows(report)
    networks = dict.fromkeys((row.variant.network, row.variant.method) for row in rows)
    headline = compute_headline(report)
    return {
        "report": report,
        "headline": headline,
        "problems": _list_other_problems(report, headline),
        "omissions": wording.list_omissions(rows),
        "instabilities": wording.list_instabilities(rows),
        "groups": [[row for row in rows if (row.variant.network, row.variant.method) == each] for each in networks],
        "front": _find_front(report, rows),
        "several_devices": len({row.variant.device for row in rows}) > 1,
        "against": wording.find_reference(report),
        "compared": wording.compare_methods(report) if not report.paired else [],
        "recalls": describe_recalls(report),
        "parts": describe_parts(report),
        "metric": wording.name_metric(report),
        "agreement_means": _explain_agreement(report),
        "calibrations": describe_calibrations(report),
        "methods": scores.describe_methods(report) if report.paired else [],
        "contrasts": scores.describe_contrasts(report.paired),
        "reading": scores.explain_contrasts(report),
        "protocol": list(wording.describe_protocol(report)),
        "effective": _group_effective(rows),
        "percentiles_missing": _list_missing_percentiles(rows),
        "int8_files": ladder.describe_int8_files(report),
        "devices": devices.describe_devices(report),
        "apart": devices.APART,
        "energies": energies.describe_energies(report),
        "energies_apart": energies.APART,
    }


def _list_missing_percentiles(rows: Sequence[Row]) -> list[str]:
    """Return each reason once why a file has no p90 or p99."""
    timed = [row.variant.latency_ms for row in rows if row.variant.latency_ms]
    return list(dict.fromkeys(latency.percentiles_missing for latency in timed if latency.percentiles_missing))


def _group_effective(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return the settings that runtimes report, each once with the variants that it holds for."""
    variants: dict[str, list[str]] = {}
    for row in rows:
        variants.setdefault(", ".join(f"{key} {value}" for key, value in row.variant.effective.items()), []).append(
            row.variant.name
        )
    return [(text, ", ".join(names)) for text, names in variants.items() if text]


def _draw_charts(report: Report) -> dict[str, Any]:
    """Draw the charts, which only the page shows."""
    points: dict[str, list[trade_off.Point]] = {variant.device: [] for variant in report.variants}
    for row in wording.judge_rows(report):
        points[row.variant.device] += filter(None, [_make_point(row)])
    return {
        "pictures": trade_off.draw_pictures(points),
        "device_pictures": {
            name: (drawn, legend) for name, drawn, legend in trade_off.draw_pictures(devices.list_points(report))
        },
        "stages": [(stage, _draw_training(stage, wording.name_metric(report))) for stage in report.stages if stage.epochs],
        "sensitivity_pictures": {
            each.variant.name: ladder.draw_sensitivity(each.shown, each.kept)
            for each in ladder.describe_int8_files(report)
            if each.shown
        },
    }


def _find_front(report: Report, rows: Sequence[Row]) -> set[str]:
    """Return the names of the variants on the Pareto front of their device."""
    names: set[str] = set()
    for device in {variant.device for variant in report.variants}:
        drawn = [(row.variant.name, point) for row in rows if row.variant.device == device and (point := _make_point(row))]
        fronts = trade_off.find_front([point for _, point in drawn])
        names |= {name for (name, _), front in zip(drawn, fronts, strict=True) if front}
    return names


def _explain_agreement(report: Report) -> str:
    """Return what the agreement of the report's files is a share of."""
    if load_task(report.task).boxes:
        return (
            "the average precision at an overlap of 0.5, on test images, of what the file finds by what the torch network "
            "finds that it was made of, and the other way round"
        )
    if load_task(report.task).is_dense:
        return "the mean IoU, on test images, of the file's maps with those of the torch network that the file was made of"
    if report.task != CLASSIFICATION.name:
        return "how far, on test images, the file and the torch network that it was made of give the same answer"
    return "share of test images with the same top-1 class as the torch network that the file was made of"


def _make_point(row: Row) -> trade_off.Point | None:
    variant, accuracy, latency = row.variant, row.variant.accuracy, row.variant.latency_ms
    if accuracy is None or latency is None:
        return None
    return trade_off.Point(
        name=f"{variant.network} {variant.runtime} {variant.precision}",
        series=_name_series(variant),
        runtime=variant.runtime,
        latency=(latency.p50, *latency.ci95),
        accuracy=(accuracy.percent, *accuracy.ci95),
        state="good" if row.fit else "unstable" if row.gate in ("passed", "none") else "failed",
        metric=name_metric(accuracy.metric),
    )


def _name_series(variant: Variant) -> str:
    return variant.network if variant.network == variant.method else f"{variant.network}: {variant.method}"


def _draw_training(stage: StageResult, metric: str) -> list[Markup]:
    """Return the loss terms, the validation accuracy, and quantities that the method records, of one stage over its epochs."""
    terms = list(dict.fromkeys(term for epoch in stage.epochs for term in epoch.losses))
    if len(terms) == 2:
        terms = [term for term in terms if term != "total"]
    lines = [_make_curve(term, [(epoch, epoch.losses.get(term)) for epoch in stage.epochs]) for term in terms]
    lines = [line for line in lines if line.values]
    drawn = [curves.draw_curves(lines, y_title="weighted loss", label=f"{stage.stage}: loss terms")] if lines else []
    top1 = _make_curve(metric, [(epoch, epoch.validation_percent) for epoch in stage.epochs])
    if top1.values:
        kept = stage.best_epoch
        best = (kept, top1.values[kept]) if kept is not None and kept in top1.values else None
        drawn.append(
            curves.draw_curves(
                [top1], y_title=f"validation {metric}, %", label=f"{stage.stage}: validation accuracy", best=best
            )
        )
    watched = list(dict.fromkeys(name for epoch in stage.epochs for name in epoch.observed))
    others = [_make_curve(name, [(epoch, epoch.observed.get(name)) for epoch in stage.epochs]) for name in watched]
    if others := [line for line in others if line.values]:
        drawn.append(
            curves.draw_curves(
                others, y_title="mean over the epoch", label=f"{stage.stage}: quantities that the method records"
            )
        )
    return drawn


def _make_curve(name: str, values: Sequence[tuple[Epoch, float | None]]) -> curves.Curve:
    return curves.Curve(name, {epoch.epoch: value for epoch, value in values if value is not None and math.isfinite(value)})
