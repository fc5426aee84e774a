"""What a report says of the int8 ladder: every rung, what int8 buys, and which layers suffer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import pytest

from benchmarks import report
from benchmarks.report.ladder import SHOWN, draw_sensitivity
from compress.records import Accuracy, Ladder, Ratio, Report, Rung, Sensitivity
from tests.benchmarks.reading import HOSTILE, Page, changed, drawings, html_of, of_class
from tests.benchmarks.sample_report import sample

FILE = "student-onnx-fp32"
"""Stands in for an int8 file; the section goes by the ladder."""


def ratio(speedup: float, verdict: Literal["faster", "slower", "not distinguishable", "unstable"]) -> Ratio:
    return Ratio(against="student-onnx-fp32", speedup=speedup, ci95=(speedup - 0.05, speedup + 0.05), verdict=verdict)


def rung(name: Literal["default", "statistics", "saturation", "mixed"], status: str, **fields: object) -> Rung:
    known = {"rung": name, "detail": f"how {name} was done", "status": status, "seconds": 2.5, "reason": "", **fields}
    return Rung.model_validate(known)


def ladder(*, speedup: Ratio | None = None, chosen: int | None = 3) -> Ladder:
    judged = {
        "validation": Accuracy.from_hits(200, 216),
        "agreement_percent": 91.2,
        "top1_drop_points": 3.4,
        "size_bytes": 81_920,
    }
    return Ladder(
        rungs=(
            rung("default", "failed", reason="agreement 91.20 % is below 98 %", speedup=ratio(2.75, "faster"), **judged),
            rung("statistics", "failed", reason="agreement 93.00 % is below 98 %", **judged),
            rung("saturation", "skipped", reason="this processor has avx_vnni"),
            rung("mixed", "passed" if chosen == 3 else "failed", float_layers=("features.0",), speedup=speedup, **judged),
        ),
        chosen=chosen,
        sensitivity=tuple(
            Sensitivity(layer=f"features.{index}", relative_difference=0.4 / (1 + index), agreement_percent=90 + index / 4)
            for index in range(30)
        ),
        calibration_images=300,
    )


def with_ladder(record: Ladder) -> Report:
    return changed(sample(), FILE, ladder=record)


def test_every_rung_is_a_row_with_its_reason(tmp_path: Path) -> None:
    """Page and Markdown show what was tried, in order, what became of it, and which was chosen."""
    html = html_of(with_ladder(ladder(speedup=ratio(2.2, "faster"))), tmp_path)
    page, markdown = Page(html), (tmp_path / "report.md").read_text(encoding="utf-8")
    assert [fields["data-rung"] for _, fields in page.elements if "data-rung" in fields] == ["0", "1", "2", "3"]
    rows = [line for line in markdown.splitlines() if re.match(r"\| (default|statistics|saturation|mixed) ", line)]
    assert [row.split(" | ")[2] for row in rows] == ["failed", "failed", "skipped", "passed, chosen"]
    for text in (page.text, markdown):
        assert "this processor has avx" in text
        assert "92.6 %" in text
        assert "80.0 KiB" in text
    assert "n=216" in page.text


def test_markdown_tables_of_the_ladder_are_rectangular(tmp_path: Path) -> None:
    """Every row has as many cells as its head."""
    report.write(with_ladder(ladder()), tmp_path)
    blocks = re.findall(r"(?:^\|.*\n)+", (tmp_path / "report.md").read_text(encoding="utf-8"), re.MULTILINE)
    found = [block for block in blocks if block.startswith(("| rung", "| layer alone"))]
    assert [len(block.splitlines()) for block in found] == [6, 2 + SHOWN]
    for block in found:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block


@pytest.mark.parametrize(
    ("speedup", "words"),
    [
        (ratio(2.2, "faster"), "On onnxruntime int8 has 2.20× (2.15–2.25) the speed"),
        (ratio(0.8, "slower"), "On onnxruntime int8 does not pay: it has 0.800× (0.75–0.85) the speed"),
        (ratio(1.01, "not distinguishable"), "int8 does not pay in speed: 1.01×"),
        (ratio(1.3, "unstable"), "is unstable: 1.30×"),
    ],
)
def test_the_speed_of_int8_is_stated_with_its_number(tmp_path: Path, speedup: Ratio, words: str) -> None:
    """Where int8 is slower than float32 the report says so; the price of the rungs above the first stands beside it."""
    html_of(with_ladder(ladder(speedup=speedup)), tmp_path)
    for text in (Page((tmp_path / "report.html").read_text()).text, (tmp_path / "report.md").read_text()):
        assert words in text
        assert "The first rung's file, which failed, has 2.75×" in text


def test_nothing_is_said_of_a_speed_that_was_not_measured(tmp_path: Path) -> None:
    """No timing, no sentence about it."""
    page = Page(html_of(with_ladder(ladder()), tmp_path))
    assert "the speed of the same network" not in page.text
    assert "Chosen: rung mixed, how mixed was done, 80.0 KiB." in page.text


def test_a_climb_that_failed_says_so(tmp_path: Path) -> None:
    """No rung is marked as chosen."""
    page = Page(html_of(with_ladder(ladder(chosen=None)), tmp_path))
    assert "No rung met the gate" in page.text
    assert "←" not in page.text


def test_the_picture_has_a_bar_for_each_layer_and_longer_is_worse() -> None:
    """Bars follow the relative difference; what stays in float has another colour and says so."""
    shown = ladder().sensitivity[:5]
    (svg,) = drawings(str(draw_sensitivity(shown, {"features.0"})))
    bars = [of_class(svg, "marker")[index].get("d", "") for index in range(5)]
    widths = [float(re.findall(r"L([\d.]+) ", bar)[0]) - float(re.findall(r"M([\d.]+) ", bar)[0]) for bar in bars]
    assert len(of_class(svg, "marker")) == 5
    for width, each in zip(widths, shown, strict=True):
        assert width == pytest.approx(widths[0] * each.relative_difference / shown[0].relative_difference, abs=0.2)  # rounded
    assert [group.get("class") for group in of_class(svg, "point")] == ["point s1 good", *["point s0 good"] * 4]
    assert sum("stays in float" in (text.text or "") for text in svg.iter()) == 1


def test_lost_answers_do_not_squeeze_the_other_bars() -> None:
    """A layer whose answers are not finite has the longest bar and no number, and the next one keeps its length."""
    shown = (Sensitivity(layer="bad", relative_difference=1e6, agreement_percent=0), *ladder().sensitivity[:2])
    (svg,) = drawings(str(draw_sensitivity(shown, ())))
    ends = [re.findall(r"L([\d.]+) ", bar.get("d", ""))[0] for bar in of_class(svg, "marker")]
    assert ends[0] == ends[1] != ends[2]
    assert "lost" in {text.text for text in svg.iter()}


def test_the_worst_layers_are_listed_and_the_number_of_all(tmp_path: Path) -> None:
    """A deep network does not fill the page."""
    page = Page(html_of(with_ladder(ladder()), tmp_path))
    assert f"worst {SHOWN} of 30 layers" in page.text
    assert "features.23" in page.text
    assert "features.24" not in page.text


def test_a_report_without_int8_has_no_such_section(tmp_path: Path) -> None:
    """Nothing is said of what was not asked for."""
    assert "int8 files" not in Page(html_of(sample(), tmp_path)).text


def test_names_of_layers_and_reasons_stay_text(tmp_path: Path) -> None:
    """Names come from a stranger's network; they are shown and never acted on."""
    record = ladder()
    hostile = record.model_copy(
        update={
            "sensitivity": (Sensitivity(layer=HOSTILE, relative_difference=0.1, agreement_percent=99),),
            "rungs": (record.rungs[0].model_copy(update={"reason": HOSTILE, "detail": HOSTILE}),),
            "chosen": 0,
            "note": HOSTILE,
        }
    )
    html = html_of(with_ladder(hostile), tmp_path)
    assert "<script" not in html
    assert not any(tag == "script" for tag, _ in Page(html).elements)
