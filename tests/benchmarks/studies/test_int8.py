"""The comparison of int8 with the defaults of others: on a real tiny run, and on made-up results for what is said of them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from benchmarks.environment import read_environment
from benchmarks.studies import methods_table, readme
from benchmarks.studies.int8.__main__ import _add_network, _collect_notes, main
from benchmarks.studies.int8.defaults import make_default_file
from benchmarks.studies.int8.records import OURS, Int8, Network, Row, Session, compare_correct
from benchmarks.studies.int8.report import make_readme_table, render, write
from benchmarks.studies.int8.rows import _measure_own
from benchmarks.studies.int8.runs import open_run, shorten_paths
from compress import recipe
from compress.errors import CompressError, Unreachable
from compress.events import Events
from compress.preprocess import normalise
from compress.quantization import calibration
from compress.records import (
    Accuracy,
    BundleFile,
    Exported,
    Gate,
    Ladder,
    Manifest,
    Ratio,
    Report,
    Rung,
    Variant,
    read,
    save,
)
from compress.run.data import RunData, prepare_data
from compress.system.files import hash_file
from exporters import Quantization
from exporters.onnx import Onnx
from tests.benchmarks.sample_report import sample
from tests.benchmarks.tiny import Tiny

pytestmark = pytest.mark.slow

DEFAULTS = "onnxruntime's defaults"


NAMES = "student-onnx-fp32", "student-onnx-int8"
CLIMB = Rung(rung="default", detail="its own statistics", status="passed", size_bytes=1, seconds=2.5)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: str) -> Path:
    """What a run leaves that exported a tiny network to ONNX in float32 and in int8."""
    folder = tmp_path_factory.mktemp("runs") / "int8_tiny"
    changes = "name=int8_tiny", "int8.calibration_images=40"
    parsed = recipe.parse(tiny_recipe.encode(), "tiny.yaml", changes)
    folder.mkdir()
    (folder / "recipe.yaml").write_text(recipe.dump(parsed, folder), encoding="utf-8")
    (folder / "report.md").write_text(f"It lies at {folder}/student.", encoding="utf-8")
    data = prepare_data(parsed.data, base=folder, seed=parsed.seed)
    files = export(folder / "bundle", data)
    rows = [variant(name, path, data) for name, path in zip(NAMES, files, strict=True)]
    report = sample().model_copy(
        update={
            "variants": tuple(rows), "gates": dict.fromkeys(NAMES, GATE), "test_key": data.test_key,
            "recipe": {"data": {"path": str(folder / "data")}},
        }
    )  # fmt: skip
    save(folder / "report.json", report)
    save(folder / "bundle" / "manifest.json", manifest(files, rows, data))
    return folder


GATE = Gate(status="passed", reason="", samples=10)


def export(folder: Path, data: RunData) -> tuple[Path, Path]:
    """Write a network with random weights, in int8 with the ranges of a run's calibration images."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)
    ).eval()
    plain, quantized = folder / "student-fp32.onnx", folder / "student-int8.onnx"
    Onnx().export(network, data.sample_image(), plain)
    images = calibration.select_calibration(data.train, data.preprocess, count=40, seed=1).images
    Onnx(precision="int8").prepare_int8(network, data.sample_image(), images).write(quantized, Quantization())
    return plain, quantized


def variant(name: str, path: Path, data: RunData) -> Variant:
    right = answers(path, normalise(data.test.images, data.preprocess)).argmax(1) == data.test.labels
    ladder = Ladder(rungs=(CLIMB,), chosen=0, calibration_images=40) if "int8" in name else None
    return Variant(
        name=name, network="student", method="kd", format="onnx", runtime="onnxruntime", precision=name[-4:],  # type: ignore[arg-type]
        device="local", parameters=2000, accuracy=Accuracy.from_hits(int(right.sum()), len(right)),
        size_bytes=path.stat().st_size,
        ladder=ladder, seconds=1.5, status="passed",
    )  # fmt: skip


