"""The newcomer's way: the page is read as it stands, and shows what was measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.studies.newcomer import OUT, PAGE, Newcomer, follow, read_page, render
from compress.errors import CompressError
from compress.records import read


def test_the_page_shows_the_committed_times_of_its_own_commands(root: Path) -> None:
    """The table is that of the result, and the result that of the commands on the page."""
    page, found = (root / PAGE).read_text(encoding="utf-8"), read(OUT / "newcomer.json", Newcomer)
    programs, commands = read_page(page)
    assert list(programs) == ["make_pictures.py"]
    assert [step.command for step in found.steps] == commands
    assert render(found) == (OUT / "table.md").read_text(encoding="utf-8")
    assert render(found).partition("\n\n")[0] in page


def test_a_command_that_fails_ends_the_study(tmp_path: Path) -> None:
    """What follows would need what it should have left."""
    steps = follow([f"{sys.executable} -c pass", f"{sys.executable} -c 1/0", "true"], tmp_path)
    assert next(steps).exit_code == 0
    with pytest.raises(CompressError, match=r"ended with status 1: .*ZeroDivisionError"):
        next(steps)
