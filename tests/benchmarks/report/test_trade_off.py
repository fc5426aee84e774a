"""What a reader can rely on in the pictures: nothing is left out, the front is right, labels never overlap."""

from __future__ import annotations

import math
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.report import trade_off
from benchmarks.report.svg import Box, Scale, place_labels
from compress.records import Report
from tests.benchmarks.reading import Page, drawings, html_of, of_class
from tests.benchmarks.sample_report import sample


@pytest.fixture(scope="module")
def record() -> Report:
    return sample()


@pytest.fixture(scope="module")
def html(record: Report, tmp_path_factory: pytest.TempPathFactory) -> str:
    return html_of(record, tmp_path_factory.mktemp("report"))


def wide(html: str) -> list[ET.Element]:
    return [svg for svg in drawings(html) if svg.get("class") == "chart wide"]


def bar(point: ET.Element, style: str) -> tuple[list[float], list[float]]:
    """Return the horizontal and the vertical ends of an error bar."""
    (path,) = (each for each in of_class(point, style) if "error" in (each.get("class") or ""))
    numbers = [float(number) for number in re.findall(r"[\d.]+", path.get("d") or "")]
    return sorted(numbers[::2]), sorted(numbers[1::2])


def test_picture_has_error_bars_on_both_axes(record: Report, html: str) -> None:
    """Each file has a vertical bar for accuracy and a horizontal one for latency, which cross, and a tooltip."""
    points = of_class(wide(html)[0], "point")
    assert len(points) == len(record.variants)
    for point in points:
        (x, same_x), (high, low) = bar(point, "accuracy")
        (left, right), (y, same_y) = bar(point, "latency")
        assert (x, y) == (same_x, same_y)
        assert left < x < right
        assert high <= y <= low
        assert point.findtext("title")
    assert sum(bar(point, "accuracy")[1][0] < bar(point, "accuracy")[1][1] for point in points) == len(points) - 1


def test_picture_marks_the_front_and_what_is_wrong(html: str) -> None:
    """Failed and unstable files are drawn as such, what failed stays off the front; the table marks the same front."""
    picture = wide(html)[0]
    (failed,), (unstable,) = of_class(picture, "failed"), of_class(picture, "unstable")
    assert "student openvino fp16" in (failed.findtext("title") or "")
    assert "kd openvino fp16" in (unstable.findtext("title") or "")
    assert of_class(failed, "strike")
    assert not of_class(failed, "ring")
    assert len(of_class(picture, "ring")) == html.count('<span class="front-mark">')
    assert len(of_class(picture, "front")) == 1


measured = st.builds(
    lambda ms, top1, state: trade_off.Point("x", "s", "r", (ms, ms, ms), (top1, top1, top1), state),
    st.sampled_from([0.1, 0.2, 0.5, 1.0, 3.0]),
    st.sampled_from([10.0, 50.0, 90.0, 95.0, 99.0]),
    st.sampled_from(["good", "good", "good", "failed", "unstable"]),
)


@given(st.lists(measured, max_size=12))
def test_front_is_what_nothing_beats(points: list[trade_off.Point]) -> None:
    """What did not fail is off the front exactly when a front point is no slower, no worse, and better in one."""
    fronts = trade_off.find_front(points)
    on_front = [point for point, front in zip(points, fronts, strict=True) if front]
    assert all(point.state != "failed" for point in on_front)
    for point, front in zip(points, fronts, strict=True):
        if point.state != "failed":
            beaten = any(
                (other.latency[0], -other.accuracy[0]) != (point.latency[0], -point.accuracy[0])
                and other.latency[0] <= point.latency[0]
                and other.accuracy[0] >= point.accuracy[0]
                for other in on_front
            )
            assert front != beaten


@given(st.lists(measured, max_size=12), st.sampled_from([400, 1040]))
@settings(max_examples=40)
def test_any_points_can_be_drawn(points: list[trade_off.Point], width: int) -> None:
    """Every set of points, however alike, gives well-formed SVG with each of them inside the frame."""
    svg = ET.fromstring(trade_off.draw_trade_off(points, trade_off.Key.from_points(points), width=width, height=400))  # noqa: S314 (our own drawing)
    assert len(of_class(svg, "point")) == len(points)
    numbers = [float(number) for path in svg.iter("path") for number in re.findall(r"-?[\d.]+", path.get("d") or "")]
    assert all(math.isfinite(number) and -1 <= number <= width + 1 for number in numbers)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 300), st.text("ab ", min_size=1, max_size=25)), max_size=15))
@settings(max_examples=40)
def test_labels_never_overlap(anchors: list[tuple[int, int, str]]) -> None:
    """Labels cover neither one another nor what they must not, and stay inside."""
    area, hard = Box(0, 0, 400, 300), [Box(x - 9, y - 9, x + 9, y + 9) for x, y, _ in anchors]
    boxes = [box for box in place_labels(anchors, hard=hard, soft=[], area=area) if box is not None]
    for index, box in enumerate(boxes):
        assert area.contains(box)
        assert not any(box.overlaps(other) for other in (*hard, *boxes[:index]))


@given(st.floats(0.001, 1000), st.floats(1.05, 500), st.booleans())
def test_scales_keep_order_and_have_ticks(low: float, factor: float, log: bool) -> None:
    """A scale maps its ends onto the ends of the axis, and has at least two ticks, all inside."""
    scale = Scale(low, low * factor, 10, 110, log=log)
    assert scale(low) == pytest.approx(10)
    assert scale(low * factor) == pytest.approx(110)
    ticks = scale.ticks()
    assert len(ticks) >= 2
    assert ticks == sorted(ticks)
    assert low * 0.999 <= ticks[0] <= ticks[-1] <= low * factor * 1.001


def test_devices_share_no_axis_and_all_colours(record: Report, tmp_path: Path) -> None:
    """Each device has its own picture and front, and a network or runtime looks the same in all of them."""
    slow = {each.name: each.model_copy(update={"name": f"{each.name}@pi", "device": "pi"}) for each in record.variants[8:]}
    html = html_of(record.model_copy(update={"variants": (*record.variants, *slow.values())}), tmp_path)
    first, second = wide(html)
    assert (len(of_class(first, "point")), len(of_class(second, "point"))) == (len(record.variants), len(slow))

    def looks(svg: ET.Element) -> dict[str, str | None]:
        return {(each.findtext("title") or "").partition(":")[0]: each.get("class") for each in of_class(svg, "point")}

    assert looks(second).items() <= looks(first).items()


def test_curves_show_every_term(record: Report, html: str) -> None:
    """Each weighted loss term of each stage is named at its line, and so is the epoch that was kept."""
    page = Page(html)
    for stage in record.stages:
        for term in stage.epochs[0].losses:
            assert term in page.words or len(stage.epochs[0].losses) == 2
        assert f"kept: epoch {stage.best_epoch}" in page.words


def test_a_stage_of_one_epoch_is_drawn(record: Report, tmp_path: Path) -> None:
    """A run of a single epoch, with a term that is 0 or not finite, still gives a page."""
    stage = record.stages[2]
    epoch = stage.epochs[0].model_copy(update={"losses": {"ce": 0.0, "kd.teacher": math.inf, "total": 0.0}})
    short = record.model_copy(update={"stages": (stage.model_copy(update={"epochs": (epoch,), "best_epoch": 1}),)})
    page = Page(html_of(short, tmp_path))
    assert "ce" in page.words
    assert "kd.teacher" not in page.words
