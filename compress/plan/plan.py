"""Plan of a run: every stage that a recipe leads to, in the order in which the run goes through them. Imports no torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from compress import plugins
from compress.data import name_task, read_summary
from compress.errors import CompressError
from compress.plan.checks import (
    choose_storage,
    count_split_images,
    count_unlabelled,
    find_data_problems,
    find_recipe_problems,
    join_problems,
    list_foreign_code,
)
from compress.plan.data import find_batch_problems, find_class_problems, find_data_notes
from compress.plan.devices import describe_devices
from compress.plan.method_stages import list_stages, read_labels
from compress.plan.names import name_baselines, name_methods
from compress.plan.reuse import find_changed_sections, read_last_recipe
from compress.recipe import ExportSection, MethodSection, Recipe, TeacherSection
from compress.records import Record
from compress.tasks import CLASSIFICATION, Task, load_task, name_metric
from compress.text import name_teacher, quantify

if TYPE_CHECKING:
    from compress.data import Source, Summary


class Amount(Record):
    """How much training a stage is, before early stops."""

    epochs: int
    images_per_epoch: int
    """Images that are trained on in one epoch; the last incomplete batch is dropped."""
    trained: int
    """Forward and backward passes of one image through what is trained."""
    teacher: int
    """Forward passes of one image through all teachers."""
    seeds: int = 1
    """How many times it is trained, each counted above."""


class Stage(Record):
    """One part of the run."""

    name: str
    about: str
    trained: str = ""
    frozen: str = ""
    shipped: str = ""
    work: Amount | None = None
    kept: str = ""
    """Folder or file that keeps the result, relative to the run's folder."""
    student: bool = False
    """Whether it trains a student, and so once with every seed."""
    found: bool = False
    """Whether an earlier run left that, by the same sections; it is used again if data and packages are the same."""
    changed: tuple[str, ...] = ()
    """Sections in which the recipe of an earlier run differs, so that what it left is made anew."""


class Estimate(Record):
    """What one step of each stage tells: how long a run takes on this machine as it is now in seconds, and scales of losses."""

    training: dict[str, float]
    """By stage, over all seeds; without those that are found again."""
    delivery: float
    """Exports, proofs and measuring."""
    loss_scales: dict[str, float] = Field(default_factory=dict)
    """By student: the norm of the gradient of what teaches, in that of cross-entropy, on the first batch; of a teacher that is
    not trained yet, with invented logits."""
    warnings: tuple[str, ...] = ()
    """What that says of the learning rate."""


class Plan(Record):
    """The whole run."""

    name: str
    folder: str
    classes: tuple[str, ...]
    images: dict[str, int]
    """Images in each split."""
    stages: tuple[Stage, ...]
    notes: tuple[str, ...] = ()
    estimate: Estimate | None = None
    """How long the run takes; `None` before a step was timed."""
    code: tuple[str, ...] = ()
    """Code of others that the recipe names, and that a run imports: plug-ins and their files."""


def make_plan(recipe: Recipe, *, base: Path, runs: Path) -> Plan:
    """Return what a run of `recipe` will do.

    Args:
        recipe: A loaded recipe.
        base: Folder that the recipe's relative paths start from.
        runs: Folder of all runs.

    Raises:
        CompressError: The recipe contradicts itself or the data; every problem in its own line.
        Unreachable: All that is wrong is that something is not there.
    """
    problems: list[CompressError] = []
    source = plugins.load("data", recipe.data.source)(**recipe.data.options(base))
    try:
        summary = read_summary(source)
    except CompressError as error:
        raise join_problems([error, *find_recipe_problems(recipe, base)]) from error
    problems = [*find_recipe_problems(recipe, base), *find_data_problems(recipe, source, summary, base)]
    unlabelled = 0
    try:
        unlabelled = count_unlabelled(recipe, base)
    except CompressError as error:
        problems.append(error)
    problems += [*find_batch_problems(recipe, summary), *find_class_problems(recipe, summary)]
    if problems:
        raise join_problems(problems)
    folder = runs / recipe.name
    images = count_split_images(recipe, summary)
    task, training = load_task(name_task(source)), _plan_training(recipe, images["train"], unlabelled)
    stages = [_plan_data(recipe, source, summary), *training, *_plan_delivery(recipe, task)]
    return Plan(
        name=recipe.name,
        folder=str(folder),
        classes=summary.classes,
        images=images,
        stages=_find_kept(stages, recipe, base, folder),
        notes=(
            *find_data_notes(recipe, summary, task),
            *_describe_unlabelled(recipe, images["train"], unlabelled),
            *_find_notes(recipe),
        ),
        code=list_foreign_code(recipe),
    )