def manifest(files: Sequence[Path], rows: Sequence[Variant], data: RunData) -> Manifest:
    entries = [
        BundleFile(
            path=path.name, parts={path.name: hash_file(path)}, format="onnx", runtime="onnxruntime", precision=row.precision,
            size_bytes=path.stat().st_size, gate=GATE, measured=row,
        )
        for path, row in zip(files, rows, strict=True)
    ]  # fmt: skip
    return Manifest(
        name="tiny", classes=data.classes, preprocess=data.preprocess, files=tuple(entries), gate={}, samples="samples.npz",
        samples_count=64,
        samples_sha256="0", provenance={},
    )  # fmt: skip


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def out(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    done = call(run, "--rounds", 5, "--seconds", 0.1, "--out", folder)
    assert done.exit_code == 0, done.output
    assert "| tiny |" in done.stdout
    return folder


def answers(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"images": images[start : start + 32]})[0] for start in range(0, len(images), 32)])


def test_a_finished_run_becomes_rows(run: Path, out: Path) -> None:
    """Float32, our int8 and that of the defaults: accuracy and agreement are onnxruntime's own, speed is against float32."""
    (network,) = read(out / "int8.json", Int8).networks
    plain, ours, others = network.rows
    assert [row.made_by for row in network.rows] == [OURS, OURS, DEFAULTS]
    parsed = recipe.load(run / "recipe.yaml")
    data = prepare_data(parsed.data, base=run, seed=parsed.seed)
    images, labels = normalise(data.test.images, data.preprocess), data.test.labels
    reference, quantized = (answers(run / "bundle" / f"student-{kind}.onnx", images).argmax(1) for kind in ("fp32", "int8"))
    assert plain.accuracy == Accuracy.from_hits(int((reference == labels).sum()), len(labels))
    assert ours.accuracy == Accuracy.from_hits(int((quantized == labels).sum()), len(labels))
    assert ours.agreement_percent == pytest.approx(100 * (quantized == reference).mean())
    assert ours.to_float is not None
    assert ours.to_float.points == pytest.approx(ours.accuracy.top1_percent - plain.accuracy.top1_percent)
    assert ours.to_defaults is not None
    assert others.accuracy is not None
    assert ours.to_defaults.points == pytest.approx(ours.accuracy.top1_percent - others.accuracy.top1_percent)
    assert [row.ratio and row.ratio.against for row in network.rows] == [None, "onnx fp32", "onnx fp32"]
    assert all(row.latency_ms is not None and row.latency_ms.threads == row.latency_ms.batch_size == 1 for row in network.rows)


def test_a_row_says_how_a_file_came_about(run: Path, out: Path) -> None:
    """Rung, tries and seconds are those of the run; the calibration images are the ladder's."""
    (network,) = read(out / "int8.json", Int8).networks
    plain, ours, others = network.rows
    assert (ours.rung, ours.detail, ours.tries, ours.ladder_seconds) == ("default", CLIMB.detail, 1, CLIMB.seconds)
    assert ours.size_bytes == (run / "bundle" / "student-int8.onnx").stat().st_size
    assert (plain.rung, plain.seconds, plain.ladder_seconds) == ("", 1.5, None)
    assert (others.rung, others.status, others.ladder_seconds) == ("", "not gated", None)
    assert others.seconds is not None
    assert others.size_bytes is not None
    assert network.calibration_images == 40
    assert (network.name, network.recipe, network.seed) == ("tiny", "recipes/int8_tiny.yaml", 1)


