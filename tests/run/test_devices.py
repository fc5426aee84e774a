"""A run whose recipe names devices: gate, accuracy and latency on each, beside this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks import report as reporting
from benchmarks.devices import Device, Progress
from benchmarks.devices._remote import Remote, ledger
from benchmarks.devices.local import Local
from compress import recipe
from compress.errors import CompressError, GateFailed, Unreachable
from compress.events import Events
from compress.plan.devices import find_device_problems
from compress.records import Report, read
from compress.run import pipeline
from compress.run.devices import select_test_images
from exporters.bundle.bundle import check_bundle
from tests.benchmarks.boards import Shell
from tests.deployed.brightness import invoke

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_runners")]


class Wrong(Local):
    """A board whose processor turns every answer round."""

    def run(self, job: Path, *, timeout_seconds: float, progress: Progress) -> None:
        super().run(job, timeout_seconds=timeout_seconds, progress=progress)
        if (job / "logits.npy").is_file():
            np.save(job / "logits.npy", -np.load(job / "logits.npy"))


class Gone(Local):
    """A board that nobody answers for."""

    def run(self, job: Path, *, timeout_seconds: float, progress: Progress) -> None:  # noqa: ARG002 (the contract's)
        raise Unreachable("gone: does not answer; plug it in")


class Emulated(Local):
    """This machine, as if it were emulated: it refuses to be timed."""

    emulated = True

    def run(self, job: Path, *, timeout_seconds: float, progress: Progress) -> None:
        assert '"measure"' not in (job / "job.json").read_text()
        super().run(job, timeout_seconds=timeout_seconds, progress=progress)


BOARDS: dict[str, type[Local]] = {"wrong": Wrong, "gone": Gone, "emulated": Emulated}


@pytest.fixture
def boards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Devices of this file, by the name that a recipe gives a further `local`; `board` is one over a shell, as over SSH."""
    monkeypatch.setenv(ledger.FOLDER, str(tmp_path / "ledger"))
    (tmp_path / "home").mkdir()

    def open_section(section: recipe.DeviceSection) -> Device:
        if section.name == "board":
            return Remote(Shell(tmp_path / "home"), "ssh://board", "board")
        return BOARDS.get(section.name, Local)()

    monkeypatch.setattr("benchmarks.devices.open_section", open_section)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs that all tests of this module share, so that networks are trained once."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def run(runs: Path, tiny_recipe: str, boards: None) -> Callable[..., Report]:
    """Run the tiny recipe on devices with these names."""

    def go(name: str, *devices: str) -> Report:
        named = ", ".join(f"{{device: local, name: {each}, images: 100}}" for each in devices)
        settings = [f"name={name}", f"measure.devices=[local, {named}]", "baselines=[]"]
        parsed = recipe.parse(tiny_recipe.encode(), "tiny.yaml", settings)
        return pipeline.run(parsed, base=Path(), runs=runs, events=Events())

    return go


def test_each_device_has_its_own_verdict_accuracy_and_latency(run: Callable[..., Report], runs: Path) -> None:
    """What was found elsewhere stands in the report and the bundle, on the images that it says, and moves no headline."""
    record = run("good", "board", "emulated")
    board, emulated = record.devices
    assert (board.name, board.status, emulated.emulated, emulated.status) == ("board", "passed", True, "passed")
    (student,) = (row for row in board.rows if row.network == "student")
    assert (student.device, student.accuracy.samples, student.validation) == ("board", 100, None)
    assert student.latency_ms.p50 > 0
    assert student.ratio.against in {row.name for row in board.rows}
    assert board.environment.cpu
    beside = board.beside_host[student.name]
    assert (beside.agreement_percent, beside.max_abs_diff, beside.only_here, beside.only_there, beside.p_value) == (
        100,
        0,
        0,
        0,
        1,
    )
    assert [row.latency_ms for row in emulated.rows] == [None]
    assert {row.device for row in record.variants} == {"local"}
    page, text = (runs / "good" / "report.html").read_text(), (runs / "good" / "report.md").read_text()
    assert "emulated, not timed" in page
    assert page.count("<figure>") == 2  # this machine and the board
    assert "### board\n" in text
    assert "### emulated (emulated)\n" in text
    (file,) = check_bundle(runs / "good" / "bundle").files
    assert [row.device for row in file.elsewhere] == ["board", "emulated"]
    assert "| board | `student-fp32.onnx` |" in (runs / "good" / "bundle" / "README.md").read_text()
    assert "On board" in invoke("report", runs / "good").stdout
    (warning,) = (each for each in reporting.compare([record]).warnings if "not ranked" in each)
    assert "board, emulated" in warning


