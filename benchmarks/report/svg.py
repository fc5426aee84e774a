"""The parts of a chart as inline SVG: a canvas, scales with ticks, markers, and labels that do not overlap.

Elements carry classes only, so that the style sheet of the page alone decides about light, dark and print. Text is escaped by
construction, because the tree is serialised by `xml.etree`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from xml.etree import ElementTree as ET

from markupsafe import Markup

TEXT_HEIGHT, CHARACTER_WIDTH = 14.0, 6.4
"""Room of a line and of a character of the labels (11.5 px), in pixels; that of DejaVu Sans, the widest of usual fonts."""

POLYGONS: tuple[tuple[tuple[float, float], ...], ...] = (
    tuple((math.cos(turn * math.pi / 12), math.sin(turn * math.pi / 12)) for turn in range(24)),
    ((-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)),
    ((0.0, -1.25), (1.15, 0.85), (-1.15, 0.85)),
    ((0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)),
    ((0.0, 1.25), (1.15, -0.85), (-1.15, -0.85)),
    ((-0.4, -1.1), (0.4, -1.1), (0.4, -0.4), (1.1, -0.4), (1.1, 0.4), (0.4, 0.4), (0.4, 1.1), (-0.4, 1.1), (-0.4, 0.4),
     (-1.1, 0.4), (-1.1, -0.4), (-0.4, -0.4)),
)  # fmt: skip
"""Circle, square, triangle, diamond, triangle on its tip, cross; of about equal area at radius 1."""


SERIES = 8
"""Colours of the page's style sheet: Okabe and Ito's, which colour-blind readers can tell apart, and two more."""


def choose_colour(index: int) -> str:
    """Return the class of the series with this index; from the ninth on they are grey and live by their labels."""
    return f"s{index}" if index < SERIES else "other"


class Canvas:
    """An SVG element to draw into.

    Args:
        element: Where drawn elements are appended.
    """

    def __init__(self, element: ET.Element) -> None:
        self._element = element

    @classmethod
    def create(cls, width: float, height: float, *, label: str, style: str = "chart") -> Canvas:
        """Return an empty drawing; `label` is its text for screen readers, which skip it if empty."""
        shape = {"viewBox": f"0 0 {width:g} {height:g}", "width": f"{width:g}", "height": f"{height:g}"}
        spoken = {"role": "img", "aria-label": label} if label else {"aria-hidden": "true"}
        return cls(ET.Element("svg", {**shape, **spoken, "class": style}))

    def group(self, style: str, *, tooltip: str = "") -> Canvas:
        """Return a group; `tooltip` shows when the mouse rests on it."""
        group = ET.SubElement(self._element, "g", {"class": style})
        if tooltip:
            ET.SubElement(group, "title").text = tooltip
        return Canvas(group)

    def path(self, points: Sequence[tuple[float, float]], style: str, *, closed: bool = False) -> None:
        """Draw a line through points."""
        steps = " ".join(f"{'L' if index else 'M'}{x:.1f} {y:.1f}" for index, (x, y) in enumerate(points))
        ET.SubElement(self._element, "path", {"d": steps + ("Z" if closed else ""), "class": style})

    def marker(self, shape: int, center: tuple[float, float], radius: float, style: str = "marker") -> None:
        """Draw one of `POLYGONS`."""
        x, y = center
        polygon = POLYGONS[shape % len(POLYGONS)]
        self.path([(x + radius * right, y + radius * down) for right, down in polygon], style, closed=True)

    def circle(self, center: tuple[float, float], radius: float, style: str) -> None:
        """Draw a circle."""
        ET.SubElement(
            self._element, "circle", {"cx": f"{center[0]:.1f}", "cy": f"{center[1]:.1f}", "r": f"{radius:g}", "class": style}
        )

    def text(self, at: tuple[float, float], text: str, style: str, *, turned: bool = False) -> None:
        """Write a line of text whose anchor and size come from the style; `turned` reads upwards."""
        attributes = {"x": f"{at[0]:.1f}", "y": f"{at[1]:.1f}", "class": style}
        if turned:
            attributes["transform"] = f"rotate(-90 {at[0]:.1f} {at[1]:.1f})"
        ET.SubElement(self._element, "text", attributes).text = text

    def markup(self) -> Markup:
        """Return the drawing as it stands in a page."""
        return Markup(ET.tostring(self._element, encoding="unicode"))  # noqa: S704 (ElementTree escapes all text and attributes)


@dataclass(frozen=True)
class Scale:
    """Maps values onto pixels, linearly or by their logarithm."""

    low: float
    high: float
    start: float
    """Pixel of `low`."""
    end: float
    """Pixel of `high`."""
    log: bool = False
    whole: bool = False
    """Only whole numbers are ticks, the first of them included."""

    def clamp(self, value: float) -> float:
        """Return the pixel of a value, or of the end beyond which it lies."""
        return self(max(self.low, min(self.high, value)))

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        low, high, value = (
            (math.log(each) for each in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, wanted: int = 6) -> list[float]:
        """Return round values inside the scale, about `wanted`."""
        if self.whole:
            first = math.ceil(self.low)
            return [
                first,
                *(tick for tick in _make_linear_ticks(self.low, self.high, wanted) if tick == round(tick) and tick > first + 1),
            ]
        if not self.log:
            return _make_linear_ticks(self.low, self.high, wanted)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for factors in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5, 7), tuple(range(1, 10))):
            values = [factor * 10.0**decade for decade in decades for factor in factors]
            inside = [value for value in values if self.low <= value <= self.high]
            if len(inside) >= wanted - 2:
                return inside
        return _make_linear_ticks(self.low, self.high, wanted)


def _make_linear_ticks(low: float, high: float, wanted: int) -> list[float]:
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


class Box(NamedTuple):
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        """Return whether the two share a point."""
        return self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom

    def contains(self, other: Box) -> bool:
        """Return whether the other lies inside this one."""
        inside = self.left <= other.left and other.right <= self.right
        return inside and self.top <= other.top and other.bottom <= self.bottom


class Frame(NamedTuple):
    """Where a chart's data go: the area inside the axes and both scales."""

    area: Box
    across: Scale
    up: Scale

    def draw(self, canvas: Canvas, *, x_title: str, y_title: str, gap: float) -> None:
        """Draw axes, grid and titles; ticks of the horizontal axis are about `gap` pixels apart."""
        area = self.area
        for value in self.up.ticks(5):
            canvas.path([(area.left, self.up(value)), (area.right, self.up(value))], "grid")
            canvas.text((area.left - 8, self.up(value) + 4), f"{value:.10g}", "tick end")
        for value in self.across.ticks(max(4, round((area.right - area.left) / gap))):
            canvas.path([(self.across(value), area.top), (self.across(value), area.bottom)], "grid")
            canvas.text((self.across(value), area.bottom + 17), f"{value:.10g}", "tick middle")
        canvas.path([(area.left, area.top), (area.left, area.bottom), (area.right, area.bottom)], "axis")
        canvas.text(((area.left + area.right) / 2, area.bottom + 36), x_title, "title middle")
        canvas.text((14, (area.top + area.bottom) / 2), y_title, "title middle", turned=True)