def test_no_place_of_this_machine_is_in_the_result(run: Path, out: Path) -> None:
    """What is committed names no folder of the machine, and beside it lies each run's own report."""
    written = [path for path in out.rglob("*") if path.is_file()]
    assert {path.relative_to(out).as_posix() for path in written} == {
        "int8.json", "report.md", "tiny/report.json", "tiny/report.md",
    }  # fmt: skip
    for path in written:
        text = path.read_text(encoding="utf-8")
        assert not any(str(place) in text for place in (run.parent, Path.home(), Path.cwd())), path
    assert read(out / "tiny" / "report.json", Report).recipe == {"data": {"path": "int8_tiny/data"}}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/srv/data/cifar10", "data/cifar10"),
        ("/srv/runs/.cache/ab/student-int8.xml: NNCF cannot", "ab/student-int8.xml: NNCF cannot"),
        ("'/home/me/x.onnx' and (/a/b/c)", "'me/x.onnx' and (b/c)"),
        ("12 images/s, 1/255, recipes/a/b.yaml, https://a.org/b/c", "12 images/s, 1/255, recipes/a/b.yaml, https://a.org/b/c"),
    ],
)
def test_absolute_paths_keep_their_last_two_parts(text: str, shown: str) -> None:
    """Paths of a machine are shortened wherever they stand; all else stays, and so does what was shortened."""
    assert shorten_paths({"a": [text, 3]}) == {"a": [shown, 3]}
    assert shorten_paths(shown) == shown


def copied(run: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run, folder / run.name))


def test_a_file_that_failed_its_gate_is_found(run: Path, tmp_path: Path) -> None:
    """What a run kept apart is measured like the rest and called failed, with the reason."""
    broken = copied(run, tmp_path)
    report, held = read(broken / "report.json", Report), read(broken / "bundle" / "manifest.json", Manifest)
    name, gate = NAMES[1], GATE.model_copy(update={"status": "failed", "reason": "bad"})
    rows = [
        each if each.name != name else each.model_copy(update={"status": "failed", "reason": "bad"}) for each in report.variants
    ]
    gates = report.gates | {name: gate}
    save(broken / "report.json", report.model_copy(update={"gates": gates, "variants": tuple(rows)}))
    save(broken / "bundle" / "manifest.json", held.model_copy(update={"files": held.files[:1]}))
    save(broken / "rejected" / "other.onnx.gate.json", Gate(status="failed", reason="other", samples=1))
    save(broken / "rejected" / "student-int8.onnx.gate.json", gate)
    (broken / "bundle" / "student-int8.onnx").replace(broken / "rejected" / "student-int8.onnx")
    found = open_run(broken)
    assert found.files[name].path == broken / "rejected" / "student-int8.onnx"
    entry = _measure_own(found, found.group_by_format()["onnx"]["int8"], Events())
    assert (entry.row.status, entry.row.reason) == ("failed", "bad")
    assert entry.row.accuracy is not None
    assert any("failed: bad; the run keeps it apart" in note for note in _collect_notes(found, [entry.row]))


def test_a_run_that_is_not_what_its_report_says_is_refused(run: Path, tmp_path: Path) -> None:
    """A changed file, other test images and another accuracy each stop the comparison."""
    changed = copied(run, tmp_path)
    report = read(changed / "report.json", Report)
    save(changed / "report.json", report.model_copy(update={"test_key": "0" * 64}))
    assert "the test images are not those" in call(changed, "--out", tmp_path / "out").output
    better = [
        each.model_copy(update={"accuracy": Accuracy.from_hits(each.accuracy.samples, each.accuracy.samples)})
        if each.accuracy
        else each
        for each in report.variants
    ]
    save(changed / "report.json", report.model_copy(update={"variants": tuple(better)}))
    found = open_run(changed)
    with pytest.raises(CompressError, match=r"top-1 is .* and its report says 100\.00 %"):
        _measure_own(found, found.group_by_format()["onnx"]["fp32"], Events())
    (changed / "bundle" / "student-fp32.onnx").write_bytes(b"other")
    done = call(changed, "--out", tmp_path / "out")
    assert done.exit_code == CompressError.exit_code
    assert "is not the file that was proved" in done.output


def test_a_folder_without_a_finished_run_is_refused(tmp_path: Path) -> None:
    """One clear message, and nothing is written."""
    done = call(tmp_path, "--out", tmp_path / "out")
    assert done.exit_code == Unreachable.exit_code
    assert "report.json" in done.output
    assert not (tmp_path / "out").exists()


# Formats that were exported later


