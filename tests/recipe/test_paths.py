"""Paths of recipes and commands: `~` and variables stand for folders, and a name that is there is taken as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from compress.cli.commands import program
from compress.plan.checks import find_recipe_problems
from compress.recipe import Recipe, dump, parse
from compress.system.files import resolve_path

TEXT = """
name: x
data: {source: folder, path: "PLACE", image_size: 8}
teacher: {model: resnet_cifar.resnet8, weights: "WEIGHTS"}
student: {model: resnet_cifar.resnet8}
method: kd
"""


def make(place: str, weights: str) -> Recipe:
    return parse(TEXT.replace("PLACE", place).replace("WEIGHTS", weights).encode(), "x.yaml")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with pictures and a file of weights."""
    home = tmp_path / "home"
    (home / "pictures").mkdir(parents=True)
    (home / "teacher.pt").touch()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PICTURES", "pictures")
    return home


@pytest.mark.parametrize("start", ["~", "$HOME", "${HOME}"])
def test_home_is_expanded(home: Path, tmp_path: Path, start: str) -> None:
    """In the data's path and in files of weights, also where they are written down for later."""
    recipe = make(f"{start}/pictures", f"{start}/teacher.pt")
    assert recipe.data.options(tmp_path)["path"] == str(home / "pictures")
    assert list(find_recipe_problems(recipe, tmp_path)) == []
    written = dump(recipe, tmp_path)
    assert str(home / "pictures") in written
    assert str(home / "teacher.pt") in written


def test_a_folder_that_is_not_there_is_named_in_full(home: Path, tmp_path: Path) -> None:
    """So that somebody sees where it was looked for; a variable that is not set stays as it is written."""
    assert make("~/other", "x.pt").data.options(tmp_path)["path"] == str(home / "other")
    assert resolve_path(tmp_path, "$NOT_SET_HERE/x") == tmp_path / "$NOT_SET_HERE/x"
    (problem,) = find_recipe_problems(make("~/pictures", "~/none.pt"), tmp_path)
    assert str(home / "none.pt") in str(problem)


@pytest.mark.parametrize("name", ["~", "$HOME", "$PICTURES"])
def test_what_has_that_very_name_is_taken(home: Path, tmp_path: Path, name: str) -> None:
    """A folder may be called so."""
    (tmp_path / name / "train").mkdir(parents=True)
    assert make(f"{name}/train", "x.pt").data.options(tmp_path)["path"] == str(tmp_path / name / "train")


def test_a_name_of_the_hub_stays(home: Path, tmp_path: Path) -> None:
    """It is no path."""
    assert make("owner/name", "x.pt").data.options(tmp_path)["path"] == "owner/name"


def test_a_name_that_is_too_long_is_not_there(tmp_path: Path) -> None:
    """And no error of the system."""
    assert resolve_path(tmp_path, "y" * 5000) == tmp_path / ("y" * 5000)
    assert make("y" * 5000, "x.pt").data.options(tmp_path)["path"] == "y" * 5000


def test_commands_expand_what_the_shell_leaves(home: Path) -> None:
    """As in `--data=~/pictures`."""
    done = CliRunner().invoke(program, ["init", "~/recipe.yaml", "--data=~/none"])
    assert f"{home / 'none'}: there is no such folder" in done.output
