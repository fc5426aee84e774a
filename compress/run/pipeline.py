"""The whole run, in the order of the arrow: data, teachers, students, export, proof, measurement, report.

Nothing is done here; every line calls one move of `training`, `delivery`, `exporters` or `benchmarks`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import numpy as np

import exporters
from benchmarks import report
from benchmarks.environment import environment
from benchmarks.report import paired
from compress import plugins, records
from compress.errors import CompressError, GateFailed, Unreachable
from compress.events import Events
from compress.plan.plan import make_plan
from compress.quantization import calibration
from compress.recipe import ExportSection, Recipe, canonical, dump, load
from compress.records import BundleFile, Exported, Gate, Report, Scores, Variant
from compress.records.training import WEIGHTS
from compress.run import (
    cache as stages,
)
from compress.run import (
    dry_run as rehearsal,
)
from compress.run import (
    export as delivery,
)
from compress.run import (
    lockstep as turns,
)
from compress.run import (
    measure as timing,
)
from compress.run import (
    reload as _finished,
)
from compress.run import (
    seeds as students,
)
from compress.run import (
    students as training,
)
from compress.run.context import Run, Trained, device, prepare
from compress.run.export import Answers, Delivered
from compress.run.int8 import TAUGHT
from compress.run.measure import Timed
from compress.run.seeds import Further
from compress.system.files import sha256_of, whole, writable
from compress.training import preflight
from exporters.bundle import bundle

RECIPE, REJECTED = "recipe.yaml", "rejected"
SAMPLES = 64
"""Images of the validation split that travel with a bundle."""


def run(recipe: Recipe, *, base: Path, runs: Path, events: Events, seeds: Sequence[int] = ()) -> Report:
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
        Unstable: No timing meant anything; the report is written without latencies.
        Interrupted: The user stopped; the same call continues.
        CompressError: The recipe cannot be carried out.
    """
    make_plan(recipe, base=base, runs=runs)  # refuses all that contradicts, before anything is loaded
    with open_run(recipe, base=base, runs=runs, events=events, seeds=len(seeds) or 1) as run:
        _rehearse(run)
        teachers = [training.teacher(run, index, section) for index, section in enumerate(recipe.teacher)]
        first, *others = students.split_by_seed(run, seeds or [recipe.seed])
        with turns.taken([first, *others], teachers) as (first_ready, *others_ready):
            shipped, *baselines = students.train(first_ready, teachers)
            further = students.train_further(others_ready, teachers)

        said = {trained.name: delivery.answers(run, trained) for trained in (*teachers, shipped, *baselines)}
        sections = [ExportSection(format=delivery.TORCH), *recipe.exports]
        own = [delivery.deliver(first, shipped, section, said[shipped.name], teachers=teachers) for section in sections]
        compared, notes = _for_comparison(
            run, teachers, sections if recipe.measure.against == "teacher" else sections[:1], said
        )
        files = [*compared, *own]
        timed = timing.time(run, files)
        rows = [
            *timed.variants.values(),
            *(delivery.plain(run, trained, said[trained.name], shipped=shipped) for trained in baselines),
        ]

        _hand_over(first, shipped, files, said[shipped.name], timed)
        own_scores = [students.of_answers(first, trained, said[trained.name]) for trained in (shipped, *baselines)]
        teachers_scores = [students.of_answers(run, trained, said[trained.name]) for trained in teachers]
        scores = students.scores([*teachers_scores, *own_scores, *further.scored])
        results = [*teachers, shipped, *baselines]
        written = _report(run, rows, files, results, timed, further=further, scores=scores)
        learned = preflight.guesses(shipped.name, said[shipped.name].validation, run.labels())
        leaks = {large: [leak.text for leak in run.data.leaks if leak.is_large is large] for large in (True, False)}
        told = {"notes": (*written.notes, *notes, *leaks[False]), "warnings": (*leaks[True], *filter(None, [learned]))}
        written = written.model_copy(update=told)
        report.write(written, run.folder)
        events.emit("end", status=written.status, seconds=written.seconds)
    if written.status == "failed":
        raise GateFailed(_failures(run, files))
    if timed.problem is not None:
        raise type(timed.problem)(f"{timed.problem}; everything else is in {run.folder / 'report.html'}")
    return written


