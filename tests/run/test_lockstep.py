"""Students in lockstep: one sweep of the teachers for all of them, and the weights that each would have alone."""

from __future__ import annotations

import io
import itertools
import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from compress import recipe
from compress.errors import Interrupted
from compress.events import Events
from compress.records import StageResult, read
from compress.run import lockstep, seeds, stage
from compress.run.context import open_run
from compress.run.teachers import obtain_teacher

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("time_once")]

EPOCHS = 4
FEATURES = (
    "teacher={model: resnet_cifar.resnet8, train: {epochs: 6, lr: 5e-2, batch_size: 32}}", "method={name: fitnet}",
    "baselines=[kd]", "data.crop_padding=1", "data.train_images=256", f"train.epochs={EPOCHS}", "train.batch_size=64",
)  # fmt: skip
"""New views in every epoch: for features all of them are more than `FEW` holds, one is not; the logits all fit."""
FEW = "teacher_outputs.max_gib=0.0005"
SEEDS = (3, 4, 5)


@pytest.fixture(autouse=True)
def slow_teachers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The teachers of these tests are small, and not worth a lockstep."""
    monkeypatch.setattr(lockstep, "WORTH_LOCKSTEP_MACS", {"cpu": 0})


def run(where: Path, tiny_recipe: str, *overrides: str, events: Events | None = None) -> None:
    """Train all students of a recipe as `compress run --seeds` does, and nothing after that."""
    parsed = recipe.parse(tiny_recipe.encode(), "tiny.yaml", (*FEATURES, *overrides))
    with open_run(parsed, base=where, runs=where, events=events or Events(), seeds=len(SEEDS)) as work:
        teachers = [obtain_teacher(work, index, section) for index, section in enumerate(parsed.teacher)]
        with lockstep.train_in_lockstep(seeds.split_by_seed(work, SEEDS), teachers) as ready:
            for each in ready:
                seeds.train_students(each, teachers)


def students(where: Path) -> dict[str, bytes]:
    """Return the weights of each student of each seed, as bytes."""
    paths = sorted(path for path in (where / "tiny").rglob("weights.safetensors") if "teacher" not in str(path))
    tensors = {str(path.parent.relative_to(where)): load_file(path) for path in paths}
    return {name: b"".join(value.numpy().tobytes() for _, value in sorted(found.items())) for name, found in tensors.items()}


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: str) -> Path:
    """A folder of runs in which the teacher is trained, and nobody else."""
    where = tmp_path_factory.mktemp("taught")
    parsed = recipe.parse(tiny_recipe.encode(), "tiny.yaml", FEATURES)
    with open_run(parsed, base=where, runs=where, events=Events()) as work:
        obtain_teacher(work, 0, parsed.teacher[0])
    shutil.rmtree(where / "tiny")
    return where


@pytest.fixture(scope="module")
def alone(taught: Path, tmp_path_factory: pytest.TempPathFactory, tiny_recipe: str) -> Path:
    """A run in which all outputs are kept and each student trains to its end."""
    where = shutil.copytree(taught, tmp_path_factory.mktemp("alone") / "runs")
    torch.set_num_threads(1)  # as in every test: the last bits depend on it
    run(where, tiny_recipe)
    assert len(students(where)) == 2 * len(SEEDS)
    return where


@pytest.fixture
def runs(taught: Path, tmp_path: Path) -> Path:
    """A folder of runs of its own, in whose cache the teacher is."""
    return shutil.copytree(taught, tmp_path / "runs")


class Listening(Events):
    """Hears everything, and stops at the nth event that has these fields."""

    def __init__(self, at: int = 0, **fields: object) -> None:
        self.text = io.StringIO()
        super().__init__(console=Console(file=self.text, width=300))
        self.left, self.fields = at, fields

    def emit(self, event: str, **fields: object) -> None:
        super().emit(event, **fields)
        if self.fields and self.fields.items() <= {"event": event, **fields}.items():
            self.left -= 1
            if not self.left:
                raise Interrupted("stopped by the test")


def folders(where: Path) -> list[Path]:
    """Return the folder of each seed."""
    return [where / "tiny", *(where / "tiny" / "seeds" / str(seed) for seed in SEEDS[1:])]


def outputs(where: Path) -> list[Path]:
    """Return the files of outputs that students in lockstep have on disk."""
    return list((where / ".cache" / "teacher_outputs" / lockstep.FOLDER_OF_VIEWS).rglob("*.npy"))


def sweeps(where: Path) -> list[int]:
    """Return how many views each student with features computed, by seed."""
    taught = [read(folder / "student" / "metrics.json", StageResult).teacher_outputs[0] for folder in folders(where)]
    assert {each.store for each in taught} == {"kept, one view at a time"}
    assert {each.views for each in taught} == {EPOCHS}
    assert all(each.max_abs_error > 0 for each in taught)
    return [each.views_computed for each in taught]


def test_students_in_turns_are_those_that_trained_alone(alone: Path, runs: Path, tiny_recipe: str) -> None:
    """The same bytes for every seed; each view is computed once, is never kept beside another, and nothing stays behind."""
    heard = Listening()
    run(runs, tiny_recipe, FEW, events=heard)
    assert students(runs) == students(alone)
    assert sweeps(runs) == [EPOCHS, 0, 0]
    assert not outputs(runs)
    said = heard.text.getvalue()
    assert said.count("3 students are trained in lockstep, one epoch each") == 1  # not the baseline, whose outputs fit
    assert said.count("student: trains") == said.count("student, seed 4: trains") == 1
    assert "continues in epoch" not in said
    assert "not kept" not in said
    events = [json.loads(line) for line in (runs / "tiny" / "events.jsonl").read_text().splitlines()]
    epochs = [(event["epoch"], event["stage"]) for event in events if event["event"] == "epoch" and "student" in event["stage"]]
    assert [epoch for epoch, _ in epochs] == sorted(epoch for epoch, _ in epochs)
    again = Listening()
    run(runs, tiny_recipe, FEW, events=again)
    assert again.text.getvalue().count("student: ") == 1  # found, and said once
    assert "in lockstep, one epoch each" not in again.text.getvalue()


@pytest.mark.parametrize("at", [1, 6, 9, 20, 38])
def test_a_run_that_is_stopped_in_any_turn_continues(
    alone: Path, runs: Path, tiny_recipe: str, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at the nth time that somebody looks whether to, and repeated: weights and epochs of a run without a stop."""
    looks = itertools.count(1)
    with monkeypatch.context() as patch:
        patch.setattr(stage, "catch_stop_request", lambda _events: nullcontext(lambda: next(looks) == at))
        with pytest.raises(Interrupted):
            run(runs, tiny_recipe, FEW, "baselines=[]")
    heard = Listening()
    run(runs, tiny_recipe, FEW, events=heard)
    assert students(runs) == students(alone)
    for folder in folders(runs):
        assert [epoch.epoch for epoch in read(folder / "student" / "metrics.json", StageResult).epochs] == [1, 2, 3, 4]
    assert sum(sweeps(runs)) == EPOCHS
    assert not outputs(runs)


