"""Train students in lockstep, one epoch each, so that teacher outputs serve all of them where they are too large to store.

Where the outputs for all views fit the store, the first student stores them and the others read. Where they do not, every
student would run the teachers through every epoch for itself. But all students of a recipe see the same view in the same epoch:
trained in lockstep, the first has the outputs for it computed, the others read them, and they are deleted. A student that waits
is one that was interrupted: its state is on disk, and it continues as if it had never stopped. Outputs that are read are
rounded as the store rounds them, like those that are stored for all views.
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
from compress.run.context import Lockstep, Run, Trained
from compress.run.seeds import list_students
from compress.run.students import find_shared_stage, train_student
from compress.system.files import writable
from compress.teachers import engines
from compress.teachers.provider import FOLDER
from compress.teachers.signals import find_required_signals, take_first_images
from compress.teachers.store import count_bytes_per_image, find_obstacle
from compress.training import loop

FOLDER_OF_VIEWS = "lockstep"
"""In the store: outputs for the view of one epoch, a folder for each run."""
WORTH_LOCKSTEP_MACS = {"cpu": 3e11, "cuda": 3e14}
"""Multiply-accumulates of the teachers for one view from which on lockstep pays: some seconds of the device, where changing the
student costs one or two. A fixed number instead of a timing, so that results do not depend on the load of the machine."""


class _Member(NamedTuple):
    """A student among those that are trained in lockstep."""

    run: Run
    name: str
    methods: Sequence[MethodSection]
    epochs: int


@contextmanager
def train_in_lockstep(runs: Sequence[Run], teachers: Sequence[Trained]) -> Iterator[list[Run]]:
    """Train the students of all seeds in lockstep, where that pays, up to their last epoch; it is trained with the given runs.

    Args:
        runs: The run of each seed.
        teachers: The teachers, whose outputs all students read.

    Yields:
        The runs with which the students are trained to their end.

    Raises:
        Interrupted: The user stopped; the same call continues.
    """
    first = runs[0]
    outputs = first.cache.folder / FOLDER / FOLDER_OF_VIEWS / first.folder.name
    named = {
        name: epochs
        for name, methods in list_students(first.recipe)
        if (epochs := _count_epochs_in_lockstep(first, methods, teachers))
    }
    members = [
        _Member(run, name, methods, named[name])
        for run in runs
        for name, methods in list_students(first.recipe)
        if name in named
    ]
    continues = False
    try:
        if len(members) < 2:
            yield list(runs)
            return
        _train_until_last_epoch(members, teachers, outputs, first.events)
        epochs = max(named.values())
        _delete_outputs_before(epochs, outputs)
        last = Lockstep(None, frozenset(named), outputs / _name_folder(epochs))
        yield [replace(run, lockstep=last) for run in runs]
    except (Interrupted, KeyboardInterrupt):
        continues = True
        raise
    finally:
        if not continues:
            _delete(outputs)


def _train_until_last_epoch(members: Sequence[_Member], teachers: Sequence[Trained], outputs: Path, events: Events) -> None:
    """Train all students in lockstep until each has one epoch left."""
    names = frozenset(student.name for student in members)
    epochs, is_announced = [0] * len(members), False
    with events.task("students, in lockstep", sum(student.epochs - 1 for student in members)) as task:
        for epoch in range(1, max(student.epochs for student in members)):
            _delete_outputs_before(epoch, outputs)
            for place, student in enumerate(members):
                if epochs[place] >= min(epoch, student.epochs - 1):  # one that was interrupted may be ahead
                    continue
                done = _train_epochs(student, Lockstep(epoch, names, outputs / _name_folder(epoch)), teachers)
                if not is_announced and done < student.epochs:
                    is_announced = True
                    events.say(
                        f"{len(members)} students are trained in lockstep, one epoch each: the teachers' outputs for all views "
                        "are more than teacher_outputs.max_gib, those for one view serve all"
                    )
                task.advance(min(done, student.epochs - 1) - epochs[place])
                epochs[place] = done


def _name_folder(epoch: int) -> str:
    """Return the name of the folder for the view of an epoch; the names sort like the epochs."""
    return f"{epoch:06}"


def _train_epochs(student: _Member, lockstep: Lockstep, teachers: Sequence[Trained]) -> int:
    """Train a student up to an epoch, and return how many epochs it has behind it."""
    try:
        train_student(replace(student.run, lockstep=lockstep), student.name, student.methods, teachers)
    except loop.Paused as paused:
        return paused.epochs
    return student.epochs


def _delete_outputs_before(epoch: int, outputs: Path) -> None:
    """Delete the outputs of epochs that all students have behind them, not those that one still reads after an interruption."""
    for old in [path for path in outputs.glob("*") if path.name < _name_folder(epoch)]:
        _delete(old)


def _delete(folder: Path) -> None:
    if folder.is_dir():
        with writable(folder):
            shutil.rmtree(folder)


def _count_epochs_in_lockstep(run: Run, methods: Sequence[MethodSection], teachers: Sequence[Trained]) -> int:
    """Return for how many epochs a student trains in lockstep with others, or 0 if it is trained alone."""
    section = run.recipe.teacher_outputs
    wanted = section.store == "auto" and section.engine not in engines.BY_NAME_ALONE and run.recipe.train.engine == "eager"
    stage = find_shared_stage(run, methods, teachers) if wanted and run.readers > 1 else None
    if stage is None:
        return 0
    settings = stage.schedule(run.recipe.train)
    return settings.epochs if settings.epochs > 1 and _is_worth_lockstep(run, stage, settings) else 0


def _is_worth_lockstep(run: Run, stage: Method, settings: TrainSection) -> bool:
    """Return whether all views are too many for the store, one is not, and computing it is worth sharing."""
    batches = run.batch_shuffled(run.select_training_images(stage), settings, seed=0)
    first = take_first_images(next(batches.epoch(0)))
    signals = find_required_signals(stage, first)
    if not signals:
        return False
    networks = [teacher for teacher in stage.teachers if isinstance(teacher, Network)]
    joint = engines.JointTeachers(networks, signals)
    probe = engines.build_eager(joint, loop.DTYPES[settings.precision])(first.images)
    bytes_per_view = count_bytes_per_image(probe, run.recipe.teacher_outputs) * batches.rows
    views, store = {batches.view(epoch) for epoch in range(settings.epochs)}, run.cache.folder / FOLDER
    all_views, one = (
        find_obstacle(store, run.recipe.teacher_outputs, bytes_per_view=bytes_per_view, views=count)
        for count in (len(views), 1)
    )
    macs = count_macs(joint, first.images[:1]) * batches.rows
    return bool(all_views) and not one and macs >= WORTH_LOCKSTEP_MACS[run.device.type]