def _plan_data(recipe: Recipe, source: Source, summary: Summary) -> Stage:
    data = recipe.data
    border = "black border" if data.crop_border == "zero" else "border"
    augmentation = [f"crops from a {border} of {data.crop_padding}"] if data.crop_padding else []
    augmentation += ["mirrored halves"] if data.flip else []
    augmentation += data.augment.describe()
    augmentation += recipe.train.describe_labels()
    about = f"{data.source}: {data.sides[0]}×{data.sides[1]} {source.channels}, {data.geometry}, {data.interpolation}"
    scaling = "given mean and std" if data.mean and data.std else "mean and std of the training split"
    return Stage(name="data", about=", ".join([about, scaling, *augmentation, str(choose_storage(recipe, source, summary))]))


def _describe_unlabelled(recipe: Recipe, train_images: int, count: int) -> Iterator[str]:
    if labels := recipe.data.student_labels:
        yield (
            f"data: students have {quantify(labels, 'label')}, and a teacher that is trained here all {train_images}; plain "
            "training repeats its pictures and takes as many steps"
        )
        count += train_images - labels
    if count:
        yield f"data: {quantify(count, 'picture')} without labels are trained on as well, against the teacher's answers alone"


def _plan_training(recipe: Recipe, train_images: int, unlabelled: int) -> Iterator[Stage]:
    """Yield every stage that trains: teachers, the student's stages, the baselines."""
    for index, teacher in enumerate(recipe.teacher):
        yield _plan_teacher(name_teacher(index, len(recipe.teacher)), teacher, recipe, train_images)
    students = [("", recipe.method), *zip(name_baselines(recipe.baselines), recipe.baselines, strict=True)]
    for name, methods in students:
        sees_all = recipe.data.student_labels is not None or any(each.name != "supervised" for each in methods)
        yield from _plan_students(name, methods, recipe, train_images + sees_all * unlabelled)


def _plan_teacher(name: str, teacher: TeacherSection, recipe: Recipe, train_images: int) -> Stage:
    if teacher.is_given:
        about = f"{teacher.model} with the weights of {teacher.describe_weights()}"
        unknown = "" if teacher.knows_classes else ", which does not know the classes: its maps alone teach"
        return Stage(name=name, about=about + unknown, frozen="everything")
    if teacher.probe is not None:
        work = Amount(epochs=1, images_per_epoch=train_images, trained=0, teacher=train_images)
        about = f"{teacher.model} with the weights of {teacher.describe_weights()}, and a linear probe for the classes here"
        return Stage(name=name, about=about, trained="its classifier", frozen="everything else", work=work, kept=name)
    train = teacher.train or recipe.train
    work = _count_work(train.epochs, train.batch_size, train_images)
    start = f" from {teacher.describe_weights()}" if teacher.has_weights else ""
    part = "its classifier" if train.backbone_lr_scale == 0 else "everything"
    return Stage(name=name, about=f"{teacher.model}{start}, trained on the labels", trained=part, work=work, kept=name)


def _plan_students(baseline: str, methods: Sequence[MethodSection], recipe: Recipe, train_images: int) -> Iterator[Stage]:
    """Yield the preparatory stages of the methods in order, then the one that trains the student."""
    known = [read_labels(method.name) for method in methods]
    teachers = 0 if all(method.name == "supervised" for method in methods) else len(recipe.teacher)
    before = [part.name for method in methods for part in list_stages(method.name, method.options())[:-1]]
    places = itertools.count()
    for method, about in zip(methods, known, strict=True):
        for part, place in zip(list_stages(method.name, method.options())[:-1], places, strict=False):
            numbered = part.name if before.count(part.name) == 1 else f"{part.name}{place}"  # as in the run's folder
            name = f"{baseline}-{numbered}" if baseline else numbered
            if part.generation is None:
                yield _plan_preparation(name, part.name, method, recipe, train_images)
                continue
            yield Stage(
                name=name,
                about=f"{recipe.student.model} by {method.name}, to teach the next",
                trained=about["Trained"],
                frozen=about["Frozen"],
                work=_count_work(recipe.train.epochs, recipe.train.batch_size, train_images, teachers, count_views(recipe)),
                kept=name,
                student=True,
            )
            teachers = 1  # the one before
    yield Stage(
        name=baseline or "student",
        about=f"{recipe.student.model} by {name_methods(methods)}",
        trained=_join_labels(known, "Trained"),
        frozen=_join_labels(known, "Frozen"),
        shipped="nothing, it is for comparison" if baseline else _join_labels(known, "Shipped"),
        work=_count_work(recipe.train.epochs, recipe.train.batch_size, train_images, teachers, count_views(recipe)),
        kept=baseline or "student",
        student=True,
    )


def _plan_preparation(name: str, stage: str, method: MethodSection, recipe: Recipe, train_images: int) -> Stage:
    """Return the stage that trains modules of a method on the teachers."""
    epochs = method.options().get(f"{stage}_epochs", recipe.train.epochs)
    return Stage(
        name=name,
        about=f"what {method.name} needs before the student",
        trained=f"the {stage}",
        frozen="everything else",
        work=_count_work(epochs, recipe.train.batch_size, train_images, len(recipe.teacher), count_views(recipe)),
        kept=name,
    )


