"""What devices beside this machine gave: one line for each file on each, in an order that ranks no device above another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from benchmarks.report import trade_off, wording
from compress.records import DeviceResults, Report, Variant
from compress.tasks import name_metric
from compress.text import MISSING, format_interval, format_number, format_percent, quantify

APART = "Latencies of different devices do not compare, so no device stands above another."
STYLES = {"passed": "green", "failed": "bold red", "skipped": "yellow"}


class DeviceLine(NamedTuple):
    """One file on one device, as text."""

    file: str
    runtime: str
    gate: str
    accuracy: str
    images: str
    same_answers: str
    """What it answers beside this machine."""
    latency: str
    speedup: str
    unstable: str
    """Why its latency is a rough figure; empty where it is not."""


class DeviceTable(NamedTuple):
    """All files on one device."""

    results: DeviceResults
    about: str
    """What the device is."""
    lines: tuple[DeviceLine, ...]


def describe_devices(report: Report) -> list[DeviceTable]:
    """Return a table for each device beside this machine, in the recipe's order."""
    return [DeviceTable(each, _describe(each), tuple(_make_line(each, row) for row in each.rows)) for each in report.devices]


def _describe(results: DeviceResults) -> str:
    """Return what a device is, and whether it is one."""
    kind = ["emulated: it shows that answers are right, and no times"] if results.emulated else []
    machine = results.environment
    if machine is not None:
        packages = ", ".join(f"{name} {version}" for name, version in machine.packages.items())
        kind += filter(None, [machine.cpu, machine.platform, f"Python {machine.python}", packages])
    return "; ".join(kind)


def _make_line(results: DeviceResults, row: Variant) -> DeviceLine:
    gate, latency, ratio, accuracy = results.gates.get(row.name), row.latency_ms, row.ratio, row.accuracy
    if latency is not None:
        timed = f"{format_number(latency.p50)}{'' if latency.stable else ' ≈'} ({format_interval(latency.ci95)})"
    else:
        timed = "emulated, not timed" if results.emulated else MISSING
    return DeviceLine(
        file=f"{row.network} {row.format} {row.precision}",
        runtime=" ".join([row.runtime, row.effective.get("version", "").partition("-")[0]]).strip(),
        gate=gate.status if gate else MISSING,
        accuracy=MISSING if accuracy is None else f"{accuracy.percent:.1f} ({format_interval(accuracy.ci95, 1)})",
        images=MISSING if accuracy is None else str(accuracy.samples),
        same_answers=_describe_answers(results, row.name),
        latency=timed,
        speedup=MISSING if ratio is None else _word_ratio(ratio.verdict, ratio.speedup),
        unstable="" if latency is None or latency.stable else latency.instability or "its rounds scatter",
    )


def _word_ratio(verdict: str, speedup: float) -> str:
    return f"{format_number(speedup)}× {verdict}" if verdict in ("faster", "slower") else verdict


def _describe_answers(results: DeviceResults, name: str) -> str:
    """Return how far the answers are those of this machine."""
    beside = results.beside_host.get(name)
    if beside is None:
        return MISSING
    text = f"{format_percent(beside.agreement_percent)} of {quantify(beside.samples, 'sample')} alike, logits within "
    text += format_number(beside.max_abs_diff, 2)
    if beside.only_here is None or beside.only_there is None or beside.p_value is None:
        return text
    one = f"{beside.only_here} here, {beside.only_there} there"
    return f"{text}; right on one only: {one} (p {format_number(beside.p_value, 2)})"


def list_points(report: Report) -> dict[str, list[trade_off.Point]]:
    """Return what is drawn of accuracy over latency, by device; nothing of a device where nothing was timed."""
    points = {each.name: [point for row in each.rows if (point := _make_point(each, row))] for each in report.devices}
    return {name: drawn for name, drawn in points.items() if drawn}


def _make_point(results: DeviceResults, row: Variant) -> trade_off.Point | None:
    latency, accuracy, gate = row.latency_ms, row.accuracy, results.gates.get(row.name)
    if latency is None or accuracy is None:
        return None
    failed = gate is not None and gate.status == "failed"
    return trade_off.Point(
        name=f"{row.network} {row.runtime} {row.precision}",
        series=row.network if row.network == row.method else f"{row.network}: {row.method}",
        runtime=row.runtime,
        latency=(latency.p50, *latency.ci95),
        accuracy=(accuracy.percent, *accuracy.ci95),
        state="failed" if failed else "good" if latency.stable else "unstable",
        metric=name_metric(accuracy.metric),
    )


def make_device_tables(report: Report) -> list[Table]:
    """Return what devices gave as tables for 100 columns or more; none where this machine was the only one."""
    return [_draw(each, wording.name_metric(report)) for each in describe_devices(report)]


def _draw(table: DeviceTable, metric: str) -> Table:
    results = table.results
    kind = " (brought by hand)" if results.status == "brought" else ""
    drawn = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, title=f"On {results.name}{kind}",
        title_justify="left", title_style="bold", caption_justify="left", caption_style="",
    )  # fmt: skip
    for heading in (
        "file",
        "runtime",
        "gate",
        f"{metric} %\n95 %",
        "images",
        "beside this machine",
        "latency ms\n95 %",
        "speed-up",
    ):
        drawn.add_column(heading, overflow="fold")
    for line in table.lines:
        figures = (line.accuracy.replace(" (", "\n("), line.images, line.same_answers, line.latency.replace(" (", "\n("))
        cells = [Text(line.file), Text(line.runtime), Text(line.gate, STYLES.get(line.gate, "")), *map(Text, figures)]
        drawn.add_row(*cells, Text(line.speedup))
    state = [f"{results.status}: {results.reason}"] if results.reason else []
    rough = [f"≈ {line.file}: {line.unstable}" for line in table.lines if line.unstable]
    drawn.caption = Text("\n".join(filter(None, [table.about, *state, *rough, *results.notes])))
    return drawn


def list_compared_apart(reports: Sequence[Report]) -> list[str]:
    """Return a warning for a comparison of runs that went to devices: these are not in its list."""
    names = dict.fromkeys(each.name for report in reports for each in report.devices)
    if not names:
        return []
    return [f"What was found on {', '.join(names)} is not ranked with this machine; it stands in each run's own report."]
