"""Chart of accuracy against latency, with error bars and the Pareto front.

Colour shows the network, shape the runtime; a hollow marker is a file that failed or whose latency is unstable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from markupsafe import Markup

from benchmarks.report.svg import Box, Canvas, Frame, Scale, choose_colour, find_nearest, place_labels

MARKER, RING = 5.5, 10.0
CROWD = 16_000
"""With less room than this for each point, in square pixels, only the front and what is wrong are named in the picture."""


class Point(NamedTuple):
    """A measured file: latency in milliseconds, accuracy in percent, each with its interval."""

    name: str
    series: str
    runtime: str
    latency: tuple[float, float, float]
    """Value, lower and upper end."""
    accuracy: tuple[float, float, float]
    state: Literal["good", "failed", "unstable"] = "good"
    metric: str = "top-1"
    """What the accuracy is, as `tasks.name_metric` gives it."""


class Key(NamedTuple):
    """Networks and runtimes in the order of their colours and shapes; the same for all charts of a page."""

    series: tuple[str, ...]
    runtimes: tuple[str, ...]

    @classmethod
    def from_points(cls, points: Sequence[Point]) -> Key:
        """Return the key of all points of a page, in order of first appearance."""
        series, runtimes = dict.fromkeys(point.series for point in points), dict.fromkeys(point.runtime for point in points)
        return cls(tuple(series), tuple(runtimes))


def find_front(points: Sequence[Point]) -> list[bool]:
    """Return for each point whether it did not fail and no such point is at least as fast and accurate, and better in one."""
    usable = [point for point in points if point.state != "failed"]
    return [point.state != "failed" and not any(_dominates(other, point) for other in usable) for point in points]


def _dominates(this: Point, other: Point) -> bool:
    no_worse = this.latency[0] <= other.latency[0] and this.accuracy[0] >= other.accuracy[0]
    return no_worse and (this.latency[0] < other.latency[0] or this.accuracy[0] > other.accuracy[0])


def draw_trade_off(points: Sequence[Point], key: Key, *, width: int, height: int, style: str = "chart") -> Markup:
    """Return accuracy over latency with error bars on both axes and the Pareto front.

    Args:
        points: What to draw; may be empty.
        key: Colours and shapes, of at least these points.
        width: Pixels.
        height: Pixels.
        style: Class of the drawing.
    """
    canvas = Canvas.create(width, height, label=f"{describe_chart(points)}; the table below has the same numbers", style=style)
    if not points:
        canvas.text((width / 2, height / 2), "no file has both an accuracy and a latency", "label middle")
        return canvas.markup()
    area, fronts = Box(56, 10, width - 14, height - 48), find_front(points)
    frame = Frame(area, _latency_scale(points, area), _accuracy_scale(points, area))
    frame.draw(canvas, x_title="latency p50, ms (log scale; left is faster)", y_title=f"{describe_axis(points)}, %", gap=110)
    stairs = _trace_front([point for point, front in zip(points, fronts, strict=True) if front], frame)
    canvas.path(stairs, "front")
    for point, front in sorted(zip(points, fronts, strict=True), key=lambda pair: pair[1]):
        group = canvas.group(
            f"point {choose_colour(key.series.index(point.series))} {point.state}", tooltip=_describe_point(point, front)
        )
        _draw(group, point, frame, shape=key.runtimes.index(point.runtime))
        if front:
            group.circle(_locate(point, frame), RING, "ring")
    _label(canvas, points, stairs, frame)
    return canvas.markup()


def describe_axis(points: Sequence[Point]) -> str:
    """Return what stands on the vertical axis: the metrics of the points."""
    metrics = dict.fromkeys(point.metric for point in points)
    return " or ".join("top-1 accuracy" if metric == "top-1" else metric for metric in metrics) or "accuracy"


def describe_chart(points: Sequence[Point]) -> str:
    """Return what a chart shows, as the beginning of a sentence."""
    axis = describe_axis(points)
    return f"{axis.replace('top', 'Top', 1) if axis.startswith('top') else axis} against latency"


def draw_pictures(points: Mapping[str, Sequence[Point]]) -> list[tuple[str, Markup, list[tuple[str, Markup]]]]:
    """Return for each device its name, its picture for wide and for narrow screens, and the legend.

    Args:
        points: By device; latencies of different devices do not share an axis.
    """
    key = Key.from_points([point for drawn in points.values() for point in drawn])
    drawings = []
    for device, drawn in points.items():
        wide = draw_trade_off(drawn, key, width=1040, height=520, style="chart wide")
        narrow = draw_trade_off(drawn, key, width=400, height=400, style="chart narrow")
        drawings.append((device, wide + narrow, make_legend(drawn, key) if drawn else []))
    return drawings


def _latency_scale(points: Sequence[Point], area: Box) -> Scale:
    """Return a scale with more room on the left, where the labels of the fastest go."""
    low, high = min(min(point.latency) for point in points), max(max(point.latency) for point in points)
    margin = max(1.12, (high / low) ** 0.08)
    return Scale(low / margin**2, high * margin, area.left, area.right, log=True)


def _accuracy_scale(points: Sequence[Point], area: Box) -> Scale:
    """Return a scale that holds all usable points; a failed file far below would squeeze them and is drawn at the edge."""
    shown = [point for point in points if point.state != "failed"] or points
    low, high = min(min(point.accuracy) for point in shown), max(max(point.accuracy) for point in shown)
    margin = max(0.4, 0.06 * (high - low))
    return Scale(max(0.0, low - margin), min(100.0 + margin / 2, high + margin), area.bottom, area.top)


def _locate(point: Point, frame: Frame) -> tuple[float, float]:
    return frame.across(point.latency[0]), frame.up.clamp(point.accuracy[0])


def _trace_front(front: Sequence[Point], frame: Frame) -> list[tuple[float, float]]:
    """Return the Pareto front as a staircase: at each latency, the best accuracy of all files that are at least as fast."""
    steps: list[tuple[float, float]] = []
    for x, y in sorted(_locate(point, frame) for point in front):
        steps += [(x, steps[-1][1] if steps else frame.area.bottom), (x, y)]
    return [*steps, (frame.area.right, steps[-1][1])] if steps else []


def _draw(group: Canvas, point: Point, frame: Frame, *, shape: int) -> None:
    """Draw error bars with caps, the marker, and a cross over what failed."""
    x, y = _locate(point, frame)
    low, high = (frame.up.clamp(end) for end in point.accuracy[1:])
    left, right = (frame.across(end) for end in point.latency[1:])
    group.path([(x, low), (x, high)], "error accuracy")
    group.path([(left, y), (right, y)], "error latency")
    for end in (low, high):
        group.path([(x - 3, end), (x + 3, end)], "error cap")
    for end in (left, right):
        group.path([(end, y - 3), (end, y + 3)], "error cap")
    group.marker(shape, (x, y), MARKER)
    if point.state == "failed":
        _cross(group, x, y, MARKER + 3)


def _cross(group: Canvas, x: float, y: float, radius: float) -> None:
    for turn in (-radius, radius):
        group.path([(x - radius, y - turn), (x + radius, y + turn)], "strike")


def _describe_point(point: Point, front: bool) -> str:
    (ms, fast, slow), (percent, low, high) = point.latency, point.accuracy
    ends = f"{point.name}: {point.metric} {percent:.1f} % ({low:.1f}–{high:.1f}), {ms:.3g} ms ({fast:.3g}–{slow:.3g})"
    return ends + (f", {point.state}" if point.state != "good" else "") + (", on the Pareto front" if front else "")


def _label(canvas: Canvas, points: Sequence[Point], stairs: Sequence[tuple[float, float]], frame: Frame) -> None:
    """Write names beside markers, those on the front first; where there is no room the legend has to do."""
    fronts, centers = find_front(points), [_locate(point, frame) for point in points]
    crowded = (frame.area.right - frame.area.left) * (frame.area.bottom - frame.area.top) < CROWD * len(points)
    named = [index for index, point in enumerate(points) if not crowded or fronts[index] or point.state != "good"]
    named.sort(key=lambda index: (not fronts[index], points[index].state == "good"))
    anchors = [(*centers[index], _name_point(points[index], frame)) for index in named]
    hard = [Box(x - RING, y - RING, x + RING, y + RING) for x, y in centers]
    bars = [(x, [frame.up.clamp(end) for end in point.accuracy]) for (x, _), point in zip(centers, points, strict=True)]
    soft = [Box(x - 3, min(ends), x + 3, max(ends)) for x, ends in bars]
    soft += [Box(start[0], min(start[1], stop[1]) - 1, stop[0], max(start[1], stop[1]) + 1) for start, stop in pairwise(stairs)]
    for (x, y, name), box in zip(anchors, place_labels(anchors, hard=hard, soft=soft, area=frame.area), strict=True):
        if box is not None:
            near = find_nearest((x, y), box)
            if math.dist((x, y), near) > 14:
                canvas.path([(x, y), near], "leader")
            canvas.text(((box.left + box.right) / 2, box.bottom - 3.5), name, "label middle")


def _name_point(point: Point, frame: Frame) -> str:
    if point.state == "failed":
        below = f" {point.accuracy[0]:.1f} % ↓" if point.accuracy[0] < frame.up.low else ""
        return f"{point.name}{below} failed"
    return point.name if point.state == "good" else f"{point.name} ≈"


def make_legend(points: Sequence[Point], key: Key) -> list[tuple[str, Markup]]:
    """Return what each colour, shape and sign of the chart means, with a small drawing of it."""
    used = Key.from_points(points)
    states = {point.state for point in points}
    signs = [
        (name, _draw_sign(f"point {choose_colour(index)} good", "line"))
        for index, name in enumerate(key.series)
        if name in used.series
    ]
    signs += [(name, _draw_sign("point ink good", index)) for index, name in enumerate(key.runtimes) if name in used.runtimes]
    signs.append(("on the Pareto front", _draw_sign("point ink good", "ring")))
    if "failed" in states:
        signs.append(("failed, not in the front", _draw_sign("point ink failed", "cross")))
    if "unstable" in states:
        signs.append(("≈ unstable: a rough figure", _draw_sign("point ink unstable", 0)))
    return signs


def _draw_sign(style: str, kind: Literal["line", "ring", "cross"] | int) -> Markup:
    """Return a drawing for the legend; a number is a marker's shape."""
    canvas = Canvas.create(20, 16, label="", style="key")
    group = canvas.group(style)
    if kind == "line":
        group.path([(1, 8), (19, 8)], "swatch")
    elif kind == "ring":
        group.circle((10, 8), 6.5, "ring")
    elif kind == "cross":
        _cross(group, 10, 8, 6)
    else:
        group.marker(int(kind), (10, 8), MARKER)
    return canvas.markup()