def run_of(path: Path) -> Path:
    """Return the folder of the run that a path is, or whose student's weights it is.

    Raises:
        Unreachable: There is no such folder or file.
        CompressError: It is neither.
    """
    if not path.exists():
        raise Unreachable(f"{path}: there is no such run or checkpoint; see what `compress run` said")
    folder = path.parent.parent if path.name == WEIGHTS and path.parent.name == "student" else path
    if not (folder / RECIPE).is_file():
        raise CompressError(f"{path}: is no run (it holds no {RECIPE}) and no student's {WEIGHTS} in one; give either")
    return folder


def export(run_folder: Path, sections: Sequence[ExportSection], *, out: Path | None, events: Events) -> dict[str, Gate]:
    """Export the student of a finished run once more, in other formats, and judge the files.

    int8 files climb the whole ladder, taught by the run's own teachers; where these are gone, a note of the gate says so.

    Args:
        run_folder: A folder that `run` left.
        sections: The formats.
        out: Where the files go; default: `exports` in the run's folder. What fails its gate goes to `rejected` in there. Beside
            them, each file has a record of what is known of it.
        events: Where progress goes.

    Raises:
        CompressError: The folder holds no finished run, or a format cannot hold the network.
    """
    recipe = load(run_of(run_folder) / RECIPE)
    target = out or run_folder / "exports"
    with open_run(recipe, base=run_folder, runs=run_folder.resolve().parent, events=events) as whole_run:
        run = _finished.seeded(whole_run)
        shipped = _finished.student(run)
        said = delivery.answers(run, shipped)
        taught = recipe.int8.rung in TAUGHT and any(exporters.load(section).precision == "int8" for section in sections)
        teachers = _finished.teachers(run) if taught else ""
        files = [delivery.deliver(run, shipped, section, said, teachers=teachers) for section in sections]
        gates = {item.variant.name: _with_what_was_left_out(item) for item in files}
        made_in = environment()
        for item in files:
            places = target, target / REJECTED
            place, other = places if item.gate.status == "passed" else places[::-1]
            verdict = f"{item.path.name}.gate.json"
            parts = [part.name for part in exporters.load(item.section).parts(item.path)]
            with writable(target):
                for name in (*parts, verdict):  # an earlier export of this name may have ended otherwise
                    (other / name).unlink(missing_ok=True)
            for name in parts:
                stages.copy(item.path.parent / name, place / name)
            if place != target:
                records.save(place / verdict, gates[item.variant.name])
            entry = _entry(item, gates[item.variant.name], place / item.path.name, target)
            known = Exported(file=entry, weights_sha256=shipped.results[-1].files[WEIGHTS], environment=made_in)
            records.save(target / f"{item.path.name}.json", known)
    return gates


def _entry(item: Delivered, gate: Gate, path: Path, target: Path) -> BundleFile:
    """Return what is known of a file that was copied to `path`, with places relative to `target`."""
    exporter = exporters.load(item.section)
    parts = {(path.parent / part.name).relative_to(target).as_posix(): part for part in exporter.parts(item.path)}
    return BundleFile(
        path=path.relative_to(target).as_posix(), parts={name: sha256_of(part) for name, part in parts.items()},
        format=item.section.format, runtime=exporter.runtime, precision=exporter.precision,
        size_bytes=sum(part.stat().st_size for part in parts.values()), batch_size=exporter.batch_size,
        takes_pixels=exporter.takes_pixels, gives_class=exporter.gives_class, gate=gate, measured=item.variant,
    )  # fmt: skip


def _with_what_was_left_out(item: Delivered) -> Gate:
    """Return the gate of a file with a note of the last rung of its ladder, if that was wanted and could not be climbed."""
    rungs = item.variant.ladder.rungs if item.variant.ladder is not None else ()
    skipped = [each.reason for each in rungs if each.rung == "distillation" and each.status == "skipped"]
    notes = filter(None, [item.gate.note, *(f"rung 'distillation' was left out: {reason}" for reason in skipped)])
    return item.gate.model_copy(update={"note": "; ".join(notes)})


