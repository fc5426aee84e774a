"""Timings brought by hand: what `bench.py` wrote is taken in, and nothing else is, whatever a stranger hands over."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.brought import read_brought
from benchmarks.report import make_device_tables
from benchmarks.report.devices import describe_devices
from compress.errors import CompressError, Unreachable
from compress.records import BundleFile, Gate, Manifest, Preprocess, Report, Variant, read, save
from compress.run import brought
from tests.benchmarks import sample_report

SHA = "a" * 64
NAMES = ("student-onnx-fp32", "student-openvino-fp32")
FILES = {"student-fp32.onnx": {"student-fp32.onnx": SHA}, "student-fp32.xml": {"student-fp32.xml": SHA}}


@pytest.fixture
def manifest() -> Manifest:
    """The manifest of a bundle of two files."""
    rows = {each.name: each for each in sample_report.sample().variants}
    return Manifest(
        name="digits", classes=("a", "b"), input="images", output="logits", files=tuple(
            _describe_file(path, parts, rows[name]) for (path, parts), name in zip(FILES.items(), NAMES, strict=True)
        ), preprocess=Preprocess(height=2, width=2, channels="gray", interpolation="bilinear", mean=(0.5,), std=(0.5,)),
        gate={}, samples="samples.npz", samples_count=2, samples_sha256=SHA, provenance={},
    )  # fmt: skip


def _describe_file(path: str, parts: dict[str, str], row: Variant) -> BundleFile:
    return BundleFile(
        path=path, parts=parts, format=row.format, runtime=row.runtime, precision="fp32", size_bytes=9, measured=row,
        gate=Gate(status="passed", reason="", samples=2),
    )  # fmt: skip


def make_document() -> dict[str, Any]:
    """What `bench.py` writes: the second file takes half the time of the first."""
    launch = {"wanted": 5, "rounds": 5, "clock_khz": [None] * 5, "before": {}, "after": {}}
    machine = {
        "packages": {"onnxruntime": "1.19.2"}, "python": "3.9.18", "platform": "Linux", "cpu": "Cortex-A76",
        "cores_physical": 4, "cores_logical": 4, "memory_bytes": 1 << 30, "facts": {},
    }  # fmt: skip
    subjects = {
        name: {
            "effective": {"version": "1.0"}, "settled": True, "load_ns": [9], "first_call_ns": [9], "warmup_medians_ns": [[9]],
            "rounds_ns": [[2_000_000 // place + step for step in range(3)] for _ in range(5)], "cpu_ns": [1.0] * 5,
            "waited": [0.0] * 5, "major_faults": [0] * 5,
        }
        for place, name in enumerate(FILES, start=1)
    }  # fmt: skip
    job = {
        "threads": 1, "batch_size": 1, "seed": 0, "rounds": 5, "seconds": 1.0, "launches": 1, "calls_per_second": None,
    }  # fmt: skip
    result = {"subjects": subjects, "orders": [[0, 1]] * 5, "launches": [launch], "machine": machine}
    return {
        "kind": "edge-compress bench", "version": 1, "name": "hall", "bundle": "digits", "files": FILES, "job": job,
        "result": result,
    }  # fmt: skip


def write(folder: Path, document: object) -> Path:
    path = folder / "brought.json"
    path.write_text(json.dumps(document))
    return path


def test_what_was_brought_is_a_row_for_each_file_and_says_so(manifest: Manifest, tmp_path: Path) -> None:
    """Figures are computed here; the label is in the record, in the page and on the terminal; no gate is claimed."""
    results = read_brought(write(tmp_path, make_document()), manifest)
    first, second = results.rows
    assert [row.name for row in results.rows] == [*NAMES]
    assert first.latency_ms is not None
    assert second.ratio is not None
    assert first.latency_ms.p50 == pytest.approx(2.000001)
    assert (second.ratio.against, round(second.ratio.speedup, 3)) == (NAMES[0], 2.0)
    assert (results.status, results.gates, first.accuracy, first.status) == ("brought", {}, None, "skipped")
    report = sample_report.sample().model_copy(update={"devices": (results,)})
    (table,) = describe_devices(report)
    assert "Cortex-A76" in table.about
    assert "brought by hand" in str(make_device_tables(report)[0].title)


def change(*path: str | int, to: object) -> Callable[[dict[str, Any]], None]:
    """Return what changes one value of a document."""

    def apply(document: dict[str, Any]) -> None:
        for step in path[:-1]:
            document = document[step]  # type: ignore[index]
        document[path[-1]] = to  # type: ignore[index]

    return apply


FIRST = ("result", "subjects", "student-fp32.onnx")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(change("kind", to="x"), "is not what bench.py of this version writes", id="kind"),
        pytest.param(change("version", to=2), "is not what bench.py of this version writes", id="version"),
        pytest.param(change("name", to="../up"), "`name` is no plain name", id="path"),
        pytest.param(change("name", to="a\x1b[2J"), "a text that commands terminals", id="control"),
        pytest.param(change(*FIRST, "effective", "version", to="\x9b"), "a text that commands terminals", id="control inside"),
        pytest.param(change(*FIRST, "effective", "version", to="x" * 9999), "or is too long", id="long"),
        pytest.param(change("files", to={"other.onnx": {}}), "timed 'other.onnx', and the bundle has", id="other file"),
        pytest.param(
            change("files", "student-fp32.onnx", to={"student-fp32.onnx": "b" * 64}), "by its checksums", id="other bytes"
        ),
        pytest.param(change(*FIRST, "rounds_ns", 0, to=[-1]), "are no times", id="negative"),
        pytest.param(change(*FIRST, "rounds_ns", 0, to=["1"]), "are no times", id="text"),
        pytest.param(change(*FIRST, "rounds_ns", 0, to=[float("nan")]), "a number that is none", id="nan"),
        pytest.param(change(*FIRST, "waited", to="x"), "is not what bench.py writes", id="waited"),
        pytest.param(change("result", "launches", to=[]), "is not what bench.py writes", id="no launches"),
        pytest.param(change("result", "machine", to={"cpu": 3}), "is not what bench.py writes", id="machine"),
        pytest.param(change("job", "threads", to=0), "is not such as bench.py takes", id="threads"),
        pytest.param(change("job", to=[]), "`job` lacks", id="job"),
        pytest.param(change("result", "subjects", to={}), "other files than were sent", id="no subjects"),
    ],
)
def test_what_no_bench_writes_is_refused(
    damage: Callable[[dict[str, Any]], None], message: str, manifest: Manifest, tmp_path: Path
) -> None:
    """With one line that names the file and commands no terminal, and exit code 2."""
    document = copy.deepcopy(make_document())
    damage(document)
    with pytest.raises(CompressError) as caught:
        read_brought(write(tmp_path, document), manifest)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2
    assert str(caught.value).isprintable()


def test_what_is_no_json_or_not_there_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    """A nest without an end, no JSON, and a folder."""
    path = tmp_path / "brought.json"
    for content in ("[" * 100_000, "{", "3"):
        path.write_text(content)
        with pytest.raises(CompressError, match=r"is no JSON|is not what bench\.py"):
            read_brought(path, manifest)
    with pytest.raises(Unreachable, match="is not there, or is no file"):
        read_brought(tmp_path, manifest)


def test_adding_replaces_the_same_machine_and_keeps_the_file(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice the same is once; a device of the run itself is not overwritten; a report with it is read back as it was."""
    monkeypatch.setattr(brought, "check_bundle", lambda _folder: manifest)
    path, report = write(tmp_path, make_document()), sample_report.sample()
    once = brought.add_brought(report, tmp_path, [path])
    twice = brought.add_brought(once, tmp_path, [tmp_path / "brought" / "hall.json"])
    assert [each.name for each in twice.devices] == ["hall"]
    save(tmp_path / "report.json", twice)
    assert read(tmp_path / "report.json", Report) == twice
    own = report.model_copy(update={"devices": (twice.devices[0].model_copy(update={"status": "passed"}),)})
    with pytest.raises(CompressError, match=r"\Ahall: is a device of the run itself; run bench.py there with another --name"):
        brought.add_brought(own, tmp_path, [path])
