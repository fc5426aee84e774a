"""int8 files of a real run: searched for, proved like any other file, found again, and reported."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from compress import recipe
from compress.errors import CompressError
from compress.events import Events
from compress.quantization.calibration import Calibration
from compress.records import Gate, Manifest, Preprocess, Report, StageResult, read
from compress.run import cache, pipeline, reexport
from compress.run.context import Run, Trained
from compress.run.export import LOGITS, OUTCOME, Outcome
from compress.run.int8 import RunBackend
from compress.run.verify import judge
from compress.tasks import CLASSIFICATION
from exporters import Quantization

pytestmark = pytest.mark.usefixtures("time_once")

RunTiny = Callable[..., tuple[Report, str]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of runs for the whole module, so that its stages are found again."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run(runs: Path, tiny_recipe: str) -> RunTiny:
    """Run the tiny recipe for int8, with a budget that rounding meets, and return the report and what was said."""

    def go(*overrides: str) -> tuple[Report, str]:
        fixed = (
            "baselines=[]", "int8.calibration_images=60", "int8.epochs=1", "gate.min_agreement=0.7",
            "gate.max_top1_drop_points=10", "measure.seconds=0.1", "train.epochs=6",
        )  # fmt: skip
        parsed = recipe.parse(tiny_recipe.encode(), "tiny.yaml", (*fixed, *overrides))
        text = io.StringIO()
        report = pipeline.run(parsed, base=runs, runs=runs, events=Events(console=Console(file=text, width=300)))
        return report, text.getvalue()

    return go


BOTH = "exports=[{format: onnx, precision: int8}, {format: openvino, precision: int8}]"
ONE = "exports=[{format: onnx, precision: int8}]"


@pytest.fixture(scope="module")
def done(run: RunTiny) -> tuple[Report, str]:
    """A run with both formats."""
    return run(BOTH)


@pytest.mark.slow
def test_int8_is_reached_on_both_runtimes_and_the_ladder_is_reported(done: tuple[Report, str], runs: Path) -> None:
    """Each file has its own search, was judged on validation and reported on test images, and stands in bundle and pages."""
    report, said = done
    for form in ("onnx", "openvino"):
        row = next(each for each in report.variants if each.name == f"student-{form}-int8")
        assert row.ladder is not None
        assert row.ladder.calibration_images == 60
        assert row.ladder.chosen is not None
        chosen = row.ladder.rungs[row.ladder.chosen]
        assert chosen.validation is not None
        assert row.accuracy is not None
        assert chosen.validation == row.validation
        assert (chosen.validation.samples, row.accuracy.samples) == (report.images["validation"], report.images["test"])
        assert chosen.speedup is not None
        assert chosen.speedup.against == f"student-{form}-fp32"
        assert chosen.size_bytes == row.size_bytes
        assert f"student-{form}-int8: int8 by rung" in said
    manifest = read(runs / "tiny" / "bundle" / "manifest.json", Manifest)
    assert {file.precision for file in manifest.files} == {"int8"}
    assert "How the int8 files were made" in (runs / "tiny" / "report.html").read_text()
    lines = [json.loads(line) for line in (runs / "tiny" / "events.jsonl").read_text().splitlines()]
    assert {line["file"] for line in lines if line["event"] == "rung"} >= {"student-onnx-int8", "student-openvino-int8"}


@pytest.mark.slow
def test_a_teacher_that_is_compared_gets_the_first_rung_and_no_timing_of_its_own(done: tuple[Report, str]) -> None:
    """Its int8 file is for comparison: no time is spent on making it better."""
    rows = [each for each in done[0].variants if each.network == "teacher" and each.precision == "int8"]
    assert len(rows) == 2
    for row in rows:
        assert row.ladder is not None
        assert [rung.rung for rung in row.ladder.rungs] == ["default"]
        assert row.ladder.rungs[0].speedup is None
        assert "comparison" in row.ladder.note


@pytest.mark.slow
def test_the_stage_keeps_only_files_that_are_compared(done: tuple[Report, str], runs: Path) -> None:
    """Besides the chosen file: the best of each rung and the same network in float32."""
    folders = [path for path in (runs / ".cache").iterdir() if (path / OUTCOME).is_file()]
    assert len(folders) >= 6  # other tests of this module may have made more
    for folder in folders:
        outcome = read(folder / OUTCOME, Outcome)
        kept = {path.relative_to(folder).as_posix() for path in folder.glob("tried/**/*.[ox][nm]*")}
        assert kept == {*outcome.tried.values(), *filter(None, [outcome.float32])}


@pytest.mark.slow
def test_a_second_run_searches_nothing(done: tuple[Report, str], run: RunTiny, runs: Path) -> None:
    """Files, their ladders and their timing are found again."""
    made = sorted((runs / ".cache").iterdir())
    second, _ = run(BOTH)
    assert second.variants == done[0].variants
    assert sorted((runs / ".cache").iterdir()) == made


@pytest.mark.slow
def test_a_distilled_file_is_held_to_the_student_and_shown_with_its_training(run: RunTiny, runs: Path) -> None:
    """The pinned last rung trains the student on, and says so; its reference is kept for whoever verifies it."""
    report, _ = run("name=adapted", ONE, "int8.rung=distillation")
    row = next(each for each in report.variants if each.name == "student-onnx-int8")
    assert row.ladder is not None
    assert [rung.rung for rung in row.ladder.rungs] == ["distillation"]
    assert row.method != next(each for each in report.variants if each.name == "student-torch-fp32").method
    own = {stage.stage for stage in report.stages}
    assert any("int8" in stage for stage in own), own
    outcomes = [path for path in (runs / ".cache").iterdir() if (path / LOGITS).is_file()]
    assert len(outcomes) == 1
    outcome = read(outcomes[0] / OUTCOME, Outcome)
    assert outcome.adapted
    assert all(isinstance(stage, StageResult) for stage in outcome.adapted)
    student = next(each for each in report.variants if each.name == "student-torch-fp32")
    assert student.validation is not None
    assert row.validation is not None
    drop = student.validation.top1_percent - row.validation.top1_percent
    assert report.gates[row.name].top1_drop_points == pytest.approx(drop, abs=0.6)  # a tied image may count otherwise


class Labelled:
    """As much of a run as the gate asks for."""

    def __init__(self, labels: NDArray[np.int64], gate: recipe.GateSection) -> None:
        self.validation_labels = labels
        self.recipe = self.data = self
        self.gate, self.task = gate, CLASSIFICATION


def logits(classes: NDArray[np.int64]) -> NDArray[np.float32]:
    return 4 * np.eye(5, dtype=np.float32)[classes]


def test_an_adapted_network_is_held_to_the_accuracy_of_the_one_before(seed: int) -> None:
    """Adaptation that costs five points fails, although the file gives just the logits of the adapted network."""
    labels = np.arange(200) % 5
    worse = labels.copy()
    worse[:10] = (worse[:10] + 1) % 5
    work: Run = Labelled(labels, recipe.GateSection(max_top1_drop_points=1.0))  # type: ignore[assignment]
    alone = judge(work, logits(worse), precision="int8", reference=logits(worse))
    assert alone.status == "passed"
    held = judge(work, logits(worse), precision="int8", reference=logits(worse), original=logits(labels))
    assert held.status == "failed"
    assert held.top1_drop_points == pytest.approx(5.0)
    assert held.agreement_percent == 100.0
    assert "5.00 points below the student before it was adapted to int8" in held.reason


def test_an_adapted_network_may_differ_from_the_one_before(seed: int) -> None:
    """Agreement is asked with the network that the file was made of; where the file is not that, it fails."""
    labels = np.arange(200) % 5
    before, after = labels.copy(), labels.copy()
    before[:40] = (before[:40] + 1) % 5
    after[-40:] = (after[-40:] + 1) % 5
    work: Run = Labelled(labels, recipe.GateSection(max_top1_drop_points=1.0))  # type: ignore[assignment]
    assert judge(work, logits(after), precision="int8", reference=logits(after), original=logits(before)).status == "passed"
    other = judge(work, logits(after), precision="int8", reference=logits(before), original=logits(before))
    assert other.status == "failed"
    assert "agreement" in other.reason


@pytest.mark.slow
def test_an_interrupted_search_leaves_nothing_of_it_to_the_next(run: RunTiny, runs: Path) -> None:
    """Other calibration images make another file; what a killed process left of it is not mistaken for this search's."""
    left = cache.Cache(runs).folder
    run("name=fresh", ONE, "int8.rung=default", "int8.calibration_images=30")
    newest = max((path for path in left.iterdir() if (path / OUTCOME).is_file()), key=lambda path: path.stat().st_mtime)
    partial = newest.with_name(newest.name + ".partial")
    newest.rename(partial)
    (partial / OUTCOME).unlink()
    (partial / "tried" / "7").mkdir()
    (partial / "tried" / "7" / "stale.onnx").write_bytes(b"stale")
    run("name=fresh", ONE, "int8.rung=default", "int8.calibration_images=30")
    assert not list(newest.glob("tried/7"))