@contextmanager
def open_run(recipe: Recipe, *, base: Path, runs: Path, events: Events, seeds: int = 1) -> Iterator[Run]:
    """Lock the run's folder, load the data, and give what all stages share."""
    folder = runs / recipe.name
    with stages.locked(folder):
        events.attach(folder / "events.jsonl")
        events.emit("begin", recipe=recipe.name)
        data = prepare(recipe.data, base=base, seed=recipe.seed, cache=runs / ".cache" / "images", events=events)
        sizes = (
            f"{len(data.train.labels)} training, {len(data.validation.labels)} validation, {len(data.test.labels)} test images"
        )
        events.say(f"data: {recipe.data.source}, {len(data.classes)} classes, {sizes}")
        for leak in data.leaks:
            events.say(f"{'warning: ' if leak.is_large else ''}{leak.text}")
        with whole(folder / RECIPE) as temporary:
            temporary.write_text(dump(recipe, base), encoding="utf-8")
        records.save(folder / "environment.json", environment())
        where = device(recipe.train.device)
        taught = [
            methods for methods in (recipe.method, *recipe.baselines) if any(each.name != "supervised" for each in methods)
        ]
        readers = seeds * len(taught)
        yield Run(recipe, base, folder, stages.Cache(runs), events, where, data, readers, recipe.seed, folder)


def _rehearse(run: Run) -> None:
    """Refuse before anything is trained what could only be refused later."""
    for section in run.recipe.exports:
        _require_runtime(section)
    batch = next(run.shuffled(run.data.train, run.recipe.train, seed=0).epoch(0))
    rehearsal.rehearse(run, batch)
    if any(exporters.load(section).precision == "int8" for section in run.recipe.exports):
        calibration.of(run)  # no images, or of one class
    if not (run.folder / "student" / WEIGHTS).is_file():  # an earlier run came as far, and exports come soon
        rehearsal.compiles(run, batch)
        rehearsal.exports(run)


def _require_runtime(section: ExportSection) -> None:
    """Import what runs the files of a format; without it they could be trained for, but not proved."""
    try:
        plugins.load("runtimes", exporters.load(section).runtime).prepare()
    except ModuleNotFoundError as error:
        raise Unreachable(plugins.missing_package(f"exports: format {section.format!r}", error)) from error


def _hand_over(run: Run, shipped: Trained, files: Sequence[Delivered], said: Answers, timed: Timed) -> None:
    """Write the bundle of all files that passed, and keep the others apart with the reason beside them."""
    offered = [item for item in files if item.variant.network == shipped.name and item.section.format != delivery.TORCH]
    rejected = run.folder / REJECTED
    with writable(rejected):
        shutil.rmtree(rejected, ignore_errors=True)
    for item in offered:
        if item.gate.status == "failed":
            for part in exporters.load(item.section).parts(item.path):
                stages.copy(part, rejected / part.name)
            records.save(rejected / f"{item.path.name}.gate.json", item.gate)
    held = run.data.validation
    chosen = np.linspace(0, len(held.labels) - 1, min(SAMPLES, len(held.labels))).astype(int)  # every class, sorted or not
    passed = [
        bundle.Deployable(
            item.path, item.section.format, exporters.load(item.section), item.gate, timed.variants[item.variant.name],
            item.said.validation[chosen] if item.adapted else None,
        )
        for item in offered
        if item.gate.status == "passed"
    ]  # fmt: skip
    if not passed:
        with writable(run.folder):
            shutil.rmtree(run.folder / "bundle", ignore_errors=True)  # of an earlier run, with another student
        return
    bundle.write(
        run.folder / "bundle", name=run.recipe.name, classes=run.data.classes, preprocess=run.data.preprocess, files=passed,
        samples=bundle.Samples(held.images[chosen], held.labels[chosen], said.validation[chosen]),
        gate=run.recipe.gate, provenance={
            "recipe": canonical(run.recipe), "seed": str(run.seed), "method": shipped.method,
            "weights": shipped.results[-1].files[WEIGHTS], "data": run.recipe.data.source,
            "machine": (timed.environment or environment()).cpu,
            **{f"package.{name}": version for name, version in environment().packages.items()},
        },
        background=_background(run, shipped, said, timed),
    )  # fmt: skip


