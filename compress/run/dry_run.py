"""Dry run of a recipe: its own networks and methods on one batch, without training.

Whatever a constructor or a first step would refuse is refused here: taps that do not exist, maps that cannot be aligned,
methods that contradict each other, weights that do not fit. `compress run` does this with its own data before it trains
anything, compiles the untrained student where that is asked for, and writes it in every format; `compress check` takes random
images of the same shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import exporters
from compress import plugins
from compress.copying import copy_module
from compress.data import Batch, Split, name_task
from compress.errors import CompressError, Interrupted, Unwritable
from compress.events import Events
from compress.freezing import freeze_all_but
from compress.methods import Method
from compress.models import Network
from compress.plan.names import name_methods
from compress.plan.pictures import make_preprocess
from compress.plan.plan import Estimate, Plan
from compress.recipe import ExportSection, MethodSection, Recipe, TeacherSection
from compress.records import DEPTHS
from compress.run import cache
from compress.run.build import build_method, build_network, load_given_teacher, start_from_weights
from compress.run.context import Run
from compress.run.data import RunData
from compress.run.estimate import estimate_seconds
from compress.run.weights import list_published_notes
from compress.system.leftovers import make_temporary_folder
from compress.tasks import load_task
from compress.text import name_teacher
from compress.training import loop, preflight
from compress.training.calibrate import find_classifier
from compress.training.compile import require_engine
from compress.training.device import choose_device
from compress.training.engines import choose_engine
from compress.training.network_checks import check_network
from exporters import About, Exporter

IMAGES = 8
"""Random images of a dry run: enough for batch norm and for correlations between samples."""


def check_networks(run: Run, batch: Batch) -> None:
    """Run one batch through every stage of every method with untrained networks.

    Raises:
        CompressError: A network, a file of weights or a method does not fit the others; the message says what to do.
    """
    require_engine(run.recipe.train.engine, run.device)
    for index, section in enumerate(run.recipe.teacher):
        if section.train is not None:
            where = name_teacher(index, len(run.recipe.teacher), separator=".")
            require_engine(section.train.engine, run.device, field=f"{where}.train.engine")
    for note in list_published_notes(run.recipe):
        run.events.say(note)
    networks = _load_teachers(run)
    teachers = [network for network in networks if isinstance(network, Network)]
    _say_student_weights(run)
    for index, network in enumerate(teachers):
        _check_alone(run, name_teacher(index, len(teachers)), network, batch, trains=False)
    _check_alone(run, "student", build_network(run, run.recipe.student, "student"), batch, trains=True)
    students = [run.recipe.method, *run.recipe.baselines]
    distinct = [each for place, each in enumerate(students) if each not in students[:place]]  # equal ones differ in nothing
    for methods in distinct:
        method = build_method(run, methods, teachers)
        _check_labels(run, methods, method.stages()[-1])
        if run.recipe.train.calibrate:
            find_classifier(method.stages()[-1])
        preflight.check_structure(method, batch)


def _check_labels(run: Run, methods: Sequence[MethodSection], final: Method) -> None:
    """Refuse pictures without labels for a method that needs labels; of a baseline say that it sees none of them.

    Raises:
        CompressError: The student's own method does.
    """
    if run.data.whole is None or not final.needs_labels:
        return
    name = name_methods(methods)
    if methods == run.recipe.method:
        field = "student_labels" if run.recipe.data.unlabelled is None else "unlabelled"
        raise CompressError(
            f"data.{field}: method {name!r} needs a label for every picture, for {final.needs_labels}; remove the field, or "
            "use a method that learns from the teacher's answers, such as kd"
        )
    run.events.say(f"{name}: is trained on the labelled pictures alone, for {final.needs_labels}")


def _check_alone(run: Run, name: str, network: Network, batch: Batch, *, trains: bool) -> None:
    """Check one network, and say what its user should know.

    Raises:
        CompressError: It cannot be used; or it changes its images in place, which all networks of a run share.
    """
    found = check_network(name, network, batch.images, trains=trains, task=run.data.task)
    if found.changes_input:
        raise CompressError(
            f"{name}: its forward pass changes the images it is given in place, which the other networks read too; write "
            "x = x - mean for x.sub_(mean) and the like, or let the plug-in return compress.Network(..., copies_input=True)"
        )
    if found.note:
        run.events.say(f"warning: {found.note}")


def _say_student_weights(run: Run) -> None:
    """Say which of several weights in the student's file are taken."""
    note = start_from_weights(run, run.recipe.student, "student", build_network(run, run.recipe.student, "check"))
    if note:
        run.events.say(f"student: {note}")


def _load_teachers(run: Run) -> list[Network]:
    """Return the teachers: those that are given with their weights, so that what does not fit is refused here."""
    names = [name_teacher(index, len(run.recipe.teacher)) for index in range(len(run.recipe.teacher))]
    return [_load_teacher(run, section, name) for name, section in zip(names, run.recipe.teacher, strict=True)]


