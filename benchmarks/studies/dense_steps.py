"""Cost of training steps where labels are masks: `python -m benchmarks.studies.dense_steps [--rounds 15] [--out FILE]`.

A plain step beside steps of distillation whose teacher's answers are kept, as a recipe's run does them: loader, loop, methods,
store. What counts is the CPU time of this process, on one thread, in interleaved rounds; so other work on the machine, which
takes time from all alike, matters little. A share of 1 is a step that costs as much as a plain one. Takes about two minutes of
one core.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import click
import numpy as np
import torch

from benchmarks.environment import read_environment
from compress import plugins
from compress.data import InMemory, Split
from compress.errors import CompressError
from compress.events import Events
from compress.methods import Method, Setting
from compress.models import Network, build_model
from compress.recipe import TeacherOutputsSection, TrainSection
from compress.records import Document, Environment, Preprocess, Record, save
from compress.tasks import load_task
from compress.teachers.plan import OutputsRequest
from compress.teachers.provider import TeacherOutputs, provide_outputs
from compress.teachers.signals import find_required_signals, take_first_images
from compress.training import loop

OUT = Path(__file__).parents[1] / "results" / "dense_steps.json"
SIZE, CLASSES, BATCH_SIZE, IMAGES, VIEWS = 64, 11, 16, 160, 2
SETTLE, STEPS = 1, 3
"""Steps of a turn that are not counted, and that are."""
TEACHER = "segmenter.small"
STUDENTS: Mapping[str, Mapping[str, Any]] = {
    "segmenter.tiny": {}, "segmenter.any": {"backbone": "torchvision.mobilenet_v3_small"},
}  # fmt: skip
METHODS = ("supervised", "kd", "dist", "cwd")
PREPROCESS = Preprocess(height=SIZE, width=SIZE, channels="rgb", mean=(0.5,) * 3, std=(0.25,) * 3)


class Share(Record):
    """What a plain step costs of a step with kept answers."""

    method: str
    share: float
    """CPU time of the plain step over that of this one, median over rounds."""
    low: float
    """Quartiles over rounds."""
    high: float
    milliseconds: float
    """CPU time of this step, median over rounds."""


class Student(Record):
    """Steps of one student."""

    model: str
    parameters: int
    plain_milliseconds: float
    shares: tuple[Share, ...]


class DenseSteps(Document):
    """The whole study."""

    command: str
    teacher: str
    size: int
    batch_size: int
    rounds: int
    students: tuple[Student, ...]
    environment: Environment


class Arm(NamedTuple):
    """A training that can be continued step by step."""

    steps: Iterator[None]


def study(rounds: int, command: str, events: Events) -> DenseSteps:
    """Measure the steps of each student."""
    torch.set_num_threads(1)
    found = []
    for model, options in STUDENTS.items():
        events.say(model)
        with tempfile.TemporaryDirectory(prefix="edge-compress-") as folder:
            found.append(_measure_student(model, options, Path(folder), rounds))
    return DenseSteps(
        command=command, teacher=TEACHER, size=SIZE, batch_size=BATCH_SIZE, rounds=rounds, students=tuple(found),
        environment=read_environment(),
    )  # fmt: skip


def _measure_student(model: str, options: Mapping[str, Any], folder: Path, rounds: int) -> Student:
    teacher = _build(TEACHER, {}, seed=1).requires_grad_(requires_grad=False).eval()
    arms = {name: Arm(_train(name, _build(model, options, seed=2), teacher, folder)) for name in METHODS}
    spent: dict[str, list[float]] = {name: [] for name in METHODS}
    random = np.random.default_rng(0)
    for number in range(-1, rounds):
        for place in random.permutation(len(METHODS)):
            seconds = _take_turn(arms[METHODS[place]])
            if number >= 0:
                spent[METHODS[place]].append(seconds)
    plain, others = spent["supervised"], [name for name in METHODS if name != "supervised"]
    return Student(
        model=model, parameters=sum(each.numel() for each in _build(model, options, seed=2).parameters()),
        plain_milliseconds=1000 * median(plain), shares=tuple(_compare(name, plain, spent[name]) for name in others),
    )  # fmt: skip


def _compare(name: str, plain: list[float], own: list[float]) -> Share:
    low, middle, high = np.quantile(np.divide(plain, own), (0.25, 0.5, 0.75)).tolist()
    return Share(method=name, share=middle, low=low, high=high, milliseconds=1000 * median(own))


def _take_turn(arm: Arm) -> float:
    """Return the CPU seconds of a step."""
    for _ in range(SETTLE):
        next(arm.steps)
    begun = time.process_time()
    for _ in range(STEPS):
        next(arm.steps)
    return (time.process_time() - begun) / STEPS


def _build(model: str, options: Mapping[str, Any], *, seed: int) -> Network:
    torch.manual_seed(seed)
    return build_model(model, CLASSES, torch.zeros(1, 3, SIZE, SIZE), dict(options))


def _train(name: str, student: Network, teacher: Network, folder: Path) -> Iterator[None]:
    """Train a student without end; each `next` is one step with all that belongs to it."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (IMAGES, SIZE, SIZE, 3), dtype=np.uint8)
    split = Split(images, random.integers(0, CLASSES, (IMAGES, SIZE, SIZE), dtype=np.uint8))
    batches = InMemory(
        split, PREPROCESS, batch_size=BATCH_SIZE, device=torch.device("cpu"), shuffle=True, crop_padding=6, views=VIEWS
    )  # fmt: skip
    teachers = () if name == "supervised" else (teacher,)
    setting = Setting(student, teachers, torch.zeros(1, 3, SIZE, SIZE), CLASSES, task=load_task("segmentation"))
    method: Method = plugins.load("methods", name)(setting)
    settings = TrainSection(batch_size=BATCH_SIZE, epochs=1, optimizer="adamw", lr=1e-3, schedule="constant")
    kept = None if not teachers else _keep_answers(method, batches, folder)
    run = loop._StageTraining(
        method, batches, batches, settings=settings, events=Events(), state=None, title=name, teachers=kept, forward=None
    )
    with run.events.task(name, total=1) as task:
        while True:
            for batch, answers in run.batches():
                run.advance(batch, answers, task)
                yield
            run.epoch, run.step = run.epoch + 1, 0