def _background(run: Run, shipped: Trained, said: Answers, timed: Timed) -> bundle.Background:
    """Return what the model card tells beside the files."""
    teachers = [row for row in timed.variants.values() if row.format == delivery.TORCH and row.network != shipped.name]
    return bundle.Background(
        recipe=run.recipe,
        method=shipped.method,
        teachers=tuple(teachers),
        images={name: len(getattr(run.data, name).labels) for name in ("train", "validation", "test")},
        labels=run.data.test.labels,
        answers=said.test.argmax(axis=1),
        data_licence=getattr(plugins.load("data", run.recipe.data.source), "licence", ""),
        seconds=sum(result.seconds for result in shipped.results),
        environment=timed.environment or environment(),
    )


def _for_comparison(
    run: Run, teachers: Sequence[Trained], sections: Sequence[ExportSection], said: Mapping[str, Answers]
) -> tuple[list[Delivered], list[str]]:
    """Export the teachers like the student, in int8 by the first rung of the ladder alone.

    What a format cannot hold is a note, for the student does not depend on it.
    """
    files, notes = [], []
    for trained, section in product(teachers, sections):
        try:
            files.append(delivery.deliver(run, trained, section, said[trained.name], yardstick=True))
        except CompressError as error:
            notes.append(f"{trained.name} could not be exported for comparison: {error}")
    return files, notes


def _report(
    run: Run, rows: Sequence[Variant], files: Sequence[Delivered], trained: Sequence[Trained], timed: Timed, *,
    further: Further, scores: Sequence[Scores],
) -> Report:  # fmt: skip
    made = {result.key: result for item in trained for result in item.results}
    made |= {result.key: result for item in files for result in item.adapted}
    training_seconds = {**further.seconds, **{key: stage.seconds for key, stage in made.items()}}
    failed = any(item.gate.status == "failed" for item in files if item.variant.network == "student")
    return Report(
        name=run.recipe.name,
        recipe=run.recipe.model_dump(mode="json"),
        status="failed" if failed else "passed",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=sum(training_seconds.values()) + sum(item.seconds for item in files) + timed.seconds,
        classes=run.data.classes,
        images={name: len(getattr(run.data, name).labels) for name in ("train", "validation", "test")},
        variants=tuple(rows),
        gates={item.variant.name: item.gate for item in files},
        stages=tuple(made.values()),
        environment=timed.environment or environment(),
        notes=(
            *_notes(run),
            *students.notes(run, scores),
            *([f"Nothing could be timed: {timed.problem}"] if timed.problem else []),
        ),
        test_key=run.data.test_key,
        scores=tuple(scores),
        paired=paired.comparisons(scores),
    )


def _failures(run: Run, files: Sequence[Delivered]) -> str:
    failed = [item for item in files if item.gate.status == "failed" and item.variant.network == "student"]
    lines = [f"{run.folder / REJECTED / item.path.name}: {item.gate.reason}" for item in failed]
    return "\n".join([*lines, f"the files are kept apart; see {run.folder / 'report.html'}"])


def _notes(run: Run) -> tuple[str, ...]:
    settings, exported = run.recipe.measure, [exporters.load(section).precision for section in run.recipe.exports]
    int8 = (
        "An int8 file is what the ladder of quantization came to: its ranges are estimated on training images, every choice is "
        "made on the validation split, and the test split reports the result."
        + (" The teacher's gets the first rung and no other." if settings.against == "teacher" else "")
    )
    opponent = {
        "teacher": "the teacher's file of the same format and precision",
        "student": "the student's float32 file of the same format (the teachers are not exported)",
    }
    return (
        "Accuracy is top-1 on the test split, which no choice has seen; its interval is Wilson's at 95 %.",
        "The gate compares each file with the torch network on the validation split, on the file's own runtime.",
        (
            f"Latency: after warm-up, {settings.rounds} interleaved rounds of all files in one process, threads: "
            f"{settings.threads}, batch {settings.batch_size}; its interval is a bootstrap of the median over rounds."
        ),
        f"A ratio compares a file with {opponent[settings.against]}, round by round.",
        "Peak memory is that of a process that runs only this file, in batches of 32.",
        "Rows that were not exported were not timed; one with the student's graph has its latency.",
        *([int8] if "int8" in exported else []),
    )
