"""A whole run on masks: what is trained, proved, handed over and shown is a segmenter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from compress import records
from compress.deployed.predict import classify_pictures
from compress.deployed.verify import verify_bundle
from compress.errors import CompressError
from compress.events import Events
from compress.recipe import load
from compress.records import Report
from compress.run.pipeline import run

pytestmark = pytest.mark.usefixtures("time_once")

RECIPE = """
name: scenes
data: {source: digit_scenes, size: 32, image_size: 32, train_scenes: 160, test_scenes: 24, digits: 1, distractors: 0}
teacher: {model: segmenter.tiny, train: {epochs: 24, batch_size: 16, optimizer: adamw, lr: 0.02}}
student: {model: segmenter.tiny}
method: {name: dist}
train: {epochs: 2, batch_size: 16, optimizer: adamw, lr: 0.02}
exports: [{format: onnx, precision: fp32}, {format: onnx, precision: fp32, postprocess: inside}]
gate: {max_drop_points: 1.0}
measure: {devices: [local], against: student, rounds: 5, launches: 1, seconds: 0.1}
"""


def carry_out(folder: Path, *changes: str) -> Report:
    (folder / "recipe.yaml").write_text(RECIPE)
    return run(load(folder / "recipe.yaml", changes), base=folder, runs=folder, events=Events())


def read(path: str | Path) -> NDArray[np.uint8]:
    """Return the values of a picture, of a map the classes."""
    with Image.open(path) as picture:
        return np.array(picture)


@pytest.mark.slow
def test_a_run_on_masks_ends_in_a_bundle_that_is_verified_and_draws_maps(tmp_path: Path) -> None:
    """Report, gate, bundle, both programs that predict, and the self-test agree on what a segmentation is."""
    report = carry_out(tmp_path)
    row, giving_maps = [each for each in report.variants if each.format == "onnx"]
    assert report.gates[giving_maps.name].status == "passed"
    assert (report.task, report.gates[row.name].status, report.gates[row.name].metric) == ("segmentation", "passed", "miou")
    assert row.accuracy is not None
    assert (row.accuracy.metric, len(row.accuracy.class_percent)) == ("miou", 11)
    page = (tmp_path / "scenes" / "report.md").read_text(encoding="utf-8")
    assert "| mIoU (95 %) |" in page
    assert "## Each class" in page
    drawn = (tmp_path / "scenes" / "report.html").read_text(encoding="utf-8")
    assert 'aria-label="mIoU against latency;' in drawn
    assert "top-1" not in (drawn + page).lower()
    assert drawn.count('src="data:image/png;base64,') == 3 * len(report.worst) == 18
    assert "img-src data:" in drawn  # or else browsers would not show them
    percents = [each.percent for each in report.worst]
    assert percents == sorted(percents)
    assert f"{report.worst[0].image} ({percents[0]:.1f} %)" in page
    assert len({each.truth for each in report.worst}) == 6

    bundle = tmp_path / "scenes" / "bundle"
    assert [gate.status for gate in verify_bundle(bundle, events=Events()).values()] == ["passed", "passed"]
    manifest = records.read(bundle / "manifest.json", records.Manifest)
    assert manifest.shape[0] == 11
    picture, maps = tmp_path / "picture.png", tmp_path / "maps"
    Image.fromarray(read(bundle / "samples" / "00.png")).resize((50, 40)).save(picture)
    (found,) = classify_pictures(bundle, [picture], events=Events(), out=maps, top=11)
    drawn = read(found.map)
    assert drawn.shape == (40, 50)
    assert sum(each.score for each in found.classes) == pytest.approx(1)
    assert found.classes[0].score == pytest.approx((drawn == np.bincount(drawn.ravel()).argmax()).mean())
    assert read(found.overlay).shape == (40, 50, 3)

    program = [sys.executable, bundle / "predict.py"]
    subprocess.run([*program, "--self-test"], check=True, capture_output=True, timeout=300)
    told = subprocess.run(
        [*program, picture, "--json", "--out", tmp_path / "own"], check=True, capture_output=True, text=True, timeout=300
    )
    (own,) = json.loads(told.stdout)["images"]
    theirs = read(own["map"])
    assert (theirs == drawn).mean() > 0.99  # Pillow's resize rounds otherwise at the border of two classes


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("student.model=resnet_cifar.resnet8", "the labels are masks, so it must give a map of logits"),
        ("gate.metric=balanced_accuracy", "gate.metric: balanced_accuracy is of classification"),
    ],
)
def test_what_does_not_fit_masks_is_refused_before_training(change: str, reason: str, tmp_path: Path) -> None:
    """A classifier, class and score in the file, and a metric of classification are told before anything is trained."""
    with pytest.raises(CompressError, match=reason):
        carry_out(tmp_path, change)
    assert not (tmp_path / "scenes" / "teacher").exists()
