"""Charts of losses and accuracies over epochs, and sparklines of round medians."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from benchmarks.report.svg import TEXT_HEIGHT, Box, Canvas, Frame, Scale, choose_colour

WIDTH, HEIGHT = 460, 230
LOG_ABOVE = 30
"""Largest by smallest value from which on an axis of positive values is logarithmic."""


class Curve(NamedTuple):
    """One line over epochs."""

    name: str
    values: Mapping[int, float]
    """By epoch; at least one, all finite."""


def draw_curves(lines: Sequence[Curve], *, y_title: str, label: str, best: tuple[int, float] | None = None) -> Markup:
    """Return lines over epochs, each named at its end.

    Args:
        lines: At least one.
        y_title: What is on the vertical axis, with its unit; a logarithmic axis adds that it is one.
        label: Text for screen readers.
        best: Epoch and value to be marked.
    """
    canvas = Canvas.create(WIDTH, HEIGHT, label=label)
    frame = _make_frame(lines)
    frame.draw(canvas, x_title="epoch", y_title=y_title + (" (log scale)" if frame.up.log else ""), gap=70)
    for index, line in enumerate(lines):
        group = canvas.group(f"curve {_choose_style(line, index)}", tooltip=line.name)
        at = [(frame.across(epoch), frame.up(value)) for epoch, value in line.values.items()]
        group.path(at, "line")
        if len(at) == 1:
            group.marker(0, at[0], 3.5)
    _name_ends(canvas, lines, frame)
    if best is not None:
        x, y = frame.across(best[0]), frame.up(best[1])
        canvas.circle((x, y), 5, "ring")
        late = x > (frame.area.left + frame.area.right) / 2
        canvas.text((x, min(y + 20, frame.area.bottom - 4)), f"kept: epoch {best[0]}", f"label {'end' if late else 'start'}")
    return canvas.markup()


def _choose_style(line: Curve, index: int) -> str:
    return "ink" if line.name == "total" else choose_colour(index)


def _make_frame(lines: Sequence[Curve]) -> Frame:
    area = Box(56, 12, WIDTH - min(170, 24 + 6.4 * max(len(line.name) for line in lines)), HEIGHT - 42)
    values = [value for line in lines for value in line.values.values()]
    epochs = [epoch for line in lines for epoch in line.values]
    low, high, alone = min(values), max(values), 0.5 * (min(epochs) == max(epochs))
    across = Scale(min(epochs) - alone, max(epochs) + alone, area.left, area.right, whole=True)
    if low > 0 and high / low > LOG_ABOVE:
        return Frame(area, across, Scale(low / 1.1, high * 1.1, area.bottom, area.top, log=True))
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return Frame(area, across, Scale(low - margin, high + margin, area.bottom, area.top))


def _name_ends(canvas: Canvas, lines: Sequence[Curve], frame: Frame) -> None:
    """Write each line's name right of its end, pushed apart from above and then back from below."""
    ends = sorted((frame.up(list(line.values.values())[-1]), index) for index, line in enumerate(lines))
    at = [y for y, _ in ends]
    for position in range(1, len(at)):
        at[position] = max(at[position], at[position - 1] + TEXT_HEIGHT - 1)
    at[-1] = min(at[-1], frame.area.bottom)
    for position in range(len(at) - 2, -1, -1):
        at[position] = min(at[position], at[position + 1] - TEXT_HEIGHT + 1)
    for y, (end, index) in zip(at, ends, strict=True):
        right = frame.area.right
        leader = [(frame.across(max(lines[index].values)) + 2, end), (right + 10, y), (right + 14, y)]
        canvas.group(f"curve {_choose_style(lines[index], index)}").path(leader, "leader")
        canvas.text((right + 17, y + 4), lines[index].name, "label start")


def draw_strip(values: Sequence[float]) -> Markup:
    """Return the medians of a file's rounds as a small line, within a quarter of their median up and down."""
    canvas = Canvas.create(
        90, 18, label=f"medians of {len(values)} rounds, {min(values):.3g} to {max(values):.3g} ms", style="strip"
    )
    middle = statistics.median(values)
    up, across = Scale(0.75 * middle, 1.25 * middle, 17, 1), Scale(0, max(1, len(values) - 1), 1, 89)
    canvas.path([(1, up(middle)), (89, up(middle))], "grid")
    canvas.path([(across(index), up.clamp(value)) for index, value in enumerate(values)], "line")
    return canvas.markup()
