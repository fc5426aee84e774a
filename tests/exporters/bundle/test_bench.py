"""bench.py of a bundle: alone, by the protocol of `compress bench`; what it writes is what `compress report --add` takes."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.brought import read_brought
from benchmarks.devices import _process
from benchmarks.inputs import Inputs
from benchmarks.job import PROGRAMS
from compress.records import Variant
from exporters.bundle.bench import RUNNER, build_bench
from exporters.bundle.bundle import check_bundle, write_checksums
from exporters.bundle.programs import bench
from exporters.onnx import Onnx
from tests.exporters import pets

pytestmark = pytest.mark.slow
WITHOUT = "compress exporters benchmarks torch torchvision onnx nncf pydantic PIL"
"""Packages that a board does not have."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of two ONNX files, one of which takes two images in a call."""
    folder = tmp_path_factory.mktemp("bench")
    deployables = [pets.export(folder, exporter) for exporter in (Onnx(), Onnx(preprocess="inside", batch=2))]
    rows = [
        Variant(
            name=f"row-{number}", network="student", method="kd", format="onnx", runtime="onnxruntime", precision="fp32",
            device="local", parameters=9, status="passed",
        )
        for number in range(2)
    ]  # fmt: skip
    deployables = [each._replace(measured=row) for each, row in zip(deployables, rows, strict=True)]
    return pets.write(folder / "bundle", deployables)


def run(bundle: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a bundle's bench.py in a Python that lacks some packages, away from the repository."""
    script = (
        f"import sys, runpy; sys.modules.update(dict.fromkeys({WITHOUT.split()!r})); sys.argv = sys.argv[1:];"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-I", "-c", script, str(bundle / "bench.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=bundle.parent, capture_output=True, text=True, check=False)


def test_it_times_by_the_protocol_and_its_json_is_taken_in(bundle: Path, tmp_path: Path) -> None:
    """Interleaved rounds, several processes, machine facts; the figures here are those of the series that it wrote."""
    out = tmp_path / "hall.json"
    done = run(bundle, "--out", out, "--name", "hall", "--rounds", 5, "--seconds", 0.2, "--launches", 2)
    assert done.returncode == 0, done.stderr
    assert "without student-fp32-batch2-pixels.onnx: takes 2 images in a call; time it with --batch-size 2" in done.stderr
    results = read_brought(out, check_bundle(bundle))
    (row,), document = results.rows, json.loads(out.read_text())
    assert (row.name, row.device, results.status, row.status) == ("row-0", "hall", "brought", "skipped")
    assert row.latency_ms is not None
    assert sum(row.latency_ms.launches) == 5
    assert results.environment is not None
    assert results.environment.python == document["result"]["machine"]["python"]
    printed = re.search(r"([\d.]+) ms \(rounds", done.stdout)
    assert printed, done.stdout
    figure = pytest.approx(row.latency_ms.p50, abs=0.00051)  # printed to a thousandth
    assert float(printed[1]) == figure or row.latency_ms.disturbed_rounds  # of all rounds, or of those that count


def test_it_holds_the_programs_of_every_job_byte_for_byte(bundle: Path) -> None:
    """There is no second copy that could differ, all of it keeps to Python 3.9, and the constants are the runner's."""
    assert {*RUNNER} < {*PROGRAMS}
    program = build_bench(check_bundle(bundle)).decode()
    assert (bundle / "bench.py").read_text() == program
    ast.parse(program, feature_version=(3, 9))
    scope: dict[str, object] = {"__name__": "bench"}
    exec(compile(program, "bench.py", "exec"), scope)  # noqa: S102 (our own program)
    folder = Path(_process.__file__).parents[1]
    assert scope["PROGRAMS"] == {
        name: (folder / name).read_text() for name in (*RUNNER, "runtimes/onnxruntime.py")
    }  # fmt: skip
    assert (bench.QUIET, bench.POOLS) == (_process.QUIET, _process.POOLS)


def test_a_file_is_fed_as_everywhere(bundle: Path, tmp_path: Path) -> None:
    """Constants that make images of pixels are those of the preprocessing, to the last bit."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    bench.CLASSES["onnxruntime"] = ("Onnxruntime", "onnxruntime")
    subject = bench.copy_file(bundle, tmp_path, 0, manifest["files"][0], manifest)
    inputs = Inputs.from_pixels(bench.read_images(bundle, manifest), pets.PREPROCESS)
    assert (tuple(subject["scale"]), tuple(subject["shift"])) == (inputs.scale, inputs.shift)
    assert np.array_equal(bench.read_images(bundle, manifest), pets.samples().images)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("student-fp32.onnx", "has not the checksum of the manifest", id="model"),
        pytest.param("manifest.json", "has not the checksum that SHA256SUMS says", id="manifest"),
        pytest.param("samples.npz", "has not the checksum of the manifest", id="samples"),
    ],
)
def test_what_was_changed_is_not_timed(
    name: str, message: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that names the file, exit code 2, and nothing written."""
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    (copy / name).write_bytes((copy / name).read_bytes() + b" ")
    if name != "manifest.json":
        write_checksums(copy)
    monkeypatch.setitem(bench.CLASSES, "onnxruntime", ("Onnxruntime", "onnxruntime"))
    monkeypatch.setattr(bench, "__file__", str(copy / "bench.py"))
    monkeypatch.setattr(sys, "argv", ["bench.py", "--out", str(tmp_path / "out.json"), "--file", "student-fp32.onnx"])
    assert bench.main() == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


def test_a_runtime_that_is_missing_is_named(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what to install, and exit code 5."""
    monkeypatch.setitem(bench.CLASSES, "onnxruntime", ("Onnxruntime", "not_there"))
    monkeypatch.setattr(bench, "__file__", str(bundle / "bench.py"))
    monkeypatch.setattr(sys, "argv", ["bench.py"])
    assert bench.main() == 5
    assert "student-fp32.onnx: not_there is not installed: pip install not-there" in capsys.readouterr().err
