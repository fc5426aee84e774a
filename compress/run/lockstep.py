"""Students that take turns, an epoch each, so that what teachers say serves all of them where it is too much to keep.

Where the answers to all views fit the store, the first student keeps them and the others read. Where they do not, every student
would run the teachers through every epoch for itself. But all students of a recipe see the same view in the same epoch: trained
in turns, the first has the answers to it computed, the others read them, and they are deleted. A student that waits is one that
was interrupted: its state is on disk, and it goes on as if it had never stopped. Answers that are read are rounded as the store
rounds them, like those that are kept for all views.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from compress.errors import Interrupted
from compress.events import Events
from compress.methods import Method
from compress.models import Network, count_macs
from compress.recipe import MethodSection, TrainSection
from compress.run import seeds as students
from compress.run.context import Run, Trained, Turn
from compress.run.students import find_shared_stage, train_student
from compress.system.files import writable
from compress.teachers import engines
from compress.teachers.provider import FOLDER
from compress.teachers.signals import find_required_signals, take_first_images
from compress.teachers.store import count_bytes_per_image, find_obstacle
from compress.training import loop

ANSWERS = "turns"
WORTH_MACS = {"cpu": 3e11, "cuda": 3e14}
"""Multiply-accumulate operations of the teachers for one view from which on turns are taken: some seconds of the device, where
beginning a turn costs one or two. It is no trial, for whether answers are rounded must not depend on a machine's mood."""


class _Waiting(NamedTuple):
    """A student among those that take turns."""

    run: Run
    name: str
    methods: Sequence[MethodSection]
    epochs: int


@contextmanager
def train_in_lockstep(runs: Sequence[Run], teachers: Sequence[Trained]) -> Iterator[list[Run]]:
    """Train the students of all seeds in turns, where that pays, up to their last epoch, which is trained with what is given.

    Args:
        runs: Of each seed.
        teachers: Whom all students ask.

    Raises:
        Interrupted: The user stopped; the same call continues.
    """
    first = runs[0]
    answers = first.cache.folder / FOLDER / ANSWERS / first.folder.name
    named = {
        name: epochs
        for name, methods in students.list_students(first.recipe)
        if (epochs := _count_epochs_in_lockstep(first, methods, teachers))
    }
    waiting = [
        _Waiting(run, name, methods, named[name])
        for run in runs
        for name, methods in students.list_students(first.recipe)
        if name in named
    ]
    continues = False
    try:
        if len(waiting) < 2:
            yield list(runs)
            return
        _train_until_last_epoch(waiting, teachers, answers, first.events)
        epochs = max(named.values())
        _empty_before(epochs, answers)
        last = Turn(None, frozenset(named), answers / _folder(epochs))
        yield [replace(run, turn=last) for run in runs]
    except (Interrupted, KeyboardInterrupt):
        continues = True
        raise
    finally:
        if not continues:
            _empty(answers)


def _train_until_last_epoch(waiting: Sequence[_Waiting], teachers: Sequence[Trained], answers: Path, events: Events) -> None:
    """Let all students train in turns until each has one epoch left."""
    names = frozenset(student.name for student in waiting)
    behind, said = [0] * len(waiting), False
    with events.task("students, in turns", sum(student.epochs - 1 for student in waiting)) as task:
        for epoch in range(1, max(student.epochs for student in waiting)):
            _empty_before(epoch, answers)
            for place, student in enumerate(waiting):
                if behind[place] >= min(epoch, student.epochs - 1):  # one that was interrupted may be ahead
                    continue
                done = _train_turn(student, Turn(epoch, names, answers / _folder(epoch)), teachers)
                if not said and done < student.epochs:
                    said = True
                    events.say(
                        f"{len(waiting)} students take turns of one epoch: what the teachers say of all views is more than "
                        "teacher_outputs.max_gib, what they say of one view serves all"
                    )
                task.advance(min(done, student.epochs - 1) - behind[place])
                behind[place] = done


def _folder(epoch: int) -> str:
    return f"{epoch:06}"


def _train_turn(student: _Waiting, turn: Turn, teachers: Sequence[Trained]) -> int:
    """Let a student have a turn, and return how many epochs it has behind it."""
    try:
        train_student(replace(student.run, turn=turn), student.name, student.methods, teachers)
    except loop.Paused as paused:
        return paused.epochs
    return student.epochs


def _empty_before(epoch: int, answers: Path) -> None:
    """Delete the answers of epochs that all have behind them, but not those of which an interruption left readers."""
    for old in [path for path in answers.glob("*") if path.name < _folder(epoch)]:
        _empty(old)


def _empty(folder: Path) -> None:
    if folder.is_dir():
        with writable(folder):
            shutil.rmtree(folder)


def _count_epochs_in_lockstep(run: Run, methods: Sequence[MethodSection], teachers: Sequence[Trained]) -> int:
    """Return for how many epochs a student trains if it is one that takes turns, or 0."""
    section = run.recipe.teacher_outputs
    wanted = section.store == "auto" and section.engine not in engines.BY_NAME_ALONE and run.recipe.train.engine == "eager"
    stage = find_shared_stage(run, methods, teachers) if wanted and run.readers > 1 else None
    if stage is None:
        return 0
    settings = stage.schedule(run.recipe.train)
    return settings.epochs if settings.epochs > 1 and _pays(run, stage, settings) else 0


def _pays(run: Run, stage: Method, settings: TrainSection) -> bool:
    """Return whether all views are too many for the store, one is not, and to answer it is work for the teachers."""
    batches = run.batch_shuffled(run.data.train, settings, seed=0)
    some = take_first_images(next(batches.epoch(0)))
    signals = find_required_signals(stage, some)
    if not signals:
        return False
    networks = [teacher for teacher in stage.teachers if isinstance(teacher, Network)]
    answering = engines.JointTeachers(networks, signals)
    probe = engines.build_eager(answering, loop.DTYPES[settings.precision])(some.images)
    bytes_per_view = count_bytes_per_image(probe, run.recipe.teacher_outputs) * batches.rows
    views, store = {batches.view(epoch) for epoch in range(settings.epochs)}, run.cache.folder / FOLDER
    all_views, one = (
        find_obstacle(store, run.recipe.teacher_outputs, bytes_per_view=bytes_per_view, views=count)
        for count in (len(views), 1)
    )
    macs = count_macs(answering, some.images[:1]) * batches.rows
    return bool(all_views) and not one and macs >= WORTH_MACS[run.device.type]