def further(runs: Path, name: str, out: Path) -> tuple[Gate, str]:
    """Export the student of a finished run in int8 for onnxruntime, and return its gate and what was said."""
    text = io.StringIO()
    sections = recipe.load(runs / name / "recipe.yaml", [ONE]).exports
    (gate,) = reexport.export(runs / name, sections, out=out, events=Events(console=Console(file=text, width=300))).values()
    return gate, text.getvalue()


@pytest.mark.slow
def test_a_further_export_comes_to_the_last_rung_as_the_run_would(run: RunTiny, runs: Path, tmp_path: Path) -> None:
    """The run's own teachers and cohort adapt the student; a run that asks for the same file finds them trained."""
    asked = ("name=later", "method={name: dih, logit_loss: dist, heads_epochs: 1}", "int8.rung=distillation", "train.epochs=2")
    run(*asked, "exports=[]")
    gate, said = further(runs, "later", tmp_path)
    assert gate.status == "passed", gate.reason
    assert "heads" in said
    assert [line for line in said.splitlines() if line.startswith(("teacher:", "student:"))] == []  # neither is trained again
    report, said = run(*asked, ONE)
    row = next(each for each in report.variants if each.name == "student-onnx-int8")
    assert row.ladder is not None
    assert [rung.rung for rung in row.ladder.rungs] == ["distillation"]
    adapted = [line for line in said.splitlines() if line.startswith("student-int8") and " on validation" in line]
    assert all("found in the cache" in line for line in adapted)


