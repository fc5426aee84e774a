"""Measuring files of a bundle, and lone files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from compress.cli import tables
from compress.deployed.bench import FileTiming, measure_files
from compress.errors import CompressError
from compress.events import Events
from compress.records import Ratio
from tests.deployed.brightness import invoke

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def timing(bundle: Path) -> FileTiming:
    """A file, timed for tests of what is shown of it."""
    (found,) = measure_files([bundle / "student-fp32.onnx"], rounds=5, seconds=0.2, events=Events()).values()
    return found


def test_bench_compares_files_in_one_job(bundle: Path) -> None:
    """The files of a run are measured together; all but the reference have a speed-up with its interval."""
    timings = measure_files([bundle.parent], against="student-fp32.xml", rounds=5, seconds=0.3, batch_size=4, events=Events())
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
def test_no_number_of_bench_is_broken_over_two_lines(timing: FileTiming, width: int) -> None:
    """However long the names are, every figure, runtime and verdict of a measurement stands whole in a line."""
    latency = timing.latency_ms.model_copy(update={"p50": 10.163, "ci95": (10.159, 10.167), "p90": 10.171, "p99": 12.193})
    names = [f"/home/someone/projects/{'edge/' * 9}student-{number}.onnx" for number in range(2)]
    ratio = Ratio(against=names[0], speedup=1.25, ci95=(1.2, 1.3), verdict="faster")
    measured = {
        name: timing.model_copy(update={"latency_ms": latency, "ratio": each, "throughput_per_s": 12345.0})
        for name, each in zip(names, (None, ratio), strict=True)
    }
    console = Console(width=width)
    with console.capture() as shown:
        console.print(tables.draw_timings(measured))
    for whole in ("10.163", "10.159–10.167", "10.171", "12.193", "12345", "onnxruntime"):
        assert shown.get().count(whole) == 2, whole
    assert "1.25×" in shown.get()
    assert "faster" in shown.get()


def test_bench_says_once_why_percentiles_are_missing(timing: FileTiming) -> None:
    """A percentile from too few calls is a dash, and the table says below it from how many on it is told."""
    few = timing.latency_ms.model_copy(
        update={"p90": 3.25, "p99": None, "percentiles_missing": "p99 needs at least 1000 calls"}
    )
    rows = {name: timing.model_copy(update={"latency_ms": few}) for name in ("one.onnx", "two.onnx")}
    console = Console(width=200)
    with console.capture() as shown:
        console.print(tables.draw_timings(rows))
    assert shown.get().count("3.250") == 2
    assert shown.get().count("p99 needs at least 1000 calls") == 1


def test_a_shape_beside_a_bundle_is_refused_where_it_is_another(bundle: Path) -> None:
    """The bundle knows what its files take, and the runtime's own words are no answer."""
    for path in (bundle, bundle / "student-fp32.onnx"):
        with pytest.raises(CompressError, match=r"--shape 1,2,3: .* takes images of \d+,\d+,\d+, as its bundle says; leave"):
            measure_files([path], shape="1,2,3", events=Events())


def test_bench_of_a_lone_file_reads_its_shape(bundle: Path, tmp_path: Path) -> None:
    """A file outside of a bundle is measured on what it says it takes; a shape that is given must be one."""
    lone = Path(shutil.copy(bundle / "student-fp32.onnx", tmp_path))
    assert measure_files([lone], rounds=5, seconds=0.2, events=Events())
    with pytest.raises(CompressError, match="--shape 3,8: is not channels,height,width"):
        measure_files([lone], shape="3,8", events=Events())
    for shape, said in {
        "1,160000,160000": "16 such images take 1526 GiB, more than the 4.00 GiB that are allowed",
        f"1,{'9' * 5000},8": "is not channels,height,width",
    }.items():
        with pytest.raises(CompressError, match=f"--shape {shape}: {said}"):
            measure_files([lone], shape=shape, events=Events())
    assert measure_files([lone], shape="3,8,8", rounds=5, seconds=0.2, events=Events())


def test_bench_against_an_unknown_file(bundle: Path) -> None:
    """The reference must be among what is measured."""
    with pytest.raises(CompressError, match=r"--against student-fp32: is not measured; did you mean 'student-fp32.xml'"):
        measure_files([bundle], against="student-fp32", events=Events())


def test_same_names_are_told_apart(bundle: Path, tmp_path: Path) -> None:
    """Files of one name from two runs are called by their paths."""
    other = shutil.copytree(bundle, tmp_path / "other")
    timings = measure_files([bundle, other], rounds=5, seconds=0.4, events=Events())
    assert str(other / "student-fp32.onnx") in timings
    assert len(timings) == 4