def _load_teacher(run: Run, section: TeacherSection, name: str) -> Network:
    if section.is_given:
        given = load_given_teacher(run, section, name)
        if given.note:
            run.events.say(f"{name}: {given.note}")
        return given.network
    network = build_network(run, section, "check")
    start_from_weights(run, section, name, network)
    return network


def check_compiles(run: Run, batch: Batch) -> None:
    """Compile the untrained student, where the recipe names an engine that compiles, before the teachers are trained.

    Args:
        run: Run context.
        batch: One training batch of full size.

    Raises:
        CompressError: torch cannot compile it, or compiled it computes something else.
    """
    engine = run.recipe.train.engine
    if engine in ("eager", "auto"):  # a trial leaves out what does not work
        return
    networks = _load_teachers(run)
    teachers = [network for network in networks if isinstance(network, Network)]
    method = build_method(run, run.recipe.method, teachers).stages()[-1]
    autocast = loop.DTYPES[run.recipe.train.precision]
    choose_engine(method, batch, engine=engine, steps=1, autocast=autocast, events=run.events)


def check_exports(run: Run) -> None:
    """Write the untrained student in each format once, so that what a format cannot hold is found before training.

    Raises:
        CompressError: A format cannot hold the network; the message names it.
        Unreachable: There is no room for a temporary file.
    """
    teachers = [build_network(run, section, "check") for section in run.recipe.teacher]
    method = build_method(run, run.recipe.method, teachers)
    student = copy_module(method.deployable()).cpu()
    freeze_all_but(method, ())
    about = About("student", run.data.classes, run.data.preprocess, {})
    wanted = [(section.format, _replace_int8(section)) for section in run.recipe.exports]
    distinct = [each for place, each in enumerate(wanted) if each not in wanted[:place]]
    with exporters.reuse_graphs(), run.events.task("dry run: exports", total=len(distinct), kind="dry run") as task:
        for name, options in distinct:
            exporter: Exporter = plugins.load("exporters", name)(**options)
            with make_temporary_folder() as folder:
                path = exporter.name_file(folder, "student")
                try:
                    exporter.export(student.eval(), run.data.sample_image(), path, about=about)
                except (Interrupted, Unwritable):  # no fault of the format
                    raise
                except CompressError as error:
                    why = str(error).removeprefix(f"{path}: ")
                    raise type(error)(f"exports: format {name!r} cannot hold the student: {why}") from error
            task.advance(note=name)


def _replace_int8(section: ExportSection) -> dict[str, Any]:
    """Return the options of a section with a precision that needs no images."""
    options = section.options()
    return {**options, "precision": "fp32"} if options.get("precision") == "int8" else options


class _Noted(Events):
    """Events that keep what people would be told."""

    def __init__(self, notes: list[str]) -> None:
        super().__init__()
        self._notes = notes

    def say(self, text: str) -> None:
        self._notes.append(text.removeprefix("warning: "))

    def warn(self, text: str) -> None:
        self.say(text)


def check_with_random_images(
    recipe: Recipe,
    *,
    base: Path,
    runs: Path,
    classes: tuple[str, ...],
    plan: Plan | None = None,
    notes: list[str] | None = None,
) -> Estimate | None:
    """Check the networks and methods of a recipe without loading its data, and estimate how long a run takes.

    Args:
        recipe: A recipe in which `compress.plan` found no contradiction.
        base: Folder that the recipe's relative paths start from.
        runs: Folder of all runs; nothing is written there.
        classes: Names of the classes, in label order.
        plan: Of the run, for the estimate.
        notes: Gets what a run would tell people of its networks before it trains them.

    Returns:
        The estimate; `None` without a plan.

    Raises:
        CompressError: A network, a file of weights or a method does not fit the others.
    """
    data = _make_random_data(recipe, base, classes)
    where = choose_device(recipe.train.device)
    folder = runs / recipe.name
    run = Run(recipe, base, folder, cache.Cache(runs), Events(), where, data, 0, recipe.seed, folder)
    batch = next(iter(run.batch_in_order(data.train).epoch(0)))
    check_networks(replace(run, events=_Noted([] if notes is None else notes)), batch)
    return None if plan is None else estimate_seconds(run, plan, batch)


def _make_random_data(recipe: Recipe, base: Path, classes: tuple[str, ...]) -> RunData:
    source = plugins.load("data", recipe.data.source)(**recipe.data.options(base))
    task, depth = load_task(name_task(source)), DEPTHS[source.channels]
    height, width = recipe.data.sides
    images = np.random.default_rng(recipe.seed).integers(0, 256, (IMAGES, height, width, depth), np.uint8)
    split = Split(images, task.make_labels(IMAGES, len(classes), (height, width)))
    mean, std = recipe.data.mean or (0.5,) * depth, recipe.data.std or (0.25,) * depth
    preprocess = make_preprocess(recipe.data, source.channels).model_copy(update={"mean": mean, "std": std})
    return RunData(preprocess, classes, split, split, split, "", "", task)