def place_labels(
    anchors: Sequence[tuple[float, float, str]], *, hard: Sequence[Box], soft: Sequence[Box], area: Box
) -> list[Box | None]:
    """Return where the label of each anchor goes, nearest free place first; `None` where there is no room.

    Args:
        anchors: Position and text, the most important first.
        hard: What no label may cover.
        soft: What labels had better not cover.
        area: What labels may not leave.
    """
    occupied, placed = list(hard), list[Box | None]()
    for x, y, text in anchors:
        options = [
            (distance + 22 * sum(box.overlaps(other) for other in soft) + 14 * _count_crossed((x, y), box, hard), box)
            for distance, box in _list_places(x, y, text)
            if area.contains(box) and not any(box.overlaps(other) for other in occupied)
        ]
        best = min(options, default=(0.0, None), key=lambda option: option[0])[1]
        placed.append(best)
        if best is not None:
            occupied.append(best)
    return placed


def find_nearest(point: tuple[float, float], box: Box) -> tuple[float, float]:
    """Return the point of a box that is nearest."""
    return max(box.left, min(box.right, point[0])), max(box.top, min(box.bottom, point[1]))


def _count_crossed(point: tuple[float, float], box: Box, others: Sequence[Box]) -> int:
    """Return how many of the others, the point's own aside, a straight leader from the point to the box would cross."""
    end = find_nearest(point, box)
    along = [tuple(start + share / 8 * (stop - start) for start, stop in zip(point, end, strict=True)) for share in range(1, 8)]
    foreign = [other for other in others if not other.overlaps(Box(*point, *point))]
    return sum(any(other.left < x < other.right and other.top < y < other.bottom for x, y in along) for other in foreign)


def _list_places(x: float, y: float, text: str) -> list[tuple[float, Box]]:
    """Return boxes for a label around a point, each with what it costs to be there: its distance."""
    width, places = CHARACTER_WIDTH * len(text), []
    for radius in (13.0, 17.0, 24.0, 36.0, 50.0, 68.0):
        for turn in range(16):
            right, down = math.cos(turn * math.pi / 8), math.sin(turn * math.pi / 8)
            left = x + radius * right - width * (0.5 - 0.5 * max(-1.0, min(1.0, 2.2 * right)))
            top = y + radius * down - TEXT_HEIGHT / 2
            places.append((radius + 4 * abs(down), Box(left, top, left + width, top + TEXT_HEIGHT)))
    return places
