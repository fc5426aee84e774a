"""Classifying pictures with a deployed file."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from compress.deployed import predict
from compress.deployed.predict import classify_pictures, find_pictures
from compress.errors import CompressError
from compress.events import Events
from compress.preprocess import SUFFIXES
from exporters.bundle.programs import predict as program
from tests.deployed.brightness import invoke, write_bundle

pytestmark = pytest.mark.slow


def test_predict_says_what_is_in_the_picture(bundle: Path, pictures: list[Path]) -> None:
    """Pictures of any size and mode are classified by the deployed file, with scores that are the softmax."""
    dark, bright = classify_pictures(bundle.parent, pictures[:2], top=3, events=Events())
    assert [dark.classes[0].name, bright.classes[0].name] == ["dark", "bright"]
    assert sum(score.score for score in dark.classes) == pytest.approx(1)
    assert dark.milliseconds is None or dark.milliseconds > 0


def test_a_temperature_changes_scores_and_no_class(pictures: list[Path], tmp_path: Path) -> None:
    """Scores are the softmax of logits over the temperature of the manifest; classes keep their order."""
    plain = classify_pictures(write_bundle(tmp_path / "plain" / "bundle"), pictures[:2], events=Events())
    soft = classify_pictures(write_bundle(tmp_path / "soft" / "bundle", temperature=3.0), pictures[:2], events=Events())
    for before, after in zip(plain, soft, strict=True):
        assert [each.name for each in before.classes] == [each.name for each in after.classes]
        roots = np.array([each.score for each in before.classes]) ** (1 / 3.0)
        assert [each.score for each in after.classes] == pytest.approx(roots / roots.sum(), rel=1e-5)


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


@pytest.fixture
def folder(tmp_path: Path, pictures: list[Path]) -> Path:
    """A folder of pictures at several depths, with what else lies in folders of pictures."""
    places = [
        "b/2.PNG",
        "a/1.png",
        "a/deep/3.png",
        "a/.hidden.png",
        "__MACOSX/a/1.png",
        ".git/x.png",
        "notes.txt",
        "a/movie.mp4",
    ]
    for place in places:
        target = tmp_path / "folder" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(pictures[0] if "1" in place else pictures[1], target)
    (tmp_path / "folder" / "a" / "loop").symlink_to(tmp_path / "folder")
    return tmp_path / "folder"


def test_a_folder_stands_for_all_pictures_in_it(folder: Path, pictures: list[Path]) -> None:
    """Pictures are found at any depth, in order, once; hidden and other files are left out, and others are counted."""
    found = find_pictures([pictures[1], folder], Events())
    assert [path.name for path in found] == ["bright.png", "1.png", "3.png", "2.PNG"]
    assert program.find_pictures([pictures[1], folder]) == found
    assert program.SUFFIXES == SUFFIXES
    (folder / "c.png").symlink_to(folder / "nowhere.png")  # whoever reads it says that it is not there
    assert [path.name for path in find_pictures([folder], Events())] == ["1.png", "3.png", "2.PNG", "c.png"]
    assert program.find_pictures([folder]) == find_pictures([folder], Events())
    (folder / "empty").mkdir()
    with pytest.raises(CompressError, match=r"empty: holds no pictures, in it or below; give a folder of PNG, JPEG"):
        find_pictures([folder / "empty"], Events())


def test_a_folder_is_classified_in_pieces(bundle: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many pictures there are, some are in memory at a time, and the answers are those of one call."""
    whole = classify_pictures(str(bundle), [str(folder)], events=Events())
    assert [each.classes[0].name for each in whole] == ["dark", "bright", "bright"]
    monkeypatch.setattr(predict, "LARGEST_BYTES", 4 * 3 * 8 * 8 * 2)
    pieces = classify_pictures(bundle, [folder], events=Events())
    assert [(each.image, each.classes) for each in pieces] == [(each.image, each.classes) for each in whole]


def test_predictions_as_lines(bundle: Path, folder: Path, pictures: list[Path]) -> None:
    """CSV and JSON lines hold a line for each picture, also for one that cannot be read, whatever its name is."""
    strange = folder / 'comma, "quote"\nline.png'
    shutil.copy(pictures[2], strange)
    lines = invoke("predict", bundle, folder, "--json-lines", "--top", "2")
    documents = [json.loads(line) for line in lines.stdout.splitlines()]
    assert [len(each["classes"]) for each in documents] == [2, 2, 2, 0]
    assert documents[3]["image"] == str(strange)
    table = invoke("predict", bundle, folder, "--csv", "--top", "2")
    rows = list(csv.DictReader(io.StringIO(table.stdout)))
    assert list(rows[0]) == ["image", "class_1", "score_1", "class_2", "score_2", "milliseconds", "error"]
    assert [row["class_1"] for row in rows] == ["dark", "bright", "bright", ""]
    assert rows[3]["image"] == str(strange)
    assert "cannot be decoded" in rows[3]["error"]
    assert lines.exit_code == table.exit_code == 2
    assert invoke("predict", bundle, folder, "--csv", "--json").exit_code == 2


def test_names_that_are_no_utf8(bundle: Path, pictures: list[Path]) -> None:
    """A picture whose name no encoding has is classified, and its name is escaped in every form."""
    strange = pictures[0].parent / os.fsdecode(b"caf\xe9.png")
    shutil.copy(pictures[0], strange)
    for options in (["--json"], ["--json-lines"], ["--csv"], []):
        done = invoke("predict", bundle, os.fsdecode(strange), *options)
        assert done.exit_code == 0, done.stderr
        assert "caf" in done.stdout
        assert done.stdout.encode("utf-8")
        if "json" in "".join(options):
            found = json.loads(done.stdout)
            assert (found[0] if isinstance(found, list) else found)["classes"][0]["name"] == "dark"


@pytest.mark.parametrize("verb", ["verify", "predict", "report", "compare"])
def test_a_file_in_place_of_a_folder(bundle: Path, tmp_path: Path, verb: str) -> None:
    """The message says what to give, and of a file in a bundle the very command."""
    further = ["x.png"] if verb == "predict" else []
    lone = tmp_path / "net.onnx"
    lone.write_bytes(b"")
    for path in (bundle / "student-fp32.onnx", lone):
        done = invoke(verb, path, *further)
        assert done.exit_code == 2
        assert f"{path} is a file" in done.stderr
        assert "manifest.json" not in invoke(verb, bundle / "manifest.json", *further).stderr.partition("is a file")[2]
        if verb in ("verify", "predict"):
            image = "IMAGE " if further else ""
            wanted = (
                f"compress {verb} {bundle} {image}--file student-fp32.onnx" if path != lone else f"compress bench {lone} times"
            )
            assert wanted in done.stderr
