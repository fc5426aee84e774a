"""Counting what the sabotage tests show, on small tests with known outcomes."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.studies import sabotage
from benchmarks.studies.int8.records import Int8, Sabotage
from benchmarks.studies.int8.report import read_sabotage, render
from compress.errors import CompressError
from compress.records import read

TESTS = '''
import pytest

@pytest.mark.parametrize("kind", ["a b", "c", "d::e"])
def test_a_damaged_file_is_refused(kind):
    """Every damage."""
    assert kind != "c"

def test_a_change_is_noticed_only_by_its_checksum():
    """Another."""

def test_no_good_file_is_refused():
    """Good files."""

def test_the_cause_is_named():
    """Words."""
    assert False
'''


def test_each_case_counts_by_the_name_of_its_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damages that nobody noticed are counted as such, good files apart, and tests of words not at all; the report says so."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "test_sabotage_here.py").write_text(TESTS)
    (tmp_path / "test_other.py").write_text("def test_x_is_refused(): assert False")
    monkeypatch.setattr(sabotage, "TESTS", tmp_path)
    out = tmp_path / "out" / "sabotage.json"
    said = CliRunner().invoke(sabotage.main, ["--out", str(out)]).stdout
    assert said.splitlines() == ["damages caught: 3 of 4", "good files accepted: 1 of 1"]
    found = read(out, Sabotage)
    assert [(group.what, group.right, group.cases) for group in (*found.damages, *found.good)] == [
        ("Every damage.", 2, 3), ("Another.", 1, 1), ("Good files.", 1, 1),
    ]  # fmt: skip
    text = render(Int8(command="c", networks=()), read_sabotage(out.parent))
    assert "3 of 4 damages were caught, and 1 of 1 good files and bundles were accepted" in text
    assert "| a damaged file is refused | Every damage. | 2 | 3 |" in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nothing_of_this_name", "pytest: ended with status 2"),
        ("def test_a_file_is_refused(missing): pass", "test_a_file_is_refused could not be begun"),
    ],
)
def test_tests_that_cannot_run_are_no_result(text: str, said: str, tmp_path: Path) -> None:
    """A suite that is broken counts nothing as caught."""
    (tmp_path / "test_sabotage.py").write_text(text)
    with pytest.raises(CompressError, match=said):
        sabotage.count_caught(tmp_path)


def test_the_suite_is_that_of_the_repository() -> None:
    """The names by which cases are counted occur among the repository's tests, good ones and damages."""
    files = sorted(sabotage.TESTS.rglob("test_sabotage*.py"))
    names = [name for file in files for name, _ in sabotage._read_docstrings(file) if name.startswith("test_")]
    good = [name for name in names if sabotage.GOOD.match(name)]
    assert len(good) >= 2
    assert len([name for name in names if sabotage.DAMAGE.search(name)]) - len(good) >= 10
