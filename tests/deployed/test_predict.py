"""Classifying pictures with a deployed file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compress.deployed.predict import classify_pictures
from compress.events import Events
from tests.deployed.brightness import invoke

pytestmark = pytest.mark.slow


def test_predict_says_what_is_in_the_picture(bundle: Path, pictures: list[Path]) -> None:
    """Pictures of any size and mode are classified by the deployed file, with scores that are the softmax."""
    dark, bright = classify_pictures(bundle.parent, pictures[:2], top=3, events=Events())
    assert [dark.classes[0].name, bright.classes[0].name] == ["dark", "bright"]
    assert sum(score.score for score in dark.classes) == pytest.approx(1)
    assert dark.milliseconds is None or dark.milliseconds > 0


def test_predict_agrees_between_formats(bundle: Path, pictures: list[Path]) -> None:
    """Every file of a bundle says the same of a picture."""
    scores = [classify_pictures(bundle, pictures[:1], file=name, events=Events())[0].classes[0].score for name in
              ("student-fp32.onnx", "student-fp32.xml")]  # fmt: skip
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_predict_goes_on_after_an_unreadable_picture(bundle: Path, pictures: list[Path]) -> None:
    """An unreadable picture is named, does not stop the others, and ends in exit code 2."""
    done = invoke("predict", bundle, pictures[2], *pictures[:2], pictures[0].parent / "missing.png", "--json")
    document = json.loads(done.stdout)
    assert done.exit_code == 2
    assert [bool(prediction["error"]) for prediction in document] == [True, False, False, True]
    assert "broken.png: cannot be decoded" in done.stderr
    assert "missing.png: cannot be read" in done.stderr


def test_predict_of_a_picture_that_is_not_there(bundle: Path, pictures: list[Path]) -> None:
    """A missing file is not a bad one: where nothing else is wrong, the exit code is that of what cannot be reached."""
    done = invoke("predict", bundle, pictures[0].parent / "missing.png", "--json")
    assert done.exit_code == 5
    assert "missing.png: cannot be read" in json.loads(done.stdout)[0]["error"]


def test_predict_prints_the_best_classes(bundle: Path, pictures: list[Path]) -> None:
    """People see as many classes as they asked for, best first, and file names as they are."""
    done = invoke("predict", bundle, pictures[0], "--top", "2")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.index("dark") < done.stdout.index("middle")
    assert "[dark].png" in done.stdout
    assert "bright" not in done.stdout
