"""Draw results in a terminal: one function for each kind of result returns a table of rich."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import starmap
from typing import TYPE_CHECKING

from compress.records import Energy, Gate, Layer, NativeTiming, Sustained
from compress.text import MISSING, format_duration, format_number, quantify

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text
    from rich.tree import Tree

    from compress.cli.doctor import Finding
    from compress.deployed.bench import FileTiming
    from compress.deployed.latency_gate import LatencyVerdicts
    from compress.deployed.predict import Prediction
    from compress.plan.plan import Estimate, Plan, Stage
    from exporters.verification.bisect import LayerComparison

COLOURS = {
    "passed": "green",
    "ok": "green",
    "failed": "bold red",
    "unreadable": "bold red",
    "skipped": "yellow",
    "warning": "yellow",
    "absent": "dim",
}

SHOWN_LAYERS = 20
NARROWEST = 12, 9
"""Columns that the name of a measured file has at least, and its verdict."""


def make_table(*columns: str, right: Sequence[str] = (), broken: Sequence[str] | None = None) -> Table:
    """Return an empty table.

    Args:
        columns: What stands above them.
        right: Those that hold numbers; they are never broken over two lines.
        broken: Those that may be, where the terminal is too narrow; default: all but the first and the numbers.
    """
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    breakable = {*columns[1:]} - {*right} if broken is None else {*broken}
    for index, column in enumerate(columns):
        table.add_column(
            column,
            style="cyan" if index == 0 else "",
            no_wrap=column not in breakable,
            justify="right" if column in right else "left",
            overflow="ellipsis" if column in right else "fold",  # a number that lost digits in silence is another number
        )
    return table


def draw_gates(results: Mapping[str, Gate]) -> Table:
    """Return the verdict and the figures of each exported file."""
    from compress.tasks import name_metric  # loads numpy, which `--help` must not

    metrics = dict.fromkeys(name_metric(gate.metric) for gate in results.values())
    numbers = ("images", "agreement %", "max |diff|", f"{' or '.join(metrics)} drop", "95 %")
    table = make_table("file", "status", *numbers, "reason", right=numbers, broken=("file", "reason"))
    for name, gate in results.items():
        figures = (
            _number(gate.agreement_percent, ".2f"),
            _number(gate.max_abs_diff, ".2g"),
            _number(gate.drop_points, ".2f"),
            "–" if gate.drop_ci95 is None else " to ".join(f"{bound:.2f}" for bound in gate.drop_ci95),
        )
        table.add_row(name, _colour(gate.status), str(gate.samples), *figures, gate.reason)
    return table


def list_gate_notes(results: Mapping[str, Gate]) -> list[str]:
    """Return the notes of the verdicts, a line for each file that has one."""
    return [f"{name}: {gate.note}" for name, gate in results.items() if gate.note]


def draw_timings(results: Mapping[str, FileTiming]) -> Table:
    """Return latencies and their ratios to the file that is marked as reference; an interval stands below its median."""
    numbers = ("p50 ms\n95 %", "p90\np99", "images/s", "speed-up")
    table = make_table("file", "runtime", *numbers, "verdict", right=numbers, broken=("file", "verdict"))
    table.columns[0].min_width, table.columns[-1].min_width = NARROWEST
    table.collapse_padding = True
    reasons = dict.fromkeys(timing.latency_ms.percentiles_missing for timing in results.values())
    table.caption = "\n".join(reason for reason in reasons if reason) or None
    for name, timing in results.items():
        latency, ratio = timing.latency_ms, timing.ratio
        table.add_row(
            name,
            timing.runtime,
            f"{latency.p50:.3f}\n{latency.ci95[0]:.3f}–{latency.ci95[1]:.3f}",
            f"{_number(latency.p90, '.3f')}\n{_number(latency.p99, '.3f')}",
            f"{timing.throughput_per_s:.0f}",
            f"{ratio.speedup:.2f}×" if ratio else "–",
            ratio.verdict if ratio else "reference",
        )
    return table


def draw_native(found: Mapping[str, NativeTiming]) -> Table:
    """Return the latency of files by a runtime's own program."""
    columns = ("ms\n95 %", "speed-up\n95 %")
    table = make_table("file", "program tells", *columns, "verdict", right=columns)
    for name, each in found.items():
        ratio = each.ratio
        speedup = _figure(ratio.speedup, ratio.ci95) if ratio else MISSING
        table.add_row(
            name, f"{each.statistic} by {each.tool}", _figure(each.p50, each.ci95), speedup, ratio.verdict if ratio else MISSING
        )
    return table