def _keep_answers(method: Method, batches: InMemory, folder: Path) -> TeacherOutputs:
    signals = find_required_signals(method, take_first_images(next(batches.epoch(0))))
    request = OutputsRequest(
        method, signals, batches, section=TeacherOutputsSection(store="on", engine="eager"), folder=folder, epochs=VIEWS,
        shared=True, autocast=None, events=Events(),
    )  # fmt: skip
    kept = provide_outputs(request)
    for epoch in range(VIEWS):
        kept.prepare_epoch(epoch)
    return kept


@click.command()
@click.option("--rounds", default=15, show_default=True, type=click.IntRange(min=5), help="Interleaved rounds that count.")
@click.option("--out", default=OUT, type=click.Path(dir_okay=False, path_type=Path), help="Where the result goes.")
def main(rounds: int, out: Path) -> None:
    """Compare the CPU time of steps with kept answers of the teacher with that of plain steps."""
    try:
        result = study(rounds, f"python -m benchmarks.studies.dense_steps --rounds {rounds}", Events())
        save(out, result)
    except CompressError as error:
        click.echo(error, err=True)
        sys.exit(error.exit_code)
    for student in result.students:
        click.echo(f"{student.model}: plain {student.plain_milliseconds:.1f} ms of CPU time a step")
        for each in student.shares:
            click.echo(f"  {each.method}: {each.share:.3f} of the speed of a plain step ({each.low:.3f} to {each.high:.3f})")


if __name__ == "__main__":
    main()
