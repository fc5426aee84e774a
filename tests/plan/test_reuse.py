"""What is found again depends on what decides it, and on nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.plan.reuse import find_changed_sections, read_last_recipe
from compress.recipe import dump, load


@pytest.fixture
def folder(tmp_path: Path, tiny_recipe: str) -> Path:
    """The folder of a run of the tiny recipe."""
    (tmp_path / "tiny.yaml").write_text(tiny_recipe, encoding="utf-8")
    run = tmp_path / "runs" / "tiny"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text(dump(load(tmp_path / "tiny.yaml"), tmp_path), encoding="utf-8")
    return run


@pytest.mark.parametrize(
    ("override", "teacher", "student", "supervised", "export"),
    [
        ("name=other", (), (), (), ()),
        ("train.device=cpu", (), (), (), ()),
        ("train.lr=0.1", (), ("train",), ("train",), ("train",)),
        ("seed=2", ("seed",), ("seed",), ("seed",), ("seed",)),
        ("teacher.train.epochs=2", ("teacher",), ("teacher",), (), ("teacher",)),
        ("method.temperature=4", (), ("method",), (), ("method",)),
        ("gate.max_top1_drop_points=2", (), (), (), ("gate",)),
        ("measure.rounds=6", (), (), (), ()),
    ],
)
def test_a_stage_is_found_where_its_sections_are_the_same(
    folder: Path, override: str, teacher: tuple[str, ...], student: tuple[str, ...], supervised: tuple[str, ...],
    export: tuple[str, ...],
) -> None:  # fmt: skip
    """A changed field makes anew what depends on it, by the name of its section; all else is found."""
    base = folder.parents[1]
    recipe, last = load(base / "tiny.yaml", [override]), read_last_recipe(folder)
    assert last is not None
    found = [
        find_changed_sections(stage, recipe, last, base=base, folder=folder)
        for stage in ("teacher", "student", "supervised", "export")
    ]
    assert found == [teacher, student, supervised, export]


def test_a_recipe_that_cannot_be_read_promises_nothing(folder: Path) -> None:
    """Where the last recipe is missing or of another version, nothing counts as found."""
    (folder / "recipe.yaml").write_text("name: [", encoding="utf-8")
    assert read_last_recipe(folder) is None
    assert read_last_recipe(folder / "nowhere") is None
