"""What a reader can rely on where runs stand beside each other."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

import pytest

from benchmarks import report
from compress.errors import CompressError
from compress.records import Report, Variant
from tests.benchmarks.reading import Page, shown
from tests.benchmarks.sample_report import sample


def runs() -> list[Report]:
    seeds = [sample(seed=seed, name=f"digits-s{seed}") for seed in range(3)]
    other = seeds[0].model_copy(update={"name": "wide", "recipe": {**seeds[0].recipe, "student": {"model": "resnet14"}}})
    return [*seeds, other]


def top1(variants: tuple[Variant, ...], name: str) -> float:
    accuracy = next(each.accuracy for each in variants if each.name == name)
    assert accuracy is not None
    return accuracy.top1_percent


def test_seeds_become_mean_and_deviation() -> None:
    """Runs that differ only in seed and name are one row with the sample standard deviation; others stay apart."""
    comparison = report.compare(runs())
    entry = next(each for each in comparison.entries if each.variant.name == "student-onnx-fp32" and each.run == "digits")
    values = [top1(each.variants, "student-onnx-fp32") for each in runs()[:3]]
    assert entry.seeds == (0, 1, 2)
    assert entry.accuracy is not None
    assert entry.accuracy.mean == pytest.approx(statistics.fmean(values))
    assert entry.accuracy.deviation == pytest.approx(statistics.stdev(values))
    assert {each.run for each in comparison.entries} == {"digits", "wide"}
    alone = next(each.accuracy for each in comparison.entries if each.run == "wide")
    assert alone is not None
    assert alone.deviation is None


def test_the_same_seed_twice_is_no_spread() -> None:
    """A repeated run of one seed does not pose as another seed."""
    comparison = report.compare([sample(), sample(name="again")])
    assert all(each.accuracy is None or each.accuracy.deviation is None for each in comparison.entries)
    assert len(comparison.entries) == 2 * len(sample().variants)


def test_comparison_page_and_table_hold_every_run(tmp_path: Path) -> None:
    """The page is as self-contained as a report; the table fits 100 columns; one failed seed fails the row."""
    path = report.write_comparison(runs(), tmp_path)
    assert path == tmp_path / "comparison.html"
    html = path.read_text(encoding="utf-8")
    assert not re.search(r"https?:|//\w|url\(|@import|<script|<link|<img|\bsrc=|\bhref=", html)
    page = Page(html)
    assert "97.96 ± 0.16" in page.text
    table = shown(report.compare_table(runs()))
    assert max(map(len, table.splitlines())) <= 100
    assert "97.96 ± 0.16" in table
    mixed = [runs()[0].model_copy(update={"gates": {}}), *runs()[1:3]]
    entry = next(each for each in report.compare(mixed).entries if each.variant.name == "student-openvino-fp16")
    assert entry.state == "failed"


def test_different_machines_are_called_so() -> None:
    """Latencies from different processors come with a warning."""
    first, second = runs()[:2]
    elsewhere = second.model_copy(update={"environment": second.environment.model_copy(update={"cpu": "Cortex-A72"})})
    assert any("different machines" in warning for warning in report.compare([first, elsewhere]).warnings)
    assert not any("different machines" in warning for warning in report.compare([first, second]).warnings)


def test_nothing_to_compare_is_refused() -> None:
    """Comparing no run says what to give."""
    with pytest.raises(CompressError, match="at least one run"):
        report.compare([])
