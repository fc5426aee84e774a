"""No run takes a bundle away: it is kept, or left, and it is said which is which."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import report
from compress.run.placement import leave_bundle, place_bundle, set_aside
from tests.benchmarks.sample_report import sample


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run with a bundle and the report that describes it."""
    _write_bundle(tmp_path / "bundle", "first")
    report.write(sample(), tmp_path)
    return tmp_path


def _write_bundle(folder: Path, model: str) -> Path:
    (folder / "samples").mkdir(parents=True)
    (folder / "student.onnx").write_text(model, encoding="utf-8")
    (folder / "samples" / "one.png").write_text("picture", encoding="utf-8")
    return folder


def _read(folder: Path) -> str:
    return (folder / "student.onnx").read_text(encoding="utf-8")


def test_an_equal_bundle_is_left_as_it_is(run: Path) -> None:
    """A run again with equal bytes does not touch the folder, not even its times, and says nothing."""
    before = (run / "bundle").stat().st_mtime_ns, (run / "bundle").stat().st_ino
    assert place_bundle(_write_bundle(run / "fresh", "first"), run / "bundle") == []
    assert ((run / "bundle").stat().st_mtime_ns, (run / "bundle").stat().st_ino) == before
    assert sorted(path.name for path in run.iterdir() if path.is_dir()) == ["bundle"]


@pytest.mark.parametrize("change", ["student.onnx", "samples/one.png", "samples/two.png"])
def test_another_bundle_keeps_the_earlier_one(run: Path, change: str) -> None:
    """Whatever file differs or is new, the earlier bundle is `bundle-1`, its report beside it, and both are named."""
    fresh = _write_bundle(run / "fresh", "first")
    (fresh / change).write_text("other", encoding="utf-8")
    page = (run / "report.html").read_bytes()
    said = place_bundle(fresh, run / "bundle")
    assert (run / "bundle" / change).read_text(encoding="utf-8") == "other"
    assert _read(run / "bundle-1") == "first"
    assert (run / "report-1.html").read_bytes() == page
    assert "bundle-1: is the bundle of an earlier run, kept" in said[0]
    assert "report-1.html" in said[0]
    assert said[1].endswith("bundle: is this run's bundle")


def test_versions_do_not_replace_each_other(run: Path) -> None:
    """Every further bundle gets the next number, also where somebody removed one or made a folder of that name."""
    (run / "bundle-2").mkdir()
    for model in ("second", "third"):
        place_bundle(_write_bundle(run / "fresh", model), run / "bundle")
    assert [_read(run / name) for name in ("bundle-1", "bundle-3", "bundle")] == ["first", "second", "third"]


def test_a_bundle_that_nothing_replaces_is_set_aside(run: Path) -> None:
    """Where no file of a run passed, there is no `bundle` that could be taken for its own, and the earlier one is kept."""
    (said,) = set_aside(run / "bundle")
    assert not (run / "bundle").exists()
    assert _read(run / "bundle-1") == "first"
    assert "its manifest cannot be read" in said
    assert set_aside(run / "bundle") == []


def test_a_run_that_exports_nothing_leaves_the_bundle_and_its_report(run: Path) -> None:
    """The deliverable stays where it was, with the page that describes it, also over several such runs and the next bundle."""
    page = (run / "report.html").read_bytes()
    (said,) = leave_bundle(run / "bundle")
    assert "left as it is, since this run exports nothing" in said
    bare = sample().model_copy(update={"gates": {}})
    report.write(bare, run)
    leave_bundle(run / "bundle")
    assert _read(run / "bundle") == "first"
    assert (run / "report-bundle.html").read_bytes() == page
    place_bundle(_write_bundle(run / "fresh", "second"), run / "bundle")
    assert (run / "report-1.html").read_bytes() == page
    assert not (run / "report-bundle.html").exists()


def test_a_first_bundle_takes_its_place_quietly(tmp_path: Path) -> None:
    """Where nothing was, nothing is kept and nothing is said."""
    assert place_bundle(_write_bundle(tmp_path / "fresh", "first"), tmp_path / "bundle") == []
    assert _read(tmp_path / "bundle") == "first"
    assert leave_bundle(tmp_path / "none") == []
