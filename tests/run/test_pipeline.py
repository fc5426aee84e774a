"""The whole chain on real digits: what a run leaves behind, finds again, survives, and refuses."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import onnx
import pytest
import torch
from rich.console import Console
from torch import Tensor

import exporters
from benchmarks.runtimes.onnxruntime import Onnxruntime
from compress import recipe
from compress.deployed.locate import locate_divergence
from compress.deployed.verify import verify_bundle
from compress.errors import CompressError, GateFailed, Unreachable
from compress.events import Events
from compress.methods import Forward
from compress.models import Network, resnet_cifar
from compress.models.resnet_cifar import resnet8
from compress.recipe import ExportSection
from compress.records import Exported, Manifest, Report, StageResult, read
from compress.records.training import WEIGHTS
from compress.run import cache, pipeline, reexport
from compress.run.export import ExportedFile
from compress.system.files import hash_file
from compress.training import checkpoint
from exporters import About
from exporters.bundle.bundle import check_bundle, write_checksums
from tests.tiny import TRIED, Counted

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("time_once")]

Run = Callable[..., Report]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of runs for the whole module, so that its stages are found again."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def run(runs: Path, tiny_recipe: str) -> Run:
    """Run the tiny recipe with some fields replaced."""

    def go(*overrides: str, where: Path = runs, text: io.StringIO | None = None) -> Report:
        parsed = recipe.parse(tiny_recipe.encode(), "tiny.yaml", overrides)
        console = Console(file=text or io.StringIO(), width=200)
        return pipeline.run(parsed, base=where, runs=where, events=Events(console=console))

    return go


def test_a_run_leaves_a_report_a_bundle_and_every_stage(run: Run, runs: Path) -> None:
    """The folder holds what DESIGN promises, and every number of the report has its sample count."""
    report = run()
    folder = runs / "tiny"
    for name in ("recipe.yaml", "environment.json", "events.jsonl", "report.json", "report.md", "report.html"):
        assert (folder / name).is_file(), name
    for stage in ("teacher", "student", "supervised"):
        assert read(folder / stage / "metrics.json", StageResult).files.keys() == {"weights.safetensors"}
        assert (folder / stage / "weights.safetensors").is_file()
    assert report.status == "passed"
    assert report == read(folder / "report.json", Report)
    rows = {row.name: row for row in report.variants}
    assert set(rows) == {
        "teacher-torch-fp32", "teacher-onnx-fp32", "student-torch-fp32", "student-onnx-fp32", "supervised-torch",
    }  # fmt: skip
    for row in rows.values():
        assert row.accuracy is not None
        assert row.accuracy.samples == report.images["test"] == 450
        assert row.validation is not None
        assert row.validation.samples == report.images["validation"]
        assert (row.latency_ms is None) == (row.network == "supervised")
    assert rows["student-onnx-fp32"].ratio is not None
    assert rows["student-onnx-fp32"].ratio.against == "teacher-onnx-fp32"
    assert json.loads((folder / "events.jsonl").read_text().splitlines()[0])["event"] == "begin"
    assert not list(folder.glob("**/*.partial"))
    assert check_bundle(folder / "bundle").files[0].path == "student-fp32.onnx"


def test_against_the_student_no_teacher_is_exported(run: Run) -> None:
    """Each file is then compared with the student's own float32 file of its format."""
    report = run("exports=[openvino, {format: openvino, precision: fp16}]", "measure.against=student")
    rows = {row.name: row for row in report.variants}
    assert [name for name in rows if name.startswith("teacher")] == ["teacher-torch-fp32"]
    against = {name: row.ratio and row.ratio.against for name, row in rows.items() if row.latency_ms}
    assert against == {
        "teacher-torch-fp32": "student-torch-fp32",
        "student-torch-fp32": None,
        "student-openvino-fp32": None,
        "student-openvino-fp16": "student-openvino-fp32",
    }


def test_a_second_run_finds_every_stage_and_gives_the_same_numbers(run: Run, runs: Path) -> None:
    """Nothing is trained, exported or measured again."""
    first, text = run(), io.StringIO()
    made = sorted((runs / ".cache").iterdir())
    second = run(text=text)
    assert text.getvalue().count("found in the cache") == 3
    assert second.variants == first.variants
    assert sorted((runs / ".cache").iterdir()) == made