def exported(run: Path, *, weights: str = "") -> Path:
    """Let the run's own files be what `compress export` left."""
    held = read(run / "bundle" / "manifest.json", Manifest)
    for entry in held.files:
        shutil.copytree(run / "bundle", run / "exports", dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.json"))
        known = Exported(file=entry, weights_sha256=weights, environment=read_environment())
        save(run / "exports" / f"{entry.path}.json", known)
    return run


def test_formats_that_were_exported_later_are_added(run: Path, out: Path, tmp_path: Path) -> None:
    """Their rows come with an environment of their own, those of the run stay, and measuring these again keeps them."""
    later, folder = exported(copied(run, tmp_path)), Path(shutil.copytree(out, tmp_path / "out"))
    before = read(folder / "int8.json", Int8)
    done = call(later, "--exported", "onnx", "--rounds", 6, "--seconds", 0.1, "--out", folder)
    assert done.exit_code == 0, done.output
    after = read(folder / "int8.json", Int8)
    (was,), (now,) = before.networks, after.networks
    (added,) = now.further
    assert (after.command, now.model_copy(update={"further": ()})) == (before.command, was)
    seen, kept = ([(row.name, row.accuracy, row.rung) for row in rows] for rows in (added.rows, was.rows))
    assert seen == kept
    assert (added.rounds, added.environment.cpu) == (6, was.environment.cpu)
    assert "compress export RUN --to onnx:fp32 --to onnx:int8" in done.stdout
    again = _add_network(folder, was, command="c", events=Events())
    assert again.networks == after.networks
    other = was.model_copy(update={"calibration_key": "another"})
    assert _add_network(folder, other, command="c", events=Events()).networks == (other,)


def test_what_was_exported_of_another_network_is_refused(run: Path, out: Path, tmp_path: Path) -> None:
    """Files of other weights, changed files, a format that was not exported, and rows that nothing belongs to."""
    stranger = exported(copied(run, tmp_path / "stranger"), weights="0" * 64)
    assert "is of another student than the run's bundle" in call(stranger, "--exported", "onnx", "--out", out).output
    later = exported(copied(run, tmp_path / "later"))
    assert "holds no float32 file of format 'litert'; run `compress export" in call(
        later, "--exported", "litert", "--out", out
    ).output  # fmt: skip
    done = call(later, "--exported", "onnx", "--out", tmp_path / "empty")
    assert "has no rows of tiny on these images; first run `python -m benchmarks.studies.int8" in done.output
    assert not (tmp_path / "empty").exists()
    (later / "exports" / "student-int8.onnx").write_bytes(b"other")
    assert "is not the file that was proved; export the run again" in call(later, "--exported", "onnx", "--out", out).output


# The defaults of others


def test_nncf_is_given_the_images_and_nothing_else(tiny: Tiny, tmp_path: Path) -> None:
    """Its file holds weights in int8 and runs on OpenVINO."""
    source = tiny.subjects["openvino"].path
    made = make_default_file("openvino", source, tiny.images, tmp_path / "made")
    assert made.path is not None, made.reason
    assert made.seconds is not None
    assert made.path.with_suffix(".bin").is_file()
    assert 'element_type="i8"' in made.path.read_text(encoding="utf-8")


def test_a_quantizer_that_fails_is_a_result(tmp_path: Path) -> None:
    """Whatever it raises becomes the reason why there is no file."""
    source = tmp_path / "a.onnx"
    source.write_bytes(b"no model")
    made = make_default_file("onnx", source, np.zeros((2, 3, 4, 4), np.float32), tmp_path / "made")
    assert made.path is None
    assert "DecodeError" in made.reason


# What is said


def test_differences_are_paired_and_mirrored() -> None:
    """Points are the difference of accuracies; exchanging the two files turns every number round."""
    chance = np.random.default_rng(0)
    this, other = chance.random(400) < 0.9, chance.random(400) < 0.8
    found, turned = compare_correct(this, other), compare_correct(other, this)
    assert found.points == pytest.approx(100 * (this.mean() - other.mean())) == pytest.approx(-turned.points)
    assert (found.only_this, found.only_other) == (turned.only_other, turned.only_this)
    assert found.only_this - found.only_other == this.sum() - other.sum()
    assert found.ci95 == pytest.approx((-turned.ci95[1], -turned.ci95[0]))
    assert found.ci95[0] < found.points < found.ci95[1]
    assert (found.verdict, turned.verdict) == ("better", "worse")
    assert compare_correct(this, this).verdict == "not distinguishable"


def network(rows: Sequence[Row], name: str = "resnet20") -> Network:
    return Network(
        name=name, recipe=f"recipes/int8_{name}.yaml", student="resnet_cifar.resnet20", parameters=272_000, seed=0,
        images={"train": 4000, "validation": 2000, "test": 10_000}, test_key="0", calibration_images=300, calibration_key="0",
        max_top1_drop_points=1.0, rows=tuple(rows), rounds=15, seconds=12, environment=read_environment(), vnni=False,
    )  # fmt: skip


def row(name: str, correct: int, **others: Any) -> Row:
    right = np.arange(10_000) < correct
    file_format, precision = name.split()[:2]
    runtime = {"onnx": "onnxruntime", "openvino": "openvino"}[file_format]
    known = {
        "made_by": OURS, "status": "passed", "accuracy": Accuracy.from_hits(correct, 10_000),
        "to_float": compare_correct(right, np.arange(10_000) < 9000) if precision != "fp32" else None,
    }  # fmt: skip
    return Row(name=name, format=file_format, runtime=runtime, precision=precision, **(known | others))  # type: ignore[arg-type]


def paces(speedup: float) -> Ratio:
    return Ratio(
        against="onnx fp32", speedup=speedup, ci95=(0.99 * speedup, 1.01 * speedup),
        verdict="faster" if speedup > 1 else "slower",
    )  # fmt: skip


ROWS = (
    row("onnx fp32", 9000),
    row("onnx int8", 8950, rung="saturation", detail="a spare bit", tries=5, ladder_seconds=41.0, ratio=paces(1.8)),
    row("onnx int8 by onnxruntime's defaults", 8500, made_by=DEFAULTS, status="not gated", ratio=paces(0.7)),
    row("openvino fp32", 9000),
    row("openvino int8", 8700, status="failed", reason="top-1 too low", tries=9, ratio=paces(2.0)),
    row("openvino int8 by NNCF's defaults", 0, made_by="NNCF's defaults", status="failed", accuracy=None, to_float=None),
)


def test_the_compact_table_hides_nothing() -> None:
    """Top-1, points, rung and speed of both; a failed gate and a missing file are said where the numbers are."""
    _, _, line, *_ = make_readme_table(Int8(command="", networks=(network(ROWS),)))
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "resnet20", "90.0 %", "89.5 % (−0.5), saturation, 1.8×", "85.0 % (−5.0), 0.7×", "87.0 % (−3.0), 2.0×, **gate failed**",
        "no file that runs",
    ]  # fmt: skip