def _join_labels(known: Sequence[dict[str, str]], label: str) -> str:
    return "; ".join(dict.fromkeys(about[label] for about in known))


def _count_work(epochs: int, batch_size: int, images: int, teachers: int = 0, views: int | None = None) -> Amount:
    each = images // batch_size * batch_size
    passes = epochs * each if views is None else min(epochs, views) * images  # once for each view that is kept
    return Amount(epochs=epochs, images_per_epoch=each, trained=epochs * each, teacher=teachers * passes)


def count_views(recipe: Recipe) -> int | None:
    """Return the number of views of the training images, if teacher outputs may be stored; `None` for a new one every epoch."""
    if recipe.teacher_outputs.store == "off":
        return None
    return recipe.data.views if recipe.data.crop_padding or recipe.data.flip or recipe.data.augment.is_on else 1


def _plan_delivery(recipe: Recipe, task: Task) -> Iterator[Stage]:
    """Yield what follows training."""
    gate, measure = recipe.gate, recipe.measure
    for section in recipe.exports:
        options = ", ".join(f"{name} {value}" for name, value in section.options().items())
        yield Stage(name="export", about=f"{section.format}: {options}" if options else section.format, kept="bundle")
        if section.options().get("precision") == "int8":
            yield Stage(name="int8", about=_describe_ladder(recipe, section))
    if recipe.exports:
        bound = f", logits within {gate.max_abs_diff:g}" if gate.max_abs_diff is not None else ""
        drop = quantify(gate.max_top1_drop_points, "point")
        agreement = "that of its precision" if gate.min_agreement is None else f"{100 * gate.min_agreement:g} %"
        metric = name_metric(gate.metric if task.name == CLASSIFICATION.name else task.metric.name)
        rule = f"{metric} at most {drop} lower, agreement at least {agreement}{bound}"
        yield Stage(name="gate", about=f"each file on its own runtime, validation split: {rule}")
    calls = f"batch {measure.batch_size} and {measure.throughput_batch_size}, {quantify(measure.threads, 'thread')}"
    yield Stage(
        name="measure", about=f"this machine: {calls}, {measure.rounds} interleaved rounds, against the {recipe.opponent}"
    )
    for line in describe_devices(recipe):
        yield Stage(name="device", about=line)
    yield Stage(name="report", about="report.json, report.md, report.html", kept="report.json")


def _describe_ladder(recipe: Recipe, section: ExportSection) -> str:
    """Return what is tried to make an int8 file."""
    int8, other = recipe.int8, plugins.load("exporters", section.format).statistics[1:]
    rungs = {
        "default": "default quantization",
        "statistics": f"statistics {', '.join(other)}" if other else "other statistics (there are none)",
        "saturation": "a spare bit where products saturate",
        "mixed": f"the worst layers in float, at most {100 * int8.max_float_layers:g} %",
        "distillation": f"quantization-aware distillation of {quantify(int8.epochs, 'epoch')}",
    }
    images = f"ranges from up to {int8.calibration_images} training images"
    if int8.rung != "auto":
        return f"{section.format}: {rungs[int8.rung]} only (int8.rung); {images}"
    order = "; else ".join(rungs.values())
    return f"{section.format}: until the gate passes: {order}; {images}, no further rung after {int8.max_minutes:g} minutes"


def _find_kept(stages: Sequence[Stage], recipe: Recipe, base: Path, folder: Path) -> tuple[Stage, ...]:
    """Return the stages, each with whether it is found again, or in which sections an earlier run of it differs."""
    last = read_last_recipe(folder)
    if last is None:
        return tuple(stages)
    kept = []
    for stage in stages:
        changed = find_changed_sections(stage.name, recipe, last, base=base, folder=folder) if _is_kept(folder, stage) else None
        kept.append(stage.model_copy(update={"found": changed == (), "changed": changed or ()}))
    return tuple(kept)


def _is_kept(folder: Path, stage: Stage) -> bool:
    """Return whether an earlier run left the result of a stage, whatever it is."""
    if not stage.kept:
        return False
    kept = folder / stage.kept
    return any((kept / proof).is_file() for proof in ("metrics.json", "manifest.json")) or kept.is_file()


def _find_notes(recipe: Recipe) -> Iterator[str]:
    if not recipe.exports:
        yield "nothing is exported, so nothing is gated: add `exports:` to leave a file that can be deployed"
    if all(method.name == "supervised" for method in recipe.method):
        yield "the student is trained without its teacher: the teacher is only measured"
    lines = [
        method.name for method in recipe.method if any(part.generation for part in list_stages(method.name, method.options()))
    ]
    if lines and recipe.student.has_weights:
        yield f"{lines[0]}: every generation before the last starts from random weights, the last from the student's weights"