def test_a_changed_student_keeps_the_teacher_and_a_changed_gate_keeps_the_student(run: Run) -> None:
    """A stage is made again exactly when something that it reads has changed."""
    run()
    text = io.StringIO()
    run("train.lr=0.06", "exports=[]", text=text)
    assert "teacher: " in text.getvalue()
    lines = {line.split(":")[0]: line for line in text.getvalue().splitlines() if "on validation" in line}
    assert "found" not in lines["student"]
    text = io.StringIO()
    run("gate.min_agreement=0.9", "exports=[]", text=text)
    assert text.getvalue().count("found in the cache") == 3


def test_the_heads_are_a_stage_that_a_changed_student_finds_again(run: Run) -> None:
    """A cohort's heads depend on teacher and data alone."""
    cohort = ("name=cohort", "method={name: dih, logit_loss: dist, heads_epochs: 1}", "baselines=[]", "exports=[]")
    report = run(*cohort)
    assert [stage.stage for stage in report.stages] == ["teacher", "heads", "student"]
    assert set(report.stages[1].members) == {"head0", "head1", "head2"}
    text = io.StringIO()
    run(*cohort, "student.model=resnet_cifar.resnet14", text=text)
    lines = [line for line in text.getvalue().splitlines() if line.startswith("heads:")]
    assert len(lines) == 1
    assert "found in the cache" in lines[0]


def test_a_distilled_student_exports_the_operators_of_a_plain_one(run: Run, runs: Path, tmp_path: Path) -> None:
    """Nothing of the cohort, its heads or its losses is in the shipped graph."""
    run("name=cohort", "method={name: dih, logit_loss: dist, heads_epochs: 1}", "baselines=[]", "exports=[onnx]")
    plain = exporters.export(resnet8(10, 1), torch.zeros(1, 1, 8, 8), tmp_path / "plain.onnx", format="onnx")
    shipped = onnx.load(runs / "cohort" / "bundle" / "student-fp32.onnx")
    assert [node.op_type for node in shipped.graph.node] == [node.op_type for node in onnx.load(plain).graph.node]


