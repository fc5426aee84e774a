"""A recipe for detection to start from is whole and says what to change for pictures of one's own."""

from pathlib import Path

import pytest

from compress.errors import CompressError
from compress.plan import starter
from compress.recipe import load


def test_the_starter_is_a_recipe_for_boxes(tmp_path: Path) -> None:
    """It loads, and names the scenes with boxes and two detectors."""
    assert starter.write(tmp_path / "boxes.yaml", task="detection") == ()
    recipe = load(tmp_path / "boxes.yaml")
    assert (recipe.name, recipe.data.source, recipe.student.model) == ("boxes", "digit_scenes", "detector.tiny")
    assert recipe.data.options(tmp_path)["task"] == "detection"


def test_a_folder_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """Nothing is written, and the message names the sources that read boxes."""
    with pytest.raises(CompressError, match="source coco or yolo"):
        starter.write(tmp_path / "boxes.yaml", data=tmp_path, task="detection")
    assert not (tmp_path / "boxes.yaml").exists()
