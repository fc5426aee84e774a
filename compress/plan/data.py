"""What a recipe makes of its data, by the numbers of images alone: classes, validation images, batches, steps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from compress.data import Split, Summary, hold_out, list_names, refuse_duplicates
from compress.errors import CompressError
from compress.plan.checks import count_split_images
from compress.plan.method_choice import find_steps_notes
from compress.recipe import Recipe, TrainSection
from compress.statistics.paired_drop import compute_drop_interval, count_images_needed
from compress.tasks import CLASSIFICATION, Task
from compress.text import name_teacher, quantify

MOST_DROPPED = 0.1
"""Share of the training images that the last incomplete batch of an epoch may be before it is worth a word."""


def find_class_problems(recipe: Recipe, summary: Summary) -> Iterator[CompressError]:
    """Yield classes that cannot be learnt, tested, or told apart by name."""
    try:
        refuse_duplicates("data", summary.classes)
    except CompressError as error:
        yield error
    if summary.train_counts is None or summary.test_counts is None:
        return
    pairs = zip(summary.classes, summary.train_counts, summary.test_counts, strict=True)
    untaught = [name for name, train, test in pairs if train == 0 and test > 0]
    if untaught:
        yield CompressError(
            f"data: {quantify(len(untaught), 'class has', 'classes have')} test images and no training image: "
            f"{list_names(untaught)}; give training images, or take the test images away"
        )
    if any(0 < count * recipe.data.validation_fraction < 1 for count in summary.train_counts):
        yield from _find_validation_problems(recipe, summary)


def _find_validation_problems(recipe: Recipe, summary: Summary) -> Iterator[CompressError]:
    """Yield the class that is left without training or validation images, found as a run finds it."""
    labels = np.repeat(np.arange(len(summary.classes)), np.array(summary.train_counts))
    pictures = Split(np.empty((len(labels), 0, 0, 1), np.uint8), labels)
    try:
        hold_out(pictures, fraction=recipe.data.validation_fraction, seed=recipe.seed, classes=summary.classes)
    except CompressError as error:
        yield CompressError(f"data.validation_fraction: {error}")


def find_data_notes(recipe: Recipe, summary: Summary, task: Task = CLASSIFICATION) -> Iterator[str]:
    """Yield what somebody should know of the data before hours are spent."""
    yield from (f"data: {note}" for note in summary.notes)
    yield from _describe_empty_classes(summary)
    images = count_split_images(recipe, summary)
    if task.name == CLASSIFICATION.name:  # of other metrics the images say how sure their drop is
        yield from _describe_validation(recipe, images["validation"], summary.train_images)
    for where, train in _list_trainings(recipe):
        yield from _describe_batches(where, train, images["train"])
    yield from find_steps_notes(recipe, images["train"])


def _describe_empty_classes(summary: Summary) -> Iterator[str]:
    if summary.train_counts is None or summary.test_counts is None:
        return
    pairs = list(zip(summary.classes, summary.train_counts, summary.test_counts, strict=True))
    empty = [name for name, train, test in pairs if train == 0 and test == 0]
    untested = [name for name, train, test in pairs if train > 0 and test == 0]
    if empty:
        yield (
            f"data: {len(empty)} of {len(pairs)} classes have no image in any split: {list_names(empty)}; the networks still "
            "get an output for each, and a teacher must have them, too"
        )
    if untested:
        yield (
            f"data: {len(untested)} of {len(pairs)} classes have no test image: {list_names(untested)}; the report cannot say "
            "how well they are recognised"
        )


def _describe_validation(recipe: Recipe, validation: int, train: int) -> Iterator[str]:
    """Yield how many validation images the gate's budget asks for, by the interval that the gate states."""
    budget = recipe.gate.max_top1_drop_points
    if not recipe.exports or budget <= 0 or validation < 1:
        return
    most = compute_drop_interval(0, 0, validation)[1]
    if most <= budget:
        return
    needed = count_images_needed(0, 0, validation, budget)
    enough = "" if needed is None else f"; {needed} would"
    fraction = "" if needed is None or needed >= train / 2 else f" (data.validation_fraction: {_round_up(needed / train)})"
    yield (
        f"gate: {validation} validation images cannot exclude a drop of up to {most:.2g} points even where no answer changes, "
        f"and gate.max_top1_drop_points is {budget:g}{enough}{fraction}; hold out more, add images, or allow more"
    )


def _round_up(share: float) -> float:
    return float(np.ceil(100 * share) / 100)


def _list_trainings(recipe: Recipe) -> Iterator[tuple[str, TrainSection]]:
    """Yield each section that trains something, with the name of its field."""
    yield "train", recipe.train
    for index, teacher in enumerate(recipe.teacher):
        if teacher.train is not None:
            yield f"{name_teacher(index, len(recipe.teacher), separator='.')}.train", teacher.train


def find_batch_problems(recipe: Recipe, summary: Summary) -> Iterator[CompressError]:
    """Yield batches of which there is not one in an epoch."""
    images = count_split_images(recipe, summary)["train"]
    for where, train in _list_trainings(recipe):
        if train.batch_size > images:
            yield CompressError(f"{where}.batch_size: {train.batch_size} is more than the {images} training images; lower it")


def _describe_batches(where: str, train: TrainSection, images: int) -> Iterator[str]:
    """Yield that the last incomplete batch is a large part of the images, and that an average never leaves its start."""
    left = images % train.batch_size
    if left >= MOST_DROPPED * images:
        better = choose_batch_size(train.batch_size, images)
        yield (
            f"{where}.batch_size: {train.batch_size} leaves {left} of {images} training images out of every epoch, other ones "
            f"each time, as the last incomplete batch is dropped; {better} would leave out {images % better}"
        )
    steps = train.epochs * (images // train.batch_size)
    if train.ema_decay is not None and steps and train.ema_decay**steps > 0.5:
        yield (
            f"{where}.ema_decay: after {quantify(steps, 'step')} the average of {train.ema_decay:g} is still "
            f"{100 * train.ema_decay**steps:.0f} % of the first step's weights; lower it, or train longer"
        )


def choose_batch_size(batch_size: int, images: int) -> int:
    """Return the size near the wanted one, and no larger, that leaves out the fewest images; of several the largest."""
    near = range(min(batch_size, images), max(1, batch_size // 2), -1)
    return min(near, key=lambda size: (images % size, -size))