def test_the_report_has_every_row_in_rectangular_tables() -> None:
    """No file that was compared is missing, and no cell is split or escaped away."""
    text = render(Int8(command="c", networks=(network(ROWS), network(ROWS[:3], "other"))), None)
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert [len(block.splitlines()) for block in blocks] == [4, 8, 5]
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block
    assert "none met the gate; 9 files tried" in text
    assert "saturation: a spare bit; 5 files tried" in text
    assert "Sabotage" not in text


def test_the_report_has_further_formats_with_their_environment() -> None:
    """Their rows stand below the run's own, in a compact table of their own, with the commands; a gate that failed is said."""
    rows = [
        each.model_copy(update={"name": each.name.replace("openvino", "litert"), "format": "litert", "runtime": "litert"})
        for each in ROWS[3:5]
    ]
    machine = read_environment().model_copy(update={"packages": {"ai-edge-litert": "2.3.0"}})
    added = Session(rows=tuple(rows), notes=("said",), rounds=7, seconds=3, environment=machine, vnni=False)
    with_it = network(ROWS).model_copy(update={"further": (added,)})
    text = render(Int8(command="c", networks=(with_it, network(ROWS[:3], "other"))), None)
    assert "| network | LiteRT int8, ours |" in text
    assert "| resnet20 | 87.0 % (−3.0), 2.0×, **gate failed** |\n| other | – |" in text
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert [len(block.splitlines()) for block in blocks] == [4, 4, 10, 5]
    assert "compress export RUN --to litert:fp32 --to litert:int8\n" in text
    assert "python -m benchmarks.studies.int8 RUN --exported litert --rounds 7 --seconds 3\n" in text
    assert "\n- said\n" in text
    assert re.search(r"^- Machine for litert: .*ai-edge-litert 2\.3\.0\.$", text, re.MULTILINE)