def draw_energies(found: Mapping[str, Energy]) -> Table:
    """Return the energy of a call of each file."""
    columns = ("above idle, mJ\n95 %", "in all, mJ\n95 %", "idle, W")
    table = make_table("file", *columns, "unavailable", right=columns)
    for name, each in found.items():
        parts = ((each.above_idle_mj, each.above_idle_ci95), (each.total_mj, each.total_ci95))
        table.add_row(name, *starmap(_figure, parts), _number(each.idle_watts, ".2f"), each.unavailable)
    return table


def describe_sensors(found: Mapping[str, Energy]) -> list[str]:
    """Return what was measured with, a line for each sensor."""
    sensors = {each.sensor: each.covers for each in found.values() if each.sensor}
    return [f"measured by {name}, which covers {covers}" for name, covers in sensors.items()]


def draw_windows(found: Sustained) -> Table:
    """Return what became of the latency of a file that was called without a pause."""
    columns = ("from s", "p50 ms", "clock MHz", "°C", "waited %")
    table = make_table(*columns, "throttling", right=columns)
    for each in found.windows:
        numbers = (_number(each.clock_mhz, ".0f"), _number(each.celsius, ".0f"), _number(each.waited_percent, ".1f"))
        table.add_row(f"{each.begin_s:.0f}", f"{each.p50:.3f}", *numbers, ", ".join(each.throttling) or "–")
    return table


def describe_sustained(found: Sustained) -> str:
    """Return the beginning and the end of a sustained run in a sentence."""
    change = 100 * (found.last / found.first - 1)
    since = found.throttled_from_s
    throttled = "" if since is None else f"; throttled from {since // 60:.0f}:{since % 60:02.0f}"
    others = f"; other work in {quantify(found.disturbed_windows, 'window')}" if found.disturbed_windows else ""
    return f"first {found.first:.3f} ms, last {found.last:.3f} ms ({change:+.1f} %){throttled}{others}"


def draw_profile(name: str, layers: Sequence[Layer]) -> tuple[str, Table]:
    """Return where the time of a file goes: a line, and its slowest layers."""
    shares = {kind: sum(each.percent for each in layers if each.arithmetic == kind) for kind in ("int8", "moving", "float")}
    line = f"{name}: " + ", ".join(f"{kind} {share:.0f} %" for kind, share in shares.items() if share > 0)
    table = make_table("layer", "kind", "kernel", "ms", "%", "computes in", right=("ms", "%"), broken=("layer", "kernel"))
    for each in layers[:SHOWN_LAYERS]:
        table.add_row(each.name, each.kind, each.kernel, f"{each.ms:.4f}", f"{each.percent:.1f}", each.arithmetic)
    if len(layers) > SHOWN_LAYERS:
        table.caption = f"{len(layers) - SHOWN_LAYERS} more layers in --json"
    return line, table


def draw_latency_verdicts(found: LatencyVerdicts) -> Table:
    """Return whether each file is slower than its baseline by more than is allowed."""
    numbers = ("slower %", "95 %")
    table = make_table("file", "baseline", *numbers, "verdict", "compared", "reason", right=numbers, broken=("file", "reason"))
    for name, each in found.verdicts.items():
        bounds = " to ".join(f"{bound:+.1f}" for bound in each.ci95_percent)
        table.add_row(name, each.baseline, f"{each.slower_percent:+.1f}", bounds, each.verdict, each.compared, each.reason)
    return table


def draw_predictions(results: Sequence[Prediction]) -> Table:
    """Return the best classes of each picture."""
    table = make_table("image", "class", "score", "ms", right=("score", "ms"), broken=("image", "class"))
    for prediction in results:
        if prediction.error:
            table.add_row(prediction.image, _colour("unreadable"), "", "")
        elif not prediction.classes:
            table.add_row(prediction.image, "nothing found", "", _number(prediction.milliseconds, ".2f"))
        for rank, score in enumerate(prediction.classes):
            name, took = (prediction.image, _number(prediction.milliseconds, ".2f")) if rank == 0 else ("", "")
            place = "" if score.box is None else f" at {', '.join(f'{side:.0f}' for side in score.box)}"
            table.add_row(name, f"{score.name}{place}", f"{100 * score.score:.1f} %", took)
    return table


def list_prediction_columns(top: int) -> list[str]:
    """Return the columns of a prediction with so many classes."""
    return ["image", *(f"{what}_{rank}" for rank in range(1, top + 1) for what in ("class", "score")), "milliseconds", "error"]


def list_prediction_cells(prediction: Prediction, columns: int) -> list[object]:
    """Return a prediction as cells of so many columns; what it does not have is empty."""
    ranked = [cell for score in prediction.classes for cell in (score.name, f"{score.score:.6f}")]
    took = "" if prediction.milliseconds is None else f"{prediction.milliseconds:.4f}"
    return [prediction.image, *ranked, *[""] * (columns - len(ranked) - 3), took, prediction.error]


