"""The whole run on one screen: data, teachers, students, export, verification, measurement, report, bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import exporters
from benchmarks import report
from benchmarks.devices.local import share_processes
from compress import plugins
from compress.errors import CompressError, GateFailed, Interrupted, Unreachable, Unwritable
from compress.events import Events
from compress.plan.checks import list_foreign_code
from compress.plan.plan import make_plan
from compress.recipe import ExportSection, Recipe
from compress.records import Report, Status, Variant
from compress.records.training import WEIGHTS
from compress.run import dry_run
from compress.run.brought import keep_brought
from compress.run.context import Run, Trained, open_run
from compress.run.devices import find_rows_elsewhere, raise_first_problem, try_devices
from compress.run.export import TORCH, ExportedFile, describe_unexported, describe_unmade, export_file
from compress.run.handover import hand_over
from compress.run.int8 import select_calibration_images
from compress.run.lockstep import train_in_lockstep
from compress.run.measure import measure_files
from compress.run.report import RunResults, add_notes, build_report, describe_failures, describe_unjudged
from compress.run.seeds import judge_images, split_by_seed, train_further_seeds, train_students
from compress.run.teacher_budget import hold_to_teacher
from compress.run.teachers import obtain_teacher
from compress.run.verify import SplitLogits, compute_logits
from compress.tracking import follow_run, require_trackers


def run(recipe: Recipe, *, base: str | Path, runs: str | Path, events: Events, seeds: Sequence[int] = ()) -> Report:
    """Carry out a recipe; what is done and unchanged is found in the cache, an interrupted run continues.

    With several seeds (`compress.plan.seeds`), student and baselines are trained with each. The first is exported, gated and
    timed, whatever the accuracies are; the students of the others lie in the folder `seeds` of the run.

    Args:
        recipe: What to do.
        base: Folder at which relative paths in the recipe start.
        runs: Folder of all runs; the run's own folder is `runs/recipe.name`.
        events: Where progress goes.
        seeds: Seeds of the students; default: the recipe's.

    Raises:
        GateFailed: An exported student is not what was trained; the report is written and says what is wrong.
        Unreachable: A file could not be run or made, which is no fault of its own; the report is written and says which.
        Unstable: No timing meant anything; the report is written without latencies.
        Interrupted: The user stopped; the same call continues.
        CompressError: The recipe cannot be carried out.
    """
    base, runs = Path(base), Path(runs)
    for line in list_foreign_code(recipe):
        events.say(line)
    make_plan(recipe, base=base, runs=runs)  # refuses all that contradicts, before anything is loaded
    trackers = require_trackers(recipe)
    with (
        open_run(recipe, base=base, runs=runs, events=events, seeds=len(seeds) or 1) as context,
        follow_run(trackers, recipe, folder=context.folder, events=events) as followers,
    ):
        _check_before_training(context)
        teachers = [obtain_teacher(context, index, section) for index, section in enumerate(recipe.teacher)]
        first, *others = split_by_seed(context, seeds or [recipe.seed])
        with train_in_lockstep([first, *others], teachers) as (first_ready, *others_ready):
            shipped, *baselines = train_students(first_ready, teachers)
            further = train_further_seeds(others_ready, teachers)

        students = [shipped, *baselines]
        trained = [each.move_to_cpu() for each in (*teachers, *students)]
        logits = {each.name: compute_logits(context, each) for each in trained if each.knows_classes}
        files, unmade = export_all(first, shipped, teachers, logits)
        measured = measure_files(context, files)
        files, outcomes = try_devices(context, shipped, files, logits[shipped.name])
        measured = measured.take_verdicts(files)

        rows = [describe_unexported(context, each, logits[each.name], shipped=shipped) for each in baselines] + unmade
        judged = [
            *(judge_images(context, each, logits[each.name]) for each in teachers if each.knows_classes),
            *(judge_images(first, each, logits[each.name]) for each in students),
            *further.judged,
        ]
        devices = [each.results for each in outcomes]
        found = RunResults(trained, files, measured, rows, further, judged, logits[shipped.name], devices)
        built = build_report(context, found)
        headline = report.compute_headline(built)
        elsewhere = find_rows_elsewhere(outcomes)
        placed = hand_over(first, shipped, files, logits[shipped.name], measured, headline=headline, elsewhere=elsewhere)
        record = report.add_headline(keep_brought(context, add_notes(context, built, placed)))
        report.write(record, context.folder)
        followers.add_results(record)
        events.emit("end", status=record.status, seconds=record.seconds)
    if record.status == "failed":
        raise GateFailed(describe_failures(context, files))
    if unjudged := describe_unjudged(files, unmade):
        raise Unreachable(f"{unjudged}\neverything else is in {context.folder / 'report.html'}")
    raise_first_problem(outcomes, context.folder / "report.html")
    if measured.problem is not None:
        raise type(measured.problem)(f"{measured.problem}; everything else is in {context.folder / 'report.html'}")
    return record


def _check_before_training(run: Run) -> None:
    """Refuse, before anything is trained, what would otherwise be refused after hours."""
    for section in run.recipe.exports:
        if run.data.task.boxes and not getattr(exporters.load(section), "gives_boxes", False):
            raise CompressError(
                f"exports: {section.format}: writes files with one output, and a detector gives two, logits and boxes; use "
                "onnx or openvino"
            )
        _require_runtime(section)
        exporter = exporters.load(section)
        can_give = not run.data.task.is_dense or (not run.data.task.boxes and getattr(exporter, "gives_maps", False))
        if exporter.gives_class and not can_give:
            raise CompressError(
                f"exports: {section.format}: postprocess: inside gives one class an image, and the task is "
                f"{run.data.task.name}; leave it out: the file then gives what the network gives"
                + ("" if run.data.task.boxes else "; ONNX and OpenVINO files can give the class of each pixel, too")
            )
    if run.data.task.name != "classification" and run.recipe.gate.metric != "top1":
        raise CompressError(
            f"gate.metric: {run.recipe.gate.metric} is of classification, and the data is of {run.data.task.name}, whose "
            f"metric is {run.data.task.metric.title}; leave it out"
        )
    batch = next(run.batch_shuffled(run.data.train, run.recipe.train, seed=0).epoch(0))
    dry_run.check_networks(run, batch)
    if any(exporters.load(section).precision == "int8" for section in run.recipe.exports):
        select_calibration_images(run)  # no images, or of one class
    if not (run.folder / "student" / WEIGHTS).is_file():  # an earlier run came as far, and exports come soon
        dry_run.check_compiles(run, batch)
        dry_run.check_exports(run)


def _require_runtime(section: ExportSection) -> None:
    """Import the runtime of a format; without it files could be written and not verified."""
    try:
        plugins.load("runtimes", exporters.load(section).runtime).prepare()
    except ModuleNotFoundError as error:
        raise Unreachable(plugins.explain_missing_package(f"exports: format {section.format!r}", error)) from error


def export_all(
    run: Run, shipped: Trained, teachers: Sequence[Trained], logits: Mapping[str, SplitLogits]
) -> tuple[list[ExportedFile], list[Variant]]:
    """Export the student, and the teachers like it to compare with; return the teachers' files first, and what was not made."""
    sections = [ExportSection(format=TORCH), *run.recipe.exports]
    compared = sections if run.recipe.measure.against == "teacher" else sections[:1]
    with exporters.reuse_graphs(), share_processes():
        own = [export_file(run, shipped, section, logits[shipped.name], teachers=tuple(teachers)) for section in sections]
        knowing = [each for each in teachers if each.knows_classes]  # others are not compared with: they have no accuracy
        known = {each.name: logits[each.name] for each in knowing}
        own = [hold_to_teacher(run, item, logits[shipped.name], known) for item in own]
        files, unmade = _export_for_comparison(run.use_recipe_seed(), knowing, compared, logits)
    return [*files, *own], unmade


def _export_for_comparison(
    run: Run, teachers: Sequence[Trained], sections: Sequence[ExportSection], logits: Mapping[str, SplitLogits]
) -> tuple[list[ExportedFile], list[Variant]]:
    """Export the teachers, in int8 by the first rung of the ladder alone.

    Where a format cannot hold a teacher, or its file cannot be run, there is a warning and a row without figures instead, for
    the student does not depend on it.

    Raises:
        Unwritable: The disk is full or a folder cannot be written.
        Interrupted: The user stopped.
    """
    files, unmade = [], []
    for trained, section in product(teachers, sections):
        try:
            files.append(export_file(run, trained, section, logits[trained.name], for_comparison=True))
        except (Unwritable, Interrupted):
            raise
        except CompressError as error:
            status: Status = "skipped" if isinstance(error, Unreachable) else "failed"
            unmade.append(describe_unmade(run, trained, section, str(error), status=status))
            run.events.warn(f"{unmade[-1].name}: could not be made, so nothing is compared with it: {error}")
    return files, unmade