@pytest.mark.slow
def test_a_further_export_says_why_the_last_rung_was_left_out(run: RunTiny, runs: Path, tmp_path: Path) -> None:
    """Where the teacher's file is gone the other rungs are tried, and output and verdict name what is missing."""
    run("name=source", "exports=[]")
    weights = tmp_path / "teacher.safetensors"
    weights.write_bytes((runs / "source" / "teacher" / "weights.safetensors").read_bytes())
    asked = (
        f"teacher={{model: resnet_cifar.resnet8, weights: {weights}}}",
        "gate.max_abs_diff=1e-4",
        "int8.max_float_layers=0",
    )
    run("name=moved", *asked, "exports=[]")
    weights.unlink()
    gate, said = further(runs, "moved", tmp_path / "out")
    assert gate.status == "failed"
    assert "rung 'distillation' was left out: its teachers are needed again: " in gate.note
    assert str(weights) in gate.note
    assert f"distillation skipped: its teachers are needed again: {weights}" in said
    assert read(tmp_path / "out" / "rejected" / "student-int8.onnx.gate.json", Gate) == gate


@pytest.mark.slow
def test_a_further_export_does_not_train_a_lost_cohort_again(run: RunTiny, runs: Path, tmp_path: Path) -> None:
    """Heads that were cleaned out of the cache are named; hours of training are not begun by an export."""
    cohort = "method={name: dih, logit_loss: dist, heads_epochs: 2}"
    run("name=cleaned", cohort, "exports=[]", "train.epochs=2", "int8.rung=distillation")
    cache.Cache(runs).drop(read(runs / "cleaned" / "heads" / "metrics.json", StageResult).key)
    with pytest.raises(CompressError, match=r"no int8 file could be made: stage 'heads' of its method .* no longer in"):
        reexport.export(
            runs / "cleaned",
            recipe.load(runs / "cleaned" / "recipe.yaml", [ONE]).exports,
            out=tmp_path,
            events=Events(),
        )


@pytest.mark.parametrize("slow", [False, True])
def test_a_real_network_is_simulated_where_its_format_can(slow: bool) -> None:
    """Torch sees the chosen validation images normalised, and a format that writes quickly is not asked."""

    class Quick:
        layers = ("conv",)
        always_float = ()

        def write(self, path: Path, quantization: Quantization) -> None:
            raise AssertionError(f"{path}: nothing is written to simulate {quantization}")

    class Slow(Quick):
        def simulate(self, quantization: Quantization, images: NDArray[np.float32]) -> NDArray[np.float32]:
            assert quantization.keep == ("conv",)
            means: NDArray[np.float32] = images.mean(axis=(2, 3))
            return means

    preprocess = Preprocess(height=2, width=2, channels="rgb", mean=(0.5,) * 3, std=(0.25,) * 3)
    images = np.repeat(np.array([0, 255, 51], np.uint8), 12).reshape(3, 2, 2, 3)
    validation = SimpleNamespace(images=images)
    data = SimpleNamespace(sample_image=lambda: None, validation=validation, preprocess=preprocess, classes=("0", "1", "2"))
    exporter: Any = SimpleNamespace(prepare_int8=lambda *_, **__: Slow() if slow else Quick())
    run: Any = SimpleNamespace(data=data)
    trained = Trained("net", "supervised", nn.Identity(), (), "0", None)
    calibration = Calibration(np.zeros((2, 3, 2, 2), np.float32), "0")
    backend = RunBackend(run, trained, exporter, calibration, reference=np.zeros((3, 3), np.float32))
    found = backend.simulate(Quantization(keep=("conv",)), np.array([1, 2]))
    if not slow:
        assert found is None
        return
    assert found is not None
    np.testing.assert_allclose(found, np.repeat([[2.0], [-1.2]], 3, axis=1), atol=1e-6)