@pytest.mark.parametrize(("load", "busy"), [("7.10, 1.0, 1.0", True), ("0.50, 9.0, 9.0", False), ("unavailable", False)])
def test_a_busy_machine_is_said(load: str, busy: bool) -> None:
    """Speeds that were taken beside other work are called rough where the machine is named."""
    machine = read_environment()
    machine = machine.model_copy(update={"cores_logical": 2, "facts": machine.facts | {"load_average_1_5_15_min": load}})
    text = render(
        Int8(command="c", networks=(network(ROWS).model_copy(update={"environment": machine}),)), None
    )  # fmt: skip
    assert ("other work ran beside it" in text) == busy


def test_what_does_not_pay_is_said_with_the_number(run: Path) -> None:
    """Int8 that is not faster than float32 is a note, for ours and for the defaults; what is faster is none."""
    said = list(_collect_notes(open_run(run), [row("onnx int8", 9000, ratio=paces(0.8)), ROWS[1]]))
    assert said == ["onnx int8: int8 does not pay in speed: 0.80× (0.79–0.81) that of float32, slower."]


def test_a_network_that_is_measured_again_keeps_its_place(tmp_path: Path) -> None:
    """Other networks stay as they are."""
    for name in ("a", "b"):
        write(_add_network(tmp_path, network(ROWS, name), command="c", events=Events()), tmp_path)
    again = _add_network(tmp_path, network(ROWS[:3], "a"), command="c", events=Events())
    assert [(each.name, len(each.rows)) for each in again.networks] == [("a", 3), ("b", 6)]


def test_the_readme_shows_the_result_once_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its markers stands what `int8.json` says; another number is noticed, a missing marker is an error."""
    text = (readme.ROOT / "docs" / "results.md").read_text(encoding="utf-8").split("<!-- int8:")[0]
    (tmp_path / "benchmarks").symlink_to(readme.ROOT / "benchmarks")
    for page in readme.list_pages():
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(readme.ROOT / page, tmp_path / page)
    (tmp_path / next(iter(readme.PICTURES))).parent.mkdir(parents=True)
    (tmp_path / "docs" / "results.md").write_text(text, encoding="utf-8")
    monkeypatch.setattr(methods_table, "make_table", lambda _reports: [])  # takes seconds
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    monkeypatch.setattr(readme, "INT8", tmp_path / "int8.json")
    save(readme.INT8, Int8(command="c", networks=(network(ROWS),)))
    with pytest.raises(CompressError, match="<!-- int8:"):
        CliRunner().invoke(readme.main, catch_exceptions=False)
    (tmp_path / "docs" / "results.md").write_text(f"{text}\n<!-- int8: written -->\n<!-- /int8 -->\n", encoding="utf-8")
    assert CliRunner().invoke(readme.main, ["--check"]).exit_code == 1
    assert CliRunner().invoke(readme.main).exit_code == 0
    assert "| resnet20 | 90.0 % |" in (tmp_path / "docs" / "results.md").read_text(encoding="utf-8")
    assert CliRunner().invoke(readme.main, ["--check"]).exit_code == 0
    save(readme.INT8, Int8(command="c", networks=(network(ROWS[:3]),)))
    assert CliRunner().invoke(readme.main, ["--check"]).exit_code == 1


def test_the_command_is_told_without_places(out: Path) -> None:
    """Whoever reads `int8.json` can call it again."""
    assert (
        json.loads((out / "int8.json").read_text())["command"]
        == "python -m benchmarks.studies.int8 RUN... --rounds 5 --seconds 0.1"
    )