def draw_layers(results: Mapping[str, LayerComparison]) -> list[Table | str]:
    """Return the result for each file in a sentence, and its layers where one differs."""
    shown: list[Table | str] = []
    for name, located in results.items():
        shown.append(located.verdict)
        if located.first_different is None:
            continue
        drawn = make_table(f"layer of {name}", "operator", "difference", "", right=("difference",))
        for number, layer in enumerate(located.layers):
            figure = layer.problem or f"{layer.relative_difference:.2g}"
            marks = (
                ("first beyond the tolerance", number == located.first_different),
                ("largest step", number == located.steepest),
            )
            drawn.add_row(layer.layer, layer.kind, figure, ", ".join(mark for mark, here in marks if here))
        shown.append(drawn)
    return shown


def draw_findings(results: Sequence[Finding]) -> Table:
    """Return the findings of the doctor."""
    table = make_table("what", "status", "found", "what to do")
    for finding in results:
        table.add_row(finding.what, _colour(finding.status), finding.found, finding.remedy)
    return table


def draw_plan(plan: Plan) -> Tree:
    """Return the plan as a tree."""
    from rich.text import Text
    from rich.tree import Tree

    images = plan.images
    classes = _describe_classes(plan.classes)
    sizes = f"{images['train']} training, {images['validation']} validation and {images['test']} test images"
    root = Tree(Text(f"{plan.name}: {classes}; {sizes}; in {plan.folder}", style="bold"), guide_style="dim")
    for stage in plan.stages:
        branch = root.add(Text.assemble((stage.name, "bold cyan"), "  ", stage.about))
        for label, text in _plan_details(stage):
            branch.add(Text.assemble((f"{label}: ", "dim"), text))
    if plan.estimate is not None:
        root.add(Text.assemble(("takes about ", "dim"), _describe_estimate(plan.estimate)))
        if plan.estimate.loss_scales:
            root.add(Text.assemble(("gradient of what teaches, in cross-entropy's: ", "dim"), _describe_scales(plan.estimate)))
    warnings = () if plan.estimate is None else plan.estimate.warnings
    for note in (*warnings, *plan.notes, *plan.code):
        root.add(Text(f"note: {note}", style="yellow"))
    return root


def _describe_classes(names: Sequence[str]) -> str:
    """Return how many classes there are, and which where they are the numbers from 1 on."""
    count = f"{len(names)} classes"
    if list(names) == [str(number) for number in range(1, len(names) + 1)]:
        return f"{count} (1 to {len(names)}: labels begin at 1, not at 0)"
    return count


def _plan_details(stage: Stage) -> Iterator[tuple[str, str]]:
    for label in ("trained", "frozen", "shipped"):
        if text := getattr(stage, label):
            yield label, text
    if stage.work is not None:
        work = stage.work
        passes = f"{work.trained:,} images forward and backward"
        teaching = f"; {work.teacher:,} forward through teachers" if work.teacher else ""
        seeds = f"{work.seeds} seeds × " if work.seeds > 1 else ""
        epochs = quantify(work.epochs, "epoch")
        yield "work", f"{seeds}{epochs} × {work.images_per_epoch:,} images = {passes}{teaching}"
    if stage.kept and (stage.work is not None or stage.found or stage.changed):
        yield "kept in", f"{stage.kept}{'/' if stage.work is not None else ''}{_describe_kept(stage)}"


def _describe_kept(stage: Stage) -> str:
    """Return whether what an earlier run left is used again."""
    if stage.changed:
        differ = "differs" if len(stage.changed) == 1 else "differ"
        return f" (of an earlier run, made anew: {', '.join(stage.changed)} {differ})"
    return " (found: used again if data and packages are the same)" if stage.found else ""


def _describe_estimate(estimate: Estimate) -> str:
    """Return how long a run takes, as far as one timed step tells."""
    training = sum(estimate.training.values())
    parts = f"training {format_duration(training)}" if estimate.training else "training nothing, all is found"
    return (
        f"{format_duration(training + estimate.delivery)} on this machine as it is now: {parts}, exports and measuring "
        f"{format_duration(estimate.delivery)} (from one timed step of each stage; an int8 search that climbs takes longer)"
    )


def _describe_scales(estimate: Estimate) -> str:
    """Return the scale of each student's losses at the start, as far as one batch tells."""
    return ", ".join(f"{name} {format_number(scale, 2)}" for name, scale in estimate.loss_scales.items())


def _figure(value: float | None, ends: tuple[float, float] | None) -> str:
    return MISSING if value is None or ends is None else f"{value:.3g}\n{ends[0]:.3g}–{ends[1]:.3g}"


def _number(value: float | None, style: str) -> str:
    return "–" if value is None else format(value, style)


def _colour(status: str) -> Text:
    from rich.text import Text

    return Text(status, style=COLOURS[status])
