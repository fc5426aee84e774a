"""What a reader can rely on where runs stand beside each other."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import to_json

from benchmarks import report
from benchmarks.report import wording
from compress.errors import CompressError
from compress.records import Accuracy, Report, Variant
from tests.benchmarks.reading import Page, shown
from tests.benchmarks.sample_report import sample, with_seeds


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
    table = shown(report.make_comparison_table(runs()))
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


def other(record: Report, name: str, **scored: Any) -> Report:
    """Return the report of another recipe."""
    recipe = {**record.recipe, "student": {"model": name}}
    return with_seeds(record.model_copy(update={"name": name, "recipe": recipe}), **scored)


def test_a_run_with_seeds_stands_at_their_mean_and_its_files_with_what_they_lost() -> None:
    """Error bars are the deviation over seeds; a file that lost five points against its network stays five below it."""
    record = with_seeds(sample())
    values = [score.accuracy.top1_percent for score in record.scores[1].seeds]
    files = {each.variant.name: each for each in report.compare([record]).entries}
    whole, broken = files["student-onnx-fp32"], files["student-openvino-fp16"]
    assert whole.accuracy is not None
    assert broken.accuracy is not None
    assert whole.seeds == (0, 1, 2)
    assert whole.accuracy.deviation == pytest.approx(statistics.stdev(values))
    lost = top1(record.variants, "student-onnx-fp32") - values[0]
    assert whole.accuracy.mean == pytest.approx(statistics.fmean(values) + lost)
    apart = top1(record.variants, "student-onnx-fp32") - top1(record.variants, "student-openvino-fp16")
    assert whole.accuracy.mean - broken.accuracy.mean == pytest.approx(apart)
    teacher = files["teacher-onnx-fp32"]
    assert teacher.accuracy is not None
    assert (teacher.seeds, teacher.accuracy.deviation) == ((0,), None)
    assert "3 seeds" in shown(report.make_comparison_table([record]))


def test_seeds_of_one_run_are_not_mixed_with_other_runs() -> None:
    """Seeds that share a teacher and a split are not averaged with a run that has its own."""
    several, single = with_seeds(sample(name="several")), with_seeds(sample(seed=7, name="single"), seeds=1)
    comparison = report.compare([several, single])
    assert {(each.run, len(each.seeds)) for each in comparison.entries if each.variant.network == "student"} == {
        ("several", 3), ("single", 1),
    }  # fmt: skip


def test_students_of_runs_are_paired_where_they_saw_the_same_images(tmp_path: Path) -> None:
    """Each run's student stands against that of the first, seed by seed and image by image, on page, table and document."""
    reports = [with_seeds(sample()), other(sample(), "worse", gain=-40), other(sample(), "alike")]
    worse, alike = report.compare(reports).paired
    assert (worse.this, worse.other, worse.pairing, worse.seeds) == ("worse", "digits", "images and seeds", 3)
    assert (worse.verdict, alike.verdict) == ("worse", "not distinguishable")
    page = Page(report.write_comparison(reports, tmp_path).read_text(encoding="utf-8"))
    assert [attributes["data-contrast"] for _, attributes in page.elements if "data-contrast" in attributes] == [
        "worse against digits", "alike against digits",
    ]  # fmt: skip
    (table,) = report.make_student_tables(reports)
    assert max(map(len, shown(table).splitlines())) <= 100
    document = json.loads(to_json(report.make_document(reports)))
    assert [Report.model_validate(each) for each in document["reports"]] == reports
    assert [each["verdict"] for each in document["paired"]] == ["worse", "not distinguishable"]


def test_runs_that_differ_in_seed_are_paired_as_one_student() -> None:
    """Three runs of a recipe with three seeds count as one run with them."""
    apart = [with_seeds(sample(seed=seed, name=f"digits-s{seed}"), seeds=1) for seed in range(3)]
    named = [_reseeded(each, int(each.recipe["seed"])) for each in apart]
    (found,) = report.compare([*named, other(sample(), "wide")]).paired
    assert (found.this, found.other, found.seeds) == ("wide", "digits", 3)
    assert [(test.seed, test.other_seed) for test in found.mcnemar] == [(0, 0), (1, 1), (2, 2)]


def _reseeded(record: Report, seed: int) -> Report:
    scores = tuple(
        each.model_copy(update={"seeds": tuple(score.model_copy(update={"seed": seed}) for score in each.seeds)})
        for each in record.scores
    )
    return record.model_copy(update={"scores": scores})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"test_key": "other images"}, "they were tested on different images"),
        ({"classes": tuple("abcdefghij")}, "their classes differ (10: a, b, c, …; 10: 0, 1, 2, …)"),
        ({"classes": tuple("9876543210")}, "their classes differ"),
        ({"test_key": "", "images": {"test": 100}}, "they were tested on different images"),
    ],
)
def test_no_verdict_across_tasks(change: dict[str, Any], why: str, tmp_path: Path) -> None:
    """Across other classes, another order of them, or other test images there is no verdict, and the reason."""
    reports = [with_seeds(sample()), other(sample(), "elsewhere", gain=-40).model_copy(update=change)]
    document = report.make_document(reports)
    assert document["paired"] == ()
    assert why in document["warnings"][0]
    assert report.make_student_tables(reports) == []
    table = " ".join(shown(report.make_comparison_table(reports)).split())
    page = Page(report.write_comparison(reports, tmp_path).read_text(encoding="utf-8")).text
    for text in (table, page):
        assert "elsewhere and digits are not compared" in text
        assert "McNemar" not in text


def test_others_are_still_compared_beside_one_that_is_not() -> None:
    """A run of another task takes no verdict from those that share their images."""
    reports = [with_seeds(sample()), other(sample(), "elsewhere", test_key="other"), other(sample(), "wide", gain=-40)]
    assert [each.this for each in report.compare(reports).paired] == ["wide"]


def test_reports_without_a_fingerprint_are_compared_where_their_data_is_the_same() -> None:
    """Reports from before there was a fingerprint of the test images are told apart by their data section."""
    old = with_seeds(sample(), test_key="")
    assert len(report.compare([old, other(sample(), "wide", test_key="")]).paired) == 1
    moved = old.model_copy(update={"name": "moved", "recipe": {**old.recipe, "data": {"source": "folder", "path": "pets"}}})
    assert report.compare([old, moved]).paired == ()


@pytest.mark.parametrize(
    ("second", "why"),
    [(other(sample(), "elsewhere").model_copy(update={"scores": ()}), "the report of elsewhere keeps no result")],
)
def test_what_cannot_be_paired_says_so(second: Report, why: str) -> None:
    """Without a result for each image, the interval is that of independent samples, and says why."""
    (found,) = report.compare([with_seeds(sample()), second]).paired
    assert (found.pairing, found.mcnemar, found.ci95_over_seeds) == ("none", (), None)
    assert why in found.note
    first, last = (Accuracy.from_hits(round(360 * found_mean(each) / 100), 360) for each in (second, with_seeds(sample())))
    expected = wording.compute_difference(first, last)
    assert (found.points, found.ci95) == (pytest.approx(expected.points), pytest.approx((expected.low, expected.high)))
    assert "unpaired" in " ".join(shown(*report.make_student_tables([with_seeds(sample()), second]), width=200).split())


def found_mean(record: Report) -> float:
    if not record.scores:
        return top1(record.variants, "student-torch-fp32")
    return statistics.fmean(score.accuracy.top1_percent for score in record.scores[1].seeds)
