"""Stages in the cache: found when they are whole, trained anew when they are not, and out of reach of who edits a run."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from compress import recipe
from compress.events import Events
from compress.records.training import METRICS, WEIGHTS
from compress.run.context import Trained, open_run
from compress.run.teachers import obtain_teacher

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("time_once")]


def teacher(where: Path, tiny_recipe: str, text: io.StringIO | None = None) -> Trained:
    parsed = recipe.parse(tiny_recipe.encode(), "tiny.yaml", ("data.train_images=400", "train.batch_size=64"))
    events = Events(console=Console(file=text or io.StringIO(), width=300))
    with open_run(parsed, base=where, runs=where, events=events) as work:
        return obtain_teacher(work, 0, parsed.teacher[0])


def test_who_edits_a_run_does_not_edit_the_cache(tmp_path: Path, tiny_recipe: str) -> None:
    """Weights that were written over in the run's folder are shown anew by the next run, from the cache."""
    teacher(tmp_path, tiny_recipe)
    shown = tmp_path / "tiny" / "teacher" / WEIGHTS
    right = shown.read_bytes()
    with shown.open("r+b") as file:
        file.write(b"spoiled")
    said = io.StringIO()
    teacher(tmp_path, tiny_recipe, said)
    assert shown.read_bytes() == right
    assert "found in the cache" in said.getvalue()


@pytest.mark.parametrize("name", [WEIGHTS, METRICS])
@pytest.mark.parametrize("spoil", ["changed", "gone"])
def test_a_damaged_stage_is_trained_anew(name: str, spoil: str, tmp_path: Path, tiny_recipe: str) -> None:
    """One line says so, and the run ends with the weights that it had."""
    folder = teacher(tmp_path, tiny_recipe).folder
    assert folder is not None
    right = (folder / WEIGHTS).read_bytes()
    if spoil == "gone":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes((folder / name).read_bytes()[:-9] + b"something")
    said = io.StringIO()
    again = teacher(tmp_path, tiny_recipe, said).folder
    assert again == folder
    assert (folder / WEIGHTS).read_bytes() == right
    assert said.getvalue().count("is damaged (") == 1
