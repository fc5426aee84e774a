"""How results look in a terminal: one function per kind of result, each returns a table that rich draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from compress.records import Gate

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from compress.deployed import Prediction, Timing
    from compress.doctor import Finding

COLOURS = {
    "passed": "green",
    "ok": "green",
    "failed": "bold red",
    "unreadable": "bold red",
    "skipped": "yellow",
    "warning": "yellow",
    "absent": "dim",
}


def plain(*columns: str, right: Sequence[str] = ()) -> Table:
    """Return an empty table; the first column is never broken, the columns in `right` hold numbers."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        justify = "right" if column in right else "left"
        table.add_column(column, style="cyan" if index == 0 else "", no_wrap=index == 0, justify=justify, overflow="fold")  # type: ignore[arg-type]
    return table


def gates(results: Mapping[str, Gate]) -> Table:
    """Return how exported files did."""
    numbers = ("images", "agreement %", "max |diff|", "top-1 drop", "95 %")
    table = plain("file", "status", *numbers, "reason", right=numbers)
    for name, gate in results.items():
        figures = (
            _number(gate.agreement_percent, ".2f"),
            _number(gate.max_abs_diff, ".2g"),
            _number(gate.top1_drop_points, ".2f"),
            "–" if gate.drop_ci95 is None else " to ".join(f"{bound:.2f}" for bound in gate.drop_ci95),
        )
        table.add_row(name, _coloured(gate.status), str(gate.samples), *figures, gate.reason)
    return table


def gate_notes(results: Mapping[str, Gate]) -> list[str]:
    """Return what one must know beside the verdicts, a line for each file that has such a note."""
    return [f"{name}: {gate.note}" for name, gate in results.items() if gate.note]


def timings(results: Mapping[str, Timing]) -> Table:
    """Return latencies and their ratios."""
    numbers = ("p50 ms", "95 % interval", "p90", "p99", "images/s", "speed-up")
    table = plain("file", "runtime", *numbers, "verdict", right=numbers)
    for name, timing in results.items():
        latency, ratio = timing.latency_ms, timing.ratio
        figures = (
            f"{latency.p50:.3f}",
            f"{latency.ci95[0]:.3f}–{latency.ci95[1]:.3f}",
            f"{latency.p90:.3f}",
            f"{latency.p99:.3f}",
        )
        speedup = f"{ratio.speedup:.2f}×" if ratio else "–"
        verdict = (
            f"{ratio.verdict} than {ratio.against}"
            if ratio and ratio.verdict in ("faster", "slower")
            else ratio.verdict
            if ratio
            else ""
        )
        table.add_row(name, timing.runtime, *figures, f"{timing.throughput_per_s:.0f}", speedup, verdict or "the yardstick")
    return table


def predictions(results: Sequence[Prediction]) -> Table:
    """Return what the deployed file says of pictures."""
    table = plain("image", "class", "score", "ms", right=("score", "ms"))
    for prediction in results:
        if prediction.error:
            table.add_row(prediction.image, _coloured("unreadable"), "", "")
        for rank, score in enumerate(prediction.classes):
            name, took = (prediction.image, _number(prediction.milliseconds, ".2f")) if rank == 0 else ("", "")
            table.add_row(name, score.name, f"{100 * score.score:.1f} %", took)
    return table


def findings(results: Sequence[Finding]) -> Table:
    """Return what the doctor found."""
    table = plain("what", "status", "found", "what to do")
    for finding in results:
        table.add_row(finding.what, _coloured(finding.status), finding.found, finding.remedy)
    return table


def _number(value: float | None, style: str) -> str:
    return "–" if value is None else format(value, style)


def _coloured(status: str) -> Text:
    from rich.text import Text

    return Text(status, style=COLOURS[status])
