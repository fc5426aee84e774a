"""What users do with a bundle: gate it again, measure it, let it classify their pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from rich.console import Console
from torch import nn

import exporters
from compress import deployed, plugins
from compress.cli import tables
from compress.cli.commands import program
from compress.errors import CompressError, GateFailed, Unreachable
from compress.events import Events
from compress.preprocess import normalise
from compress.recipe import GateSection
from compress.records import Gate, Preprocess, Ratio
from exporters.bundle import bundle as _bundle

CLASSES = ("dark", "middle", "bright")
PREPROCESS = Preprocess(height=8, width=8, channels="rgb", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
FORMATS = ("onnx", "openvino")


class Brightness(nn.Module):
    """Tells dark, middle and bright pictures apart by their mean, which is 0 for middle gray."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(3, 3)
        with torch.no_grad():
            self.classifier.weight.copy_(torch.tensor([[-2.0], [0.0], [2.0]]).expand(3, 3))
            self.classifier.bias.copy_(torch.tensor([0.0, 3.0, 0.0]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(images.mean((2, 3)))
        return logits


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(program, [str(argument) for argument in arguments], prog_name="compress")


def write_bundle(folder: Path, *, shift: float = 0.0) -> Path:
    """Write a bundle whose stored logits are those of the network, shifted for the first class."""
    network = Brightness().eval()
    images = np.stack([np.full((8, 8, 3), value, np.uint8) for value in range(0, 250, 10)])
    with torch.no_grad():
        logits = network(torch.from_numpy(normalise(images, PREPROCESS))).numpy()
    files = []
    for name in FORMATS:
        exporter = plugins.load("exporters", name)()
        path = exporter.path(folder.parent, "student")
        exporters.export(network, torch.zeros(1, 3, 8, 8), path, format=name)
        passed = Gate(status="passed", reason="", samples=25, agreement_percent=100, max_abs_diff=0, top1_drop_points=0)
        files.append(_bundle.Deployable(path, name, exporter, passed))
    stored = logits + np.array([shift, 0, 0], np.float32)
    samples = _bundle.Samples(images, logits.argmax(1).astype(np.int64), stored)
    _bundle.write(
        folder,
        name="brightness",
        classes=CLASSES,
        preprocess=PREPROCESS,
        files=files,
        samples=samples,
        gate=GateSection(),
        provenance={},
    )
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with its bundle: both formats of one real network."""
    return write_bundle(tmp_path_factory.mktemp("run") / "bundle")


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """A dark and a bright picture of another size than the network's, and a text that claims to be one."""
    paths = [tmp_path / "[dark].png", tmp_path / "bright.png", tmp_path / "broken.png"]
    Image.new("L", (30, 20), 10).save(paths[0])
    Image.new("RGB", (5, 9), (250, 240, 250)).save(paths[1])
    paths[2].write_text("no picture")
    return paths


def test_verify_passes_what_was_exported(bundle: Path) -> None:
    """Every file of a good bundle agrees on its own runtime with the stored logits; the run's folder will do."""
    gates = deployed.verify(bundle.parent, events=Events())
    assert [gate.status for gate in gates.values()] == ["passed", "passed"]
    assert all(gate.agreement_percent == 100 for gate in gates.values())


def test_verify_refuses_a_file_that_answers_otherwise(tmp_path: Path) -> None:
    """A bundle whose files do not answer as its samples say fails with exit code 3, figures first."""
    folder = write_bundle(tmp_path / "bundle", shift=9.0)
    done = invoke("verify", folder, "--json")
    gates = json.loads(done.stdout)
    assert done.exit_code == GateFailed.exit_code
    assert {gate["status"] for gate in gates.values()} == {"failed"}
    assert "student-fp32.onnx" in done.stderr
    assert "agreement" in done.stderr


def test_verify_judges_what_it_can_and_says_what_it_could_not(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runtime that is not installed hides no verdict on the files of another, and no file passes unseen."""
    (tmp_path / "openvino.py").write_text("raise ModuleNotFoundError(\"No module named 'openvino'\", name='openvino')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # of the process that runs the files
    done = invoke("verify", bundle, "--json")
    gates = json.loads(done.stdout)
    assert {name: gate["status"] for name, gate in gates.items()} == {
        "student-fp32.onnx": "passed", "student-fp32.xml": "skipped"
    }  # fmt: skip
    assert done.exit_code == Unreachable.exit_code
    assert "1 of 2 files were not judged" in done.stderr
    assert "\nstudent-fp32.xml needs the package 'openvino', which is not installed: pip install" in done.stderr


def test_verify_one_file(bundle: Path) -> None:
    """--file picks one file, and an unknown one is answered with a suggestion."""
    assert list(deployed.verify(bundle, file="student-fp32.onnx", events=Events())) == ["student-fp32.onnx"]
    with pytest.raises(CompressError, match=r"did you mean 'student-fp32.onnx'"):
        deployed.verify(bundle, file="student.onnx", events=Events())


@pytest.mark.parametrize("verb", [["verify"], ["bench"], ["predict"]])
def test_a_damaged_bundle_is_not_run(bundle: Path, tmp_path: Path, verb: list[str]) -> None:
    """A changed byte in a model file is found before any runtime opens it."""
    copy = shutil.copytree(bundle, tmp_path / "copy")
    model = copy / "student-fp32.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    done = invoke(*verb, copy, *(["x.png"] if verb == ["predict"] else []))
    assert (done.exit_code, done.stdout) == (2, "")
    assert "student-fp32.onnx: has sha256" in done.stderr


def test_bench_compares_files_in_one_job(bundle: Path) -> None:
    """The files of a run are measured together; all but the yardstick have a speed-up with its interval."""
    timings = deployed.bench([bundle.parent], against="student-fp32.xml", rounds=5, seconds=0.3, batch_size=4, events=Events())
    ratio = timings["student-fp32.onnx"].ratio
    assert timings["student-fp32.xml"].ratio is None
    assert ratio is not None
    assert ratio.ci95[0] <= ratio.speedup <= ratio.ci95[1]
    assert all(timing.latency_ms.p50 > 0 and timing.latency_ms.batch_size == 4 for timing in timings.values())


def test_bench_prints_a_table_or_one_document(bundle: Path) -> None:
    """People get a row for each file, machines one document with every field of the record."""
    arguments = ["bench", bundle / "student-fp32.onnx", "--seconds", "0.2", "--rounds", "5"]
    shown, document = invoke(*arguments), invoke(*arguments, "--json")
    assert "student-fp32.onnx" in shown.stdout
    assert json.loads(document.stdout)["student-fp32.onnx"]["latency_ms"]["rounds"]


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_no_number_of_bench_is_broken_over_two_lines(bundle: Path, width: int) -> None:
    """However long the names are, every figure, runtime and verdict of a measurement stands whole in a line."""
    (timing,) = deployed.bench([bundle / "student-fp32.onnx"], rounds=5, seconds=0.2, events=Events()).values()
    latency = timing.latency_ms.model_copy(update={"p50": 10.163, "ci95": (10.159, 10.167), "p90": 10.171, "p99": 12.193})
    names = [f"/home/someone/projects/{'edge/' * 9}student-{number}.onnx" for number in range(2)]
    ratio = Ratio(against=names[0], speedup=1.25, ci95=(1.2, 1.3), verdict="faster")
    measured = {
        name: timing.model_copy(update={"latency_ms": latency, "ratio": each, "throughput_per_s": 12345.0})
        for name, each in zip(names, (None, ratio), strict=True)
    }
    console = Console(width=width)
    with console.capture() as shown:
        console.print(tables.timings(measured))
    for whole in ("10.163", "10.159–10.167", "10.171", "12.193", "12345", "onnxruntime"):
        assert shown.get().count(whole) == 2, whole
    assert "1.25×" in shown.get()
    assert "faster" in shown.get()


def test_bench_says_once_why_percentiles_are_missing(bundle: Path) -> None:
    """A percentile from too few calls is a dash, and the table says below it from how many on it is told."""
    (timing,) = deployed.bench([bundle / "student-fp32.onnx"], rounds=5, seconds=0.2, events=Events()).values()
    few = timing.latency_ms.model_copy(
        update={"p90": 3.25, "p99": None, "percentiles_missing": "p99 needs at least 1000 calls"}
    )
    rows = {name: timing.model_copy(update={"latency_ms": few}) for name in ("one.onnx", "two.onnx")}
    console = Console(width=200)
    with console.capture() as shown:
        console.print(tables.timings(rows))
    assert shown.get().count("3.250") == 2
    assert shown.get().count("p99 needs at least 1000 calls") == 1


def test_bench_of_a_lone_file_needs_its_shape(bundle: Path, tmp_path: Path) -> None:
    """A file outside of a bundle is measured when its input is given, and refused with what to give when not."""
    lone = Path(shutil.copy(bundle / "student-fp32.onnx", tmp_path))
    with pytest.raises(CompressError, match="give --shape channels,height,width"):
        deployed.bench([lone], events=Events())
    with pytest.raises(CompressError, match="--shape 3,8: is not channels,height,width"):
        deployed.bench([lone], shape="3,8", events=Events())
    for shape, said in {
        "1,160000,160000": "16 such images take 1526 GiB, more than the 4 GiB that are allowed",
        f"1,{'9' * 5000},8": "is not channels,height,width",
    }.items():
        with pytest.raises(CompressError, match=f"--shape {shape}: {said}"):
            deployed.bench([lone], shape=shape, events=Events())
    assert deployed.bench([lone], shape="3,8,8", rounds=5, seconds=0.2, events=Events())


def test_bench_against_an_unknown_file(bundle: Path) -> None:
    """The yardstick must be among what is measured."""
    with pytest.raises(CompressError, match=r"--against student-fp32: is not measured; did you mean 'student-fp32.xml'"):
        deployed.bench([bundle], against="student-fp32", events=Events())


def test_same_names_are_told_apart(bundle: Path, tmp_path: Path) -> None:
    """Files of one name from two runs are called by their paths."""
    other = shutil.copytree(bundle, tmp_path / "other")
    timings = deployed.bench([bundle, other], rounds=5, seconds=0.4, events=Events())
    assert str(other / "student-fp32.onnx") in timings
    assert len(timings) == 4


def test_predict_says_what_is_in_the_picture(bundle: Path, pictures: list[Path]) -> None:
    """Pictures of any size and mode are classified by the deployed file, with scores that are the softmax."""
    dark, bright = deployed.predict(bundle.parent, pictures[:2], top=3, events=Events())
    assert [dark.classes[0].name, bright.classes[0].name] == ["dark", "bright"]
    assert sum(score.score for score in dark.classes) == pytest.approx(1)
    assert dark.milliseconds is None or dark.milliseconds > 0


def test_predict_agrees_between_formats(bundle: Path, pictures: list[Path]) -> None:
    """Every file of a bundle says the same of a picture."""
    scores = [deployed.predict(bundle, pictures[:1], file=name, events=Events())[0].classes[0].score for name in
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


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ({"max_top1_drop_points": 50.0}, "the gate of this bundle allows a drop of 50 points (default 1)"),
        ({"min_agreement": 0.5}, "the gate of this bundle allows an agreement of 50 % (default 98 %)"),
        ({"max_abs_diff": 1e3}, "the gate of this bundle allows logits that differ by 1000 (default 0.000"),
        ({"max_top1_drop_points": 0.5, "min_agreement": 0.99, "max_abs_diff": 1e-5}, ""),
        ({}, ""),
    ],
)
def test_a_gate_looser_than_the_defaults_is_said(bundle: Path, tmp_path: Path, gate: dict[str, float], said: str) -> None:
    """Who loosens the manifest's gate and makes every checksum right again does not go unnoticed, by people or programs."""
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["gate"] |= gate
    (folder / "manifest.json").write_text(json.dumps(manifest))
    _bundle.seal(folder)
    done = invoke("verify", folder, "--file", "student-fp32.onnx", "--json")
    assert done.exit_code == 0, done.stderr
    note = json.loads(done.stdout)["student-fp32.onnx"]["note"]
    assert said in note
    assert bool(said) == ("allows" in note)
    shown = invoke("verify", folder, "--file", "student-fp32.onnx").stdout
    assert f"student-fp32.onnx: {note}" in shown if note else "fp32.onnx: " not in shown
