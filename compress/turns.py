"""Students that take turns, an epoch each, so that what teachers say serves all of them where it is too much to keep.

Where the answers to all views fit the store, the first student keeps them and the others read. Where they do not, every student
would run the teachers through every epoch for itself. But all students of a recipe see the same view in the same epoch: trained
in turns, the first computes the answers to it, the others read them, and they are deleted. A student that waits is one that was
interrupted: its state is on disk, and it goes on with the same bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from compress import engines, students, targets, teaching, trainer, training
from compress.files import writable
from compress.methods._method import Method
from compress.models._network import Network
from compress.reading import few, read_by
from compress.recipe import MethodSection
from compress.work import Trained, Turn, Work

ANSWERS = ".answers"
SWEEP_SECONDS = 5.0
"""Teachers that answer a whole view in less are asked by every student: to begin a turn costs a second or two."""


class _Waiting(NamedTuple):
    """A student among those that take turns."""

    work: Work
    name: str
    methods: Sequence[MethodSection]


@contextmanager
def taken(works: Sequence[Work], teachers: Sequence[Trained]) -> Iterator[list[Work]]:
    """Train the students of all seeds in turns, where that pays, up to their last epoch, which is trained with what is given.

    Args:
        works: Of each seed.
        teachers: Whom all students ask.

    Raises:
        Interrupted: The user stopped; the same call continues.
    """
    first = works[0]
    answers, epochs = first.folder / ANSWERS, first.recipe.train.epochs
    named = [each for each in students.named(first.recipe) if _is_too_much(first, each[1], teachers)]
    waiting = [_Waiting(work, *each) for work in works for each in named]
    if len(waiting) < 2:
        _empty(answers)  # of an earlier run that was interrupted
        yield list(works)
        return
    names = frozenset(name for name, _ in named)
    first.events.say(
        f"{len(waiting)} students take turns of one epoch: the teachers' answers to all views are more than targets.max_gib, "
        "those to one view serve all"
    )
    behind = dict.fromkeys(range(len(waiting)), 0)
    with first.events.task("students, in turns", len(waiting) * (epochs - 1)) as task:
        for epoch in range(1, epochs):
            due = [place for place, done in behind.items() if done < epoch]  # one that was interrupted may be far ahead
            for place in due:
                done = _epochs_done(waiting[place], Turn(epoch, names, answers), teachers)
                task.advance(min(done, epochs - 1) - behind[place])
                behind[place] = done
            if due and min(behind.values()) == epoch:
                _empty(answers)
    yield [replace(work, turn=Turn(epochs, names, answers)) for work in works]
    _empty(answers)


def _epochs_done(student: _Waiting, turn: Turn, teachers: Sequence[Trained]) -> int:
    """Let a student have a turn, and return how many epochs it has behind it."""
    try:
        training.student(replace(student.work, turn=turn), student.name, student.methods, teachers)
    except trainer.Paused as paused:
        return paused.epochs
    return student.work.recipe.train.epochs


def _empty(answers: Path) -> None:
    if answers.is_dir():
        with writable(answers):
            shutil.rmtree(answers)


def _is_too_much(work: Work, methods: Sequence[MethodSection], teachers: Sequence[Trained]) -> bool:
    """Return whether answers for a student must be computed again and again, and those to one view could be kept."""
    wanted = work.recipe.targets.store == "auto" and work.recipe.train.engine == "eager" and work.readers > 1
    stage = training.in_common(work, methods, teachers) if wanted else None
    return stage is not None and _pays(work, stage)


def _pays(work: Work, stage: Method) -> bool:
    """Return whether all views are too many for the store, one is not, and it takes the teachers long enough."""
    settings, section = stage.schedule(work.recipe.train), work.recipe.targets
    batches = work.shuffled(work.data.train, settings, seed=0)
    batch = next(batches.epoch(0))
    images, signals = batch.images, read_by(stage, few(batch))
    if not signals:
        return False
    networks = [teacher for teacher in stage.teachers if isinstance(teacher, Network)]
    ask = engines.eager(engines.Answering(networks, signals), trainer.DTYPES[settings.precision])
    bytes_per_view = targets.bytes_per_image(ask(images[: teaching.PROBE_IMAGES]), section) * batches.rows
    views, store = {batches.view(epoch) for epoch in range(settings.epochs)}, work.cache.folder / teaching.FOLDER
    all_views, one = (targets.obstacle(store, section, bytes_per_view=bytes_per_view, views=count) for count in (len(views), 1))
    return bool(all_views) and not one and engines.seconds(ask, images) * len(batches) > SWEEP_SECONDS