def test_only_one_view_is_on_disk(runs: Path, tiny_recipe: str) -> None:
    """However many epochs there are, the outputs take no more than those for one view."""
    seen: list[int] = []

    class Watching(Events):
        def emit(self, event: str, **fields: object) -> None:
            super().emit(event, **fields)
            if event == "epoch" and str(fields["stage"]).startswith("student"):
                seen.append(len(outputs(runs)))

    run(runs, tiny_recipe, FEW, "baselines=[]", events=Watching())
    assert len(seen) == EPOCHS * len(SEEDS)
    assert set(seen) == {1}


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param((FEW, "teacher_outputs.store=off"), id="nothing is to be kept"),
        pytest.param(("teacher_outputs.max_gib=1e-6",), id="one view is too much as well"),
        pytest.param(("method={name: kd}",), id="all views fit"),
        pytest.param((FEW, "method={name: supervised}"), id="nobody is asked"),
    ],
)
def test_nobody_takes_turns_for_nothing(overrides: tuple[str, ...], runs: Path, tiny_recipe: str) -> None:
    """Each student trains to its end, and what an interrupted run left of its lockstep is gone."""
    left = runs / ".cache" / "teacher_outputs" / lockstep.FOLDER_OF_VIEWS / "tiny" / "view"
    left.mkdir(parents=True)
    heard = Listening()
    run(runs, tiny_recipe, "baselines=[]", *overrides, events=heard)
    assert "in lockstep, one epoch each" not in heard.text.getvalue()
    assert not left.exists()


def test_quick_teachers_are_asked_again(runs: Path, tiny_recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where computing the outputs takes less than changing students, every student computes its own."""
    monkeypatch.undo()
    heard = Listening()
    run(runs, tiny_recipe, FEW, "baselines=[]", events=heard)
    assert "in lockstep, one epoch each" not in heard.text.getvalue()
    assert heard.text.getvalue().count("outputs of the teacher are not kept: 4 views") == len(SEEDS)
