"""A whole run on boxes: what is trained, proved, handed over and shown is a detector."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
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
name: boxes
data: {source: digit_scenes, task: detection, size: 32, image_size: 32, train_scenes: 160, test_scenes: 24, digits: 1}
teacher: {model: detector.tiny, first_stride: 4, train: {epochs: 24, batch_size: 16, optimizer: adamw, lr: 0.01}}
student: {model: detector.tiny, first_stride: 4}
method: {name: dist}
train: {epochs: 12, batch_size: 16, optimizer: adamw, lr: 0.01}
exports: [{format: onnx, precision: int8}]
gate: {max_drop_points: 20, min_agreement: 0.3}
measure: {devices: [local], against: student, rounds: 5, launches: 1, seconds: 0.1}
"""


def carry_out(folder: Path, *changes: str) -> Report:
    (folder / "recipe.yaml").write_text(RECIPE)
    return run(load(folder / "recipe.yaml", changes), base=folder, runs=folder, events=Events())


@pytest.mark.slow
def test_a_run_on_boxes_ends_in_a_bundle_that_is_verified_and_draws_boxes(tmp_path: Path) -> None:
    """Report, gate, bundle, both programs that predict, and the self-test agree on what a detection is."""
    report = carry_out(tmp_path)
    row = next(each for each in report.variants if each.format == "onnx" and each.precision == "int8")
    assert (report.task, report.gates[row.name].status, report.gates[row.name].metric) == ("detection", "passed", "map")
    assert row.accuracy is not None
    assert (row.accuracy.metric, len(row.accuracy.class_percent)) == ("map", 10)
    assert row.accuracy.percent_at_half is not None
    page = (tmp_path / "boxes" / "report.md").read_text(encoding="utf-8")
    assert "| AP (95 %) |" in page
    assert "## Each class" in page

    bundle = tmp_path / "boxes" / "bundle"
    graph = onnx.load(next(bundle.glob("*.onnx"))).graph
    assert [output.name for output in graph.output] == ["logits", "boxes"]
    assert [gate.status for gate in verify_bundle(bundle, events=Events()).values()] == ["passed"]
    assert records.read(bundle / "manifest.json", records.Manifest).shape == (64, 14)
    picture = tmp_path / "picture.png"
    with Image.open(bundle / "samples" / "00.png") as sample:
        sample.resize((96, 64)).save(picture)
    (found,) = classify_pictures(bundle, [picture], events=Events(), out=tmp_path / "drawn")
    boxes = np.array([each.box for each in found.classes]).reshape(-1, 4)
    assert ((boxes >= 0) & (boxes <= [96, 64, 96, 64])).all()
    with Image.open(found.overlay) as drawn:
        assert drawn.size == (96, 64)

    program = [sys.executable, bundle / "predict.py"]
    subprocess.run([*program, "--self-test"], check=True, capture_output=True, timeout=300)
    told = subprocess.run(
        [*program, picture, "--json", "--out", tmp_path / "own"], check=True, capture_output=True, text=True, timeout=300
    )
    (own,) = json.loads(told.stdout)["images"]
    assert [(each["name"], each["box"]) for each in own["classes"]] == [
        (each.name, pytest.approx(each.box, abs=0.02)) for each in found.classes
    ]
    assert Path(own["drawn"]).is_file()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("student={model: resnet_cifar.resnet8}", "the labels are boxes, so it must give the logits of each class and a box"),
        ("student={model: detector.tiny, first_stride: 8}", "answers for 64 cells and the student for 16"),
        ("exports=[{format: onnx, postprocess: inside}]", "postprocess: inside gives one class an image"),
        ("exports=[{format: executorch}]", "exports: executorch: writes files with one output, and a detector gives two"),
    ],
)
def test_what_does_not_fit_boxes_is_refused_before_training(change: str, reason: str, tmp_path: Path) -> None:
    """A classifier, other cells, class and score in the file, and a format of one output are told before training."""
    with pytest.raises(CompressError, match=reason):
        carry_out(tmp_path, change)
    assert not (tmp_path / "boxes" / "teacher").exists()
