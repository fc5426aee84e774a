"""Where classes are uneven the report shows balanced accuracy and the recall of each class."""

from __future__ import annotations

from pathlib import Path

from benchmarks import report as reports
from benchmarks.report.recalls import MOST_CLASSES, describe_recalls
from compress.records import Accuracy, Report
from tests.benchmarks.sample_report import sample, with_seeds


def with_counts(correct: list[int], samples: list[int]) -> Report:
    """Return a report whose networks have such hits in classes of such sizes."""
    record = with_seeds(sample())
    found = Accuracy.from_counts(correct, samples)
    scores = tuple(
        each.model_copy(update={"seeds": tuple(seed.model_copy(update={"accuracy": found}) for seed in each.seeds)})
        for each in record.scores
    )
    names = tuple(f"class {place}" for place in range(len(samples)))
    return record.model_copy(update={"scores": scores, "classes": names})


def test_uneven_classes_have_a_table_the_worst_first(tmp_path: Path) -> None:
    """Both pages show each class with its images, and the balanced accuracy."""
    record = with_counts([970, 12, 0], [1000, 30, 5])
    table = describe_recalls(record)
    assert table is not None
    assert [line[:2] for line in table.lines] == [("class 2", 5), ("class 1", 30), ("class 0", 1000)]
    assert all(balanced.startswith("45.7 (") for balanced in table.balanced)
    reports.write(record, tmp_path)
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "Recall of each class" in text
        assert "45.7 (" in text


def test_even_classes_have_none(tmp_path: Path) -> None:
    """Nothing is added where top-1 says it all."""
    record = with_counts([9, 8], [10, 10])
    assert describe_recalls(record) is None
    reports.write(record, tmp_path)
    assert "Recall of each class" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_of_many_classes_the_worst_are_shown() -> None:
    """A thousand classes do not make a thousand lines; how many are left out is said."""
    table = describe_recalls(with_counts([*range(80)], [*range(1, 81)]))
    assert table is not None
    assert len(table.lines) == MOST_CLASSES
    assert table.left_out == 30
