"""The int8 ladder in a report: rungs that were tried, speed against float32, and sensitivity of the layers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from markupsafe import Markup

from benchmarks.report.svg import CHARACTER_WIDTH, Canvas
from compress.records import Ladder, Ratio, Report, Rung, Sensitivity, Variant
from compress.text import format_bytes, format_interval, format_number, format_percent

SHOWN = 24
"""Layers in the picture and in the table; the order matters most at the worst end."""
WIDTH, ROW, NAME_LETTERS = 760.0, 20.0, 44
FULL = 10.0
"""Relative difference from which on a bar is labelled as lost: nothing of the logits is left."""


class Int8File(NamedTuple):
    """One int8 file and the ladder that made it."""

    variant: Variant
    ladder: Ladder
    outcome: str
    """Which rung was chosen, or that none met the gate."""
    speedup: str
    """Speed against float32, in words; empty where it was not timed."""
    shown: tuple[Sensitivity, ...]
    kept: frozenset[str]
    """Layers of the file that stay in floating point."""


def describe_int8_files(report: Report) -> list[Int8File]:
    """Return every int8 file that a ladder led to, in the report's order."""
    return [_describe_int8_file(each, each.ladder) for each in report.variants if each.ladder is not None]


def _describe_int8_file(variant: Variant, ladder: Ladder) -> Int8File:
    chosen = _find_chosen(ladder)
    return Int8File(
        variant=variant,
        ladder=ladder,
        outcome=_describe_outcome(chosen),
        speedup=_describe_speedup(variant, ladder, chosen),
        shown=ladder.sensitivity[:SHOWN],
        kept=frozenset(chosen.float_layers if chosen else ()),
    )


def _find_chosen(ladder: Ladder) -> Rung | None:
    return None if ladder.chosen is None else ladder.rungs[ladder.chosen]


def _describe_outcome(chosen: Rung | None) -> str:
    if chosen is None:
        return "No rung met the gate; the file is the one that came nearest, and it is marked as failed."
    size = f", {format_bytes(chosen.size_bytes)}" if chosen.size_bytes else ""
    return f"Chosen: rung {chosen.rung}, {chosen.detail}{size}."


def _describe_speedup(variant: Variant, ladder: Ladder, chosen: Rung | None) -> str:
    """Return the speed against float32, and beside it that of the first rung where a later one was chosen."""
    if chosen is None or chosen.speedup is None:
        return ""
    first = ladder.rungs[0]
    lost = ""
    if first is not chosen and first.rung == "default" and first.speedup is not None:
        lost = f" The first rung's file, which failed, has {_format_ratio(first.speedup)}."
    return f"{_judge_speed(variant.runtime, chosen.speedup)}{lost}"


def _judge_speed(runtime: str, ratio: Ratio) -> str:
    times = _format_ratio(ratio)
    return {
        "faster": f"On {runtime} int8 has {times} the speed of the same network in float32.",
        "slower": f"On {runtime} int8 does not pay: it has {times} the speed of the same network in float32.",
        "not distinguishable": f"On {runtime} int8 does not pay in speed: {times} that of the same network in float32 "
        "is not distinguishable from it.",
        "unstable": f"On {runtime} the speed against the same network in float32 is unstable: {times}.",
    }[ratio.verdict]


def _format_ratio(ratio: Ratio) -> str:
    return f"{format_number(ratio.speedup)}× ({format_interval(ratio.ci95, 2)})"


def draw_sensitivity(shown: Sequence[Sensitivity], kept: Collection[str]) -> Markup:
    """Draw a bar for each layer: the relative difference of the logits when it alone is int8.

    Args:
        shown: At least one, worst first.
        kept: Names of those that stay in floating point, shown by colour and in words.
    """
    left = 16 + CHARACTER_WIDTH * max(len(_shorten_name(each.layer)) for each in shown)
    right = WIDTH - 190
    canvas = Canvas.create(
        WIDTH, ROW * len(shown) + 12, label="Sensitivity of layers; the table beside it has the same numbers"
    )
    furthest = max((each.relative_difference for each in shown if each.relative_difference <= FULL), default=0.0) or 1.0
    for index, each in enumerate(shown):
        top = 6 + ROW * index
        end = left + (right - left) * min(1.0, each.relative_difference / furthest)
        group = canvas.group(f"point {'s1' if each.layer in kept else 's0'} good", tooltip=_describe_layer(each))
        group.path([(left, top + 3), (end, top + 3), (end, top + ROW - 3), (left, top + ROW - 3)], "marker", closed=True)
        group.text((left - 8, top + 14), _shorten_name(each.layer), "label end")
        group.text(
            (end + 6, top + 14), _format_difference(each) + (", stays in float" if each.layer in kept else ""), "label start"
        )
    canvas.path([(left, 4), (left, ROW * len(shown) + 8)], "axis")
    return canvas.markup()


def _shorten_name(layer: str) -> str:
    """Return a name with its end, which is what tells layers apart."""
    return layer if len(layer) <= NAME_LETTERS else "…" + layer[1 - NAME_LETTERS :]


def _format_difference(each: Sensitivity) -> str:
    return "lost" if each.relative_difference > FULL else f"{format_number(100 * each.relative_difference, 2)} %"


def _describe_layer(each: Sensitivity) -> str:
    return f"{each.layer}: {_format_difference(each)} relative difference, {format_percent(each.agreement_percent)} agreement"
