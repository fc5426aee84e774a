"""How int8 files came about, for a report: the rungs that were tried, what int8 buys, and which layers suffer."""

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
"""Relative difference beyond which a bar only says that the answers are lost."""


class Climb(NamedTuple):
    """One int8 file."""

    variant: Variant
    ladder: Ladder
    outcome: str
    """Which rung was taken, or that none met the gate."""
    pays: str
    """What int8 does to the speed; empty where it was not timed."""
    shown: tuple[Sensitivity, ...]
    kept: frozenset[str]
    """Layers of the file that stay in floating point."""


def climbs(report: Report) -> list[Climb]:
    """Return every int8 file that a ladder led to, in the report's order."""
    return [_climb(each, each.ladder) for each in report.variants if each.ladder is not None]


def _climb(variant: Variant, ladder: Ladder) -> Climb:
    taken = _taken(ladder)
    shown = ladder.sensitivity[:SHOWN]
    return Climb(
        variant, ladder, _outcome(ladder), _pays(variant, ladder), shown, frozenset(taken.float_layers if taken else ())
    )


def _taken(ladder: Ladder) -> Rung | None:
    return None if ladder.chosen is None else ladder.rungs[ladder.chosen]


def _outcome(ladder: Ladder) -> str:
    taken = _taken(ladder)
    if taken is None:
        return "No rung met the gate; the file is the one that came nearest, and it is marked as failed."
    price = f", and {format_bytes(taken.size_bytes)}" if taken.size_bytes else ""
    return f"Taken: rung {taken.rung}, {taken.detail}{price}."


def _pays(variant: Variant, ladder: Ladder) -> str:
    """Return what int8 does to the speed, and what the rungs above the first cost of it."""
    taken = _taken(ladder)
    if taken is None or taken.speedup is None:
        return ""
    first = ladder.rungs[0]
    price = ""
    if first is not taken and first.rung == "default" and first.speedup is not None:
        price = f" The first rung's file, which failed, has {_times(first.speedup)}."
    return f"{_speed(variant.runtime, taken.speedup)}{price}"


def _speed(runtime: str, ratio: Ratio) -> str:
    said = {
        "faster": f"On {runtime} int8 has {_times(ratio)} the speed of the same network in float32.",
        "slower": f"On {runtime} int8 does not pay: it has {_times(ratio)} the speed of the same network in float32.",
        "not distinguishable": f"On {runtime} int8 does not pay in speed: {_times(ratio)} that of the same network in float32 "
        "is not distinguishable from it.",
        "unstable": f"On {runtime} the speed against the same network in float32 is unstable: {_times(ratio)}.",
    }
    return said[ratio.verdict]


def _times(ratio: Ratio) -> str:
    return f"{format_number(ratio.speedup)}× ({format_interval(ratio.ci95, 2)})"


def picture(shown: Sequence[Sensitivity], kept: Collection[str]) -> Markup:
    """Return a bar for each layer: how far the answers move when it alone is int8.

    Args:
        shown: At least one, worst first.
        kept: Names of those that stay in floating point; told by colour and in words.
    """
    left = 16 + CHARACTER_WIDTH * max(len(_name(each.layer)) for each in shown)
    right = WIDTH - 190
    canvas = Canvas.of(WIDTH, ROW * len(shown) + 12, label="Sensitivity of layers; the table beside it has the same numbers")
    furthest = max((each.relative_difference for each in shown if each.relative_difference <= FULL), default=0.0) or 1.0
    for index, each in enumerate(shown):
        top = 6 + ROW * index
        end = left + (right - left) * min(1.0, each.relative_difference / furthest)
        group = canvas.group(f"point {'s1' if each.layer in kept else 's0'} good", tooltip=_sentence(each))
        group.path([(left, top + 3), (end, top + 3), (end, top + ROW - 3), (left, top + ROW - 3)], "marker", closed=True)
        group.text((left - 8, top + 14), _name(each.layer), "label end")
        group.text((end + 6, top + 14), _value(each) + (", stays in float" if each.layer in kept else ""), "label start")
    canvas.path([(left, 4), (left, ROW * len(shown) + 8)], "axis")
    return canvas.markup()


def _name(layer: str) -> str:
    """Return a name with its end, which is what tells layers apart."""
    return layer if len(layer) <= NAME_LETTERS else "…" + layer[1 - NAME_LETTERS :]


def _value(each: Sensitivity) -> str:
    return "lost" if each.relative_difference > FULL else f"{format_number(100 * each.relative_difference, 2)} %"


def _sentence(each: Sensitivity) -> str:
    return f"{each.layer}: {_value(each)} relative difference, {format_percent(each.agreement_percent)} agreement"
