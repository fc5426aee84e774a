"""Applying the gate of a bundle again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from compress.deployed.verify import verify_bundle
from compress.errors import CompressError, GateFailed, Unreachable
from compress.events import Events
from exporters.bundle.bundle import write_checksums
from tests.deployed.brightness import invoke, write_bundle

pytestmark = pytest.mark.slow


def test_verify_passes_what_was_exported(bundle: Path) -> None:
    """Every file of a good bundle agrees on its own runtime with the stored logits; the run's folder will do."""
    gates = verify_bundle(bundle.parent, events=Events())
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
    assert list(verify_bundle(bundle, file="student-fp32.onnx", events=Events())) == ["student-fp32.onnx"]
    with pytest.raises(CompressError, match=r"did you mean 'student-fp32.onnx'"):
        verify_bundle(bundle, file="student.onnx", events=Events())


@pytest.mark.parametrize("verb", [["verify"], ["bench"], ["predict"]])
def test_a_damaged_bundle_is_not_run(bundle: Path, tmp_path: Path, verb: list[str]) -> None:
    """A changed byte in a model file is found before any runtime opens it."""
    copy = shutil.copytree(bundle, tmp_path / "copy")
    model = copy / "student-fp32.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    done = invoke(*verb, copy, *(["x.png"] if verb == ["predict"] else []))
    assert (done.exit_code, done.stdout) == (2, "")
    assert "student-fp32.onnx: has sha256" in done.stderr


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
    write_checksums(folder)
    done = invoke("verify", folder, "--file", "student-fp32.onnx", "--json")
    assert done.exit_code == 0, done.stderr
    note = json.loads(done.stdout)["student-fp32.onnx"]["note"]
    assert said in note
    assert bool(said) == ("allows" in note)
    shown = invoke("verify", folder, "--file", "student-fp32.onnx").stdout
    assert f"student-fp32.onnx: {note}" in shown if note else "fp32.onnx: " not in shown