def test_what_a_device_gave_is_found_again(run: Callable[..., Report]) -> None:
    """A second run times nothing anew, and another name is another device."""
    first, again = run("good", "board"), run("good", "board")
    assert again.devices == first.devices
    assert run("good", "other").devices[0].seconds != first.devices[0].seconds


def test_one_device_that_fails_or_is_gone_does_not_stop_the_others(run: Callable[..., Report], runs: Path) -> None:
    """Everything is written before the run ends: with 3 where a file fails on a device, with 5 where one is out of reach."""
    with pytest.raises(GateFailed, match=r"rejected/student-fp32.onnx: failed on wrong: .*agreement"):
        run("bad", "gone", "wrong", "board")
    record = read(runs / "bad" / "report.json", Report)
    assert {each.name: each.status for each in record.devices} == {"gone": "unreachable", "wrong": "failed", "board": "passed"}
    assert record.devices[0].reason == "does not answer; plug it in"
    assert not (runs / "bad" / "bundle").exists()
    assert "failed on wrong" in (runs / "bad" / "report.md").read_text()
    with pytest.raises(Unreachable, match=r"\Agone: does not answer; plug it in\neverything else is in .*report.html\Z"):
        run("away", "gone", "board")
    assert (runs / "away" / "bundle").is_dir()
    assert [each.status for each in read(runs / "away" / "report.json", Report).devices] == ["unreachable", "passed"]


def test_the_images_of_a_device_are_spread_over_the_split() -> None:
    """Sorted test sets lend a device images of every class; `all` means all."""
    assert select_test_images(10, 3).tolist() == [0, 4, 9]
    assert select_test_images(3, 10).tolist() == select_test_images(3, "all").tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ("[quemu:aarch64]", r"measure.devices.*there is no 'quemu'; did you mean 'qemu'"),
        ("[qemu:aarch65]", r"measure.devices.0: qemu:aarch65: is no architecture that can be emulated"),
        ("[{device: qemu, at: ssh://pi}]", r"measure.devices.0: ssh://pi: is no address of the device 'qemu'; write qemu:"),
        ("[local, local]", r"measure.devices.1: is called local like measure.devices.0; remove one, or give it another `name`"),
        ("[{device: local, name: pi, files: [techer-*]}]", r"measure.devices.0.files: no file is called 'techer-\*'"),
        ("[{device: qemu, at: qemu:aarch64, sustained_minutes: 5}]", r"sustained_minutes: unknown field"),
    ],
)
def test_what_contradicts_is_refused_before_anything_is_trained(
    devices: str, message: str, tiny_recipe: str, tmp_path: Path
) -> None:
    """Slips in addresses, doubles, and files that do not exist are answered at once."""

    def begin() -> None:
        parsed = recipe.parse(tiny_recipe.encode(), "tiny.yaml", [f"measure.devices={devices}"])
        pipeline.run(parsed, base=Path(), runs=tmp_path, events=Events())

    with pytest.raises(CompressError, match=message):
        begin()
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_meter_for_nothing_is_refused_before_anything_is_trained(tiny_recipe: str) -> None:
    """Whoever names one wants energy; with `energy` it is taken."""
    said = [
        str(problem)
        for settings in (["measure.meter=/home/pi/meter"], ["measure.meter=/home/pi/meter", "measure.energy=true"])
        for problem in find_device_problems(recipe.parse(tiny_recipe.encode(), "tiny.yaml", settings))
    ]
    assert said == ["measure.meter: tells power, and no energy is measured; write measure.energy: true, or remove it"]


def test_files_that_no_runtime_there_can_run_are_refused(
    tiny_recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An architecture without the only runtime that the files need, and one that is not prepared, are both said."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings = ["measure.devices=[qemu:armv7]", "exports=[{format: openvino}]"]
    parsed = recipe.parse(tiny_recipe.encode(), "tiny.yaml", settings)
    with pytest.raises(CompressError) as caught:
        pipeline.run(parsed, base=Path(), runs=tmp_path, events=Events())
    assert "qemu:armv7 has onnxruntime, and the files need openvino; export a format that it can run" in str(caught.value)
    assert "qemu:armv7: is not prepared; compress device prepare qemu:armv7" in str(caught.value)