def test_a_file_that_is_not_what_was_trained_fails_the_run_and_is_kept_apart(
    run: Run, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exporter that silently damages the network ends in exit code 3, a marked report and no bundle with that file."""
    from exporters.onnx import Onnx

    honest = Onnx.export

    def damaged(self: Onnx, module: torch.nn.Module, example: torch.Tensor, path: Path, *, about: About | None = None) -> None:
        network = resnet8(10, 1)
        network.load_state_dict(module.state_dict())
        with torch.no_grad():
            network.classifier.bias += torch.arange(10.0)
        honest(self, network, example, path, about=about)

    monkeypatch.setattr(Onnx, "export", damaged)
    with pytest.raises(GateFailed, match=r"rejected/student-fp32.onnx: .*agree"):
        run("name=damaged", "gate.min_agreement=0.99")  # another gate, so that the good file is not found in the cache
    folder = runs / "damaged"
    report = read(folder / "report.json", Report)
    assert report.status == "failed"
    assert report.gates["student-onnx-fp32"].status == "failed"
    assert (folder / "rejected" / "student-fp32.onnx").is_file()
    assert not (folder / "bundle").exists()
    assert "failed" in (folder / "report.html").read_text().lower()


def test_a_run_whose_files_fail_sets_the_bundle_of_the_run_before_aside(
    run: Run, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No bundle of an earlier student stays beside a report that says failed; what could not be run is tried again."""
    from exporters.onnx import Onnx

    run("name=again")
    assert (runs / "again" / "bundle").is_dir()
    with monkeypatch.context() as patched:
        patched.setattr(Onnx, "export", lambda _self, _module, _example, path, **_: path.write_bytes(b"not a model"))
        with pytest.raises(GateFailed):
            run("name=again", "gate.min_agreement=0.96")
    assert not (runs / "again" / "bundle").exists()
    assert (runs / "again" / "bundle-1" / "manifest.json").is_file()
    assert (runs / "again" / "report-1.html").is_file()
    assert run("name=again", "gate.min_agreement=0.96").status == "passed"
    assert (runs / "again" / "bundle").is_dir()


def test_no_further_run_takes_a_bundle_away(run: Run, runs: Path) -> None:
    """Run again, it stays as it is; without exports it stays, too; another one takes its place, and it is kept."""
    run("name=kept")
    folder, text = runs / "kept", io.StringIO()
    before = (folder / "bundle").stat().st_ino, read(folder / "bundle" / "manifest.json", Manifest)
    run("name=kept", text=text)
    bare = run("name=kept", "exports=[]")
    assert ((folder / "bundle").stat().st_ino, read(folder / "bundle" / "manifest.json", Manifest)) == before
    assert "earlier run" not in text.getvalue()
    assert any("bundle: is the bundle of an earlier run, left as it is" in note for note in bare.notes)
    assert (folder / "report-bundle.html").is_file()
    other = run("name=kept", "method.temperature=3", text=text)
    kept = read(folder / "bundle-1" / "manifest.json", Manifest)
    assert kept == before[1]
    assert read(folder / "bundle" / "manifest.json", Manifest).provenance["weights"] != kept.provenance["weights"]
    assert any(f"weights {kept.provenance['weights'][:8]}" in note for note in other.notes)
    assert "bundle: is this run's bundle" in text.getvalue()


def test_a_student_too_far_below_its_teacher_fails_the_gate(run: Run, runs: Path) -> None:
    """A budget against the teacher fails files that lose nothing against their own network, with both accuracies."""
    with pytest.raises(GateFailed, match=r"points below the [\d.]+ % of teacher on the validation split \(gate.max_drop"):
        run("name=held", "gate.max_drop_from_teacher_points=0.1")
    record = read(runs / "held" / "report.json", Report)
    assert record.status == "failed"
    assert record.headline is not None
    assert record.headline.decision == "do not ship"
    assert not (runs / "held" / "bundle").exists()
    assert run("name=held", "gate.max_drop_from_teacher_points=100").status == "passed"


def test_a_baseline_is_shipped_like_the_student(run: Run, runs: Path) -> None:
    """The plainly trained network gets the same gate, its latency beside the teacher's, and a bundle with its own card."""
    run("name=plain")
    folder = runs / "plain"
    (section,) = recipe.load(folder / "recipe.yaml").exports
    gates = reexport.export(folder, [section], out=None, events=Events(), student="supervised")
    assert {name: gate.status for name, gate in gates.items()} == {"supervised-onnx-fp32": "passed"}
    assert (folder / "exports" / "supervised-fp32.onnx").is_file()
    manifest = check_bundle(folder / "bundle-supervised")
    assert [file.path for file in manifest.files] == ["supervised-fp32.onnx"]
    assert manifest.provenance["method"] == "supervised"
    measured = manifest.files[0].measured
    assert measured is not None
    assert measured.ratio is not None
    assert "is itself trained plainly" in (folder / "bundle-supervised" / "MODEL_CARD.md").read_text().splitlines()[2]
    assert check_bundle(folder / "bundle").files[0].path == "student-fp32.onnx"
    with pytest.raises(CompressError, match="--student dist: the run did not train it; there are: student, supervised"):
        reexport.export(folder, [section], out=None, events=Events(), student="dist")


def test_a_file_that_the_runtime_cannot_open_fails_the_gate(run: Run, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime that refuses or dies is a failed gate with the runtime's own words, not a crash and not a pass."""
    from exporters.onnx import Onnx

    monkeypatch.setattr(Onnx, "export", lambda _self, _module, _example, path, **_: path.write_bytes(b"not a model"))
    with pytest.raises(GateFailed, match="onnxruntime cannot run it"):
        run("name=garbage", "gate.min_agreement=0.97", "baselines=[]")
    row = next(row for row in read(runs / "garbage" / "report.json", Report).variants if row.name == "student-onnx-fp32")
    assert (row.status, row.accuracy, row.latency_ms) == ("failed", None, None)


def test_a_format_that_cannot_hold_the_student_is_refused_before_anything_is_trained(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator that ONNX lacks is named in seconds, and not after hours; nothing is left behind."""

    class Bessel(resnet_cifar._ResNet):
        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            return logits + torch.special.bessel_j0(logits.detach())

    monkeypatch.setattr(resnet_cifar, "_ResNet", Bessel)
    with pytest.raises(CompressError, match=r"exports: format 'onnx' cannot hold the student: .*bessel_j0"):
        run("exports=[{format: onnx, precision: int8}]", where=tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))
    assert not list(tmp_path.rglob("*.onnx"))


def test_the_engine_of_the_recipe_runs_every_step(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that is said to run compiled has made its steps compiled."""
    built: list[Counted] = []

    def build(_engine: str, network: Network, *_: object) -> Forward:
        built.append(Counted(network.outputs))
        return built[-1]

    monkeypatch.setattr("compress.training.engines.compile_network", build)
    report = run("train.engine=compile", "teacher.train.epochs=1", "exports=[]", where=tmp_path)
    students = [stage for stage in report.stages if stage.stage != "teacher"]
    assert {stage.engine for stage in students} == {"compile"}
    steps = report.images["train"] // 256
    assert [counted.steps for counted in built] == [TRIED, *(TRIED + steps for _ in students)]  # the first is the rehearsal


def test_a_student_that_cannot_be_compiled_is_refused_before_anything_is_trained(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the recipe names an engine that compiles, the untrained student is compiled first."""

    def refuse(engine: str, *_: object) -> Forward:
        raise CompressError(f"train.engine: torch cannot {engine} the network")

    monkeypatch.setattr("compress.training.engines.compile_network", refuse)
    with pytest.raises(CompressError, match=r"train\.engine: torch cannot compile the network"):
        run("train.engine=compile", where=tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_runtime_that_is_not_installed_is_missed_before_anything_is_trained(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the format and the extra to install."""

    def missing() -> None:
        raise ModuleNotFoundError(name="ai_edge_litert")

    monkeypatch.setattr(Onnxruntime, "prepare", staticmethod(missing))
    with pytest.raises(Unreachable, match=r"format 'onnx' needs the package 'ai_edge_litert'.*'edge-compress\[litert\]'"):
        run(where=tmp_path)
    assert not list(tmp_path.glob("**/weights.safetensors"))


def test_a_user_teacher_comes_from_a_file_and_is_never_changed(run: Run, runs: Path, tmp_path: Path) -> None:
    """Weights from a file teach as they are; the file keeps its bytes; a wrong checksum or network is refused."""
    run()
    weights = tmp_path / "teacher.safetensors"
    weights.write_bytes((runs / "tiny" / "teacher" / "weights.safetensors").read_bytes())
    before = weights.read_bytes()
    given = ("name=given", f"teacher={{model: resnet_cifar.resnet8, weights: {weights}}}", "baselines=[]", "exports=[]")
    report = run(*given)
    assert [stage.stage for stage in report.stages] == ["student"]
    assert weights.read_bytes() == before
    with pytest.raises(CompressError, match=r"sha256|checksum"):
        run(*given, f"teacher={{model: resnet_cifar.resnet8, weights: {weights}, sha256: {'0' * 64}}}")
    with pytest.raises(CompressError, match="missing"):
        run(*given, f"teacher={{model: resnet_cifar.resnet20, weights: {weights}}}")


def test_an_untrained_teacher_is_refused_before_the_student_is_trained(run: Run, runs: Path, tmp_path: Path) -> None:
    """A teacher at chance teaches nothing, and the message says so with its accuracy."""
    torch.manual_seed(0)
    checkpoint.save_weights(tmp_path / "random.safetensors", resnet8(10, 1), metadata={})
    weights = tmp_path / "random.safetensors"
    said = (
        r"teacher: has .* not clearly more.*train it longer or with another learning rate .*; if it is given, check its weights"
    )
    with pytest.raises(CompressError, match=said):
        run("name=random", f"teacher={{model: resnet_cifar.resnet8, weights: {weights}}}", "exports=[]")
    assert not (runs / "random" / "student").exists()


def test_a_teacher_with_another_class_order_is_recognised(run: Run, runs: Path, tmp_path: Path) -> None:
    """A good teacher whose classes are permuted is told from a bad one."""
    run("teacher.train.epochs=6", "name=better", "baselines=[]", "exports=[]")
    network = resnet8(10, 1)
    checkpoint.load_weights(network, runs / "better" / "teacher" / "weights.safetensors")
    with torch.no_grad():
        for parameter in network.classifier.parameters():
            parameter.copy_(parameter.roll(1, dims=0))
    weights = tmp_path / "rolled.safetensors"
    checkpoint.save_weights(weights, network, metadata={})
    with pytest.raises(CompressError, match="another class order"):
        run("name=rolled", f"teacher={{model: resnet_cifar.resnet8, weights: {weights}}}", "exports=[]")


def test_two_runs_in_one_folder_do_not_mix(run: Run, runs: Path) -> None:
    """The second is refused while the first works there."""
    with cache.lock_run(runs / "tiny"), pytest.raises(CompressError, match="another process works in this run"):
        run()


def test_the_student_is_exported_again_from_its_run(run: Run, runs: Path, tmp_path: Path) -> None:
    """`export` makes further files of a finished run, gated like the first."""
    run()
    gates = reexport.export(runs / "tiny", [ExportSection(format="openvino")], out=tmp_path / "more", events=Events())
    assert {name: gate.status for name, gate in gates.items()} == {"student-openvino-fp32": "passed"}
    left = sorted(path.name for path in (tmp_path / "more").iterdir())
    assert left == ["student-fp32.bin", "student-fp32.xml", "student-fp32.xml.json"]


def test_a_teacher_that_was_changed_is_not_taken_for_the_runs_own(run: Run, runs: Path, tmp_path: Path) -> None:
    """A run is exported again from the weights that it trained, those of its teacher too, at which the method looks."""
    run(where=tmp_path)
    weights = tmp_path / "tiny" / "teacher" / WEIGHTS
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.unlink()
    weights.write_bytes(changed)
    with pytest.raises(CompressError, match=r"teacher.weights\.safetensors: has sha256"):
        reexport.export(tmp_path / "tiny", [ExportSection(format="onnx")], out=tmp_path / "more", events=Events())


def test_an_exported_file_has_a_record_of_what_is_known_of_it(run: Run, runs: Path, tmp_path: Path) -> None:
    """Accuracy, gate, checksums, environment, and of which student it was made, as in the run's own bundle."""
    run()
    reexport.export(runs / "tiny", [ExportSection(format="onnx")], out=tmp_path, events=Events())
    known = read(tmp_path / "student-fp32.onnx.json", Exported)
    bundle = read(runs / "tiny" / "bundle" / "manifest.json", Manifest)
    (held,) = (each for each in bundle.files if each.path == "student-fp32.onnx")
    assert known.file.parts == {"student-fp32.onnx": hash_file(tmp_path / "student-fp32.onnx")}
    assert known.file.measured is not None
    assert held.measured is not None
    assert known.file.measured.accuracy == held.measured.accuracy
    assert known.file.gate == held.gate
    assert known.weights_sha256 == bundle.provenance["weights"]
    assert known.environment.packages["onnxruntime"] == version("onnxruntime")


def test_an_export_that_fails_takes_the_place_of_one_that_passed(run: Run, runs: Path, tmp_path: Path, monkeypatch) -> None:
    """Under one name there is a good file or a rejected one, never both."""
    run()
    section = ExportSection(format="onnx")
    reexport.export(runs / "tiny", [section], out=tmp_path, events=Events())
    assert (tmp_path / "student-fp32.onnx").is_file()
    export_file = reexport.export_file

    def failing(*arguments: object, **named: object) -> ExportedFile:
        item = export_file(*arguments, **named)
        return item._replace(gate=item.gate.model_copy(update={"status": "failed", "reason": "it was told to"}))

    with monkeypatch.context() as patch:
        patch.setattr(reexport, "export_file", failing)
        reexport.export(runs / "tiny", [section], out=tmp_path, events=Events())
    assert not (tmp_path / "student-fp32.onnx").exists()
    assert sorted(path.name for path in (tmp_path / "rejected").iterdir()) == [
        "student-fp32.onnx",
        "student-fp32.onnx.gate.json",
    ]
    assert read(tmp_path / "student-fp32.onnx.json", Exported).file.path == "rejected/student-fp32.onnx"
    reexport.export(runs / "tiny", [section], out=tmp_path, events=Events())
    assert (tmp_path / "student-fp32.onnx").is_file()
    assert not list((tmp_path / "rejected").iterdir())


def test_a_damaged_bundle_is_held_to_the_student_of_its_run(run: Run, runs: Path, tmp_path: Path) -> None:
    """`verify --locate --against RUN` names the layer and the run; the student of another run is refused before it misleads."""
    run()
    folder = Path(shutil.copytree(runs / "tiny" / "bundle", tmp_path / "bundle"))
    path = folder / "student-fp32.onnx"
    model = onnx.load(path)
    name = [node.input[1] for node in model.graph.node if node.op_type == "Conv"][3]
    tensor = next(each for each in model.graph.initializer if each.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(0 * onnx.numpy_helper.to_array(tensor), name))
    onnx.save(model, path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][0] |= {"parts": {path.name: hash_file(path)}, "size_bytes": path.stat().st_size}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    write_checksums(folder)
    found = locate_divergence(folder, against=runs / "tiny", events=Events())[path.name]
    assert f"{path.name}: parts from the student of {runs / 'tiny'} in layer2.0.conv1 (Conv)" in found.verdict
    run("name=stranger", "baselines=[]", "exports=[]", "train.lr=0.03")
    with pytest.raises(CompressError, match=r"stranger: its student has weights of sha256 \w{12}, the bundle"):
        locate_divergence(folder, against=runs / "stranger", events=Events())


def test_a_file_for_one_image_at_a_time_is_proved_timed_and_verified(run: Run, runs: Path) -> None:
    """A fixed batch of 1, usual on devices, goes through gate, latency, bundle and `verify`; it has no throughput at 32."""
    report = run("name=single", "exports=[{format: onnx, batch: 1}]", "baselines=[]")
    row = next(row for row in report.variants if row.name.startswith("student-onnx"))
    assert (row.status, row.throughput_per_s) == ("passed", None)
    assert row.latency_ms is not None
    gates = verify_bundle(runs / "single", events=Events())
    assert [gate.status for gate in gates.values()] == ["passed"]


ENDED = (0, 4)
"""Exit codes of a run that is through; beside other work its latencies may scatter too much for a figure."""

LONG_SECONDS = 300
"""What takes ten seconds of two idle cores is through by then on the busiest machine."""


def command(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "compress", "run", "recipe.yaml", "--runs", "runs", *(f"--set={each}" for each in arguments)],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


LONG = (
    "train.epochs=15",
    "baselines=[]",
    "exports=[]",
    "train.batch_size=64",
    "train.state_seconds=0.2",
    "measure.seconds=0.1",
)


@pytest.fixture(scope="module")
def undisturbed(tiny_recipe: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The student's weights of a run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "recipe.yaml").write_text(tiny_recipe)
    process = command(folder, *LONG)
    _, said = process.communicate(timeout=LONG_SECONDS)
    assert process.returncode in ENDED, said
    if process.returncode == 0:
        assert (
            "next: compress export runs/tiny --to openvino" in said
        )  # nothing was exported, so there is nothing to predict with
    return (folder / "runs" / "tiny" / "student" / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_continues_and_ends_with_the_same_bytes(
    tiny_recipe: str, tmp_path: Path, undisturbed: bytes, number: int
) -> None:
    """Killed in the middle of the student's training and started again, it continues to the weights of an undisturbed run."""
    (tmp_path / "recipe.yaml").write_text(tiny_recipe)
    process = command(tmp_path, *LONG)
    _wait_for_epochs(tmp_path / "runs" / "tiny" / "events.jsonl", 6, process)
    process.send_signal(number)
    _, said = process.communicate(timeout=LONG_SECONDS)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130), said
    assert not (tmp_path / "runs" / "tiny" / "student").exists()
    process = command(tmp_path, *LONG)
    _wait_until((tmp_path / "runs" / "tiny" / "student" / "weights.safetensors").exists, process)
    process.kill()  # the rest is as in any run
    _, said = process.communicate(timeout=LONG_SECONDS)
    assert "student: continues in epoch" in said
    assert (tmp_path / "runs" / "tiny" / "student" / "weights.safetensors").read_bytes() == undisturbed


def _wait_for_epochs(path: Path, count: int, process: subprocess.Popen[str]) -> None:
    def has_come() -> bool:
        lines = path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []  # the last may be half-written
        return [event["stage"] for event in map(json.loads, lines) if event["event"] == "epoch"].count("student") >= count

    _wait_until(has_come, process)


def _wait_until(has_come: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + LONG_SECONDS
    while time.monotonic() < deadline:
        if has_come():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    pytest.fail("the run did not come to train its student")


def test_scores_are_calibrated_on_the_validation_split(run: Run, runs: Path) -> None:
    """Every row and every seed has its calibration, and each file of the bundle the temperature of its row."""
    report = run()
    assert all(row.calibration is not None for row in report.variants)
    assert all(seed.calibration is not None for scores in report.scores for seed in scores.seeds)
    manifest = check_bundle(runs / report.name / "bundle")
    rows = {row.name: row for row in report.variants}
    for file in manifest.files:
        assert file.measured is not None
        found = rows[file.measured.name].calibration
        assert found is not None
        assert file.temperature == found.temperature


def test_a_bundle_holds_all_that_a_device_needs(run: Run, runs: Path) -> None:
    """Class names, preprocessing and samples travel with the files."""
    run()
    manifest = read(runs / "tiny" / "bundle" / "manifest.json", Manifest)
    assert manifest.classes == tuple(str(digit) for digit in range(10))
    assert (manifest.preprocess.height, manifest.preprocess.channels) == (8, "gray")
    assert manifest.provenance["method"] == "kd"
