"""Run the study of methods piece by piece, and judge the hypotheses.

    python -m benchmarks.studies.methods [--part a]... [--set data.path=FOLDER]... [--minutes 150] [--out FOLDER]

Every piece is one `compress run`: first a small one for each learning rate, then all methods at the recipe's rate, then those
that chose another one at theirs. Writes `study.json` and `report.md` after every piece. The same command continues after an
interruption, within a piece too, since a run continues by itself; no piece is begun after --minutes. Takes about nine hours of
two cores; other trainings beside it do not change its numbers.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from benchmarks.studies.methods import report
from benchmarks.studies.methods.plan import (
    PARTS,
    Task,
    choose_rates,
    find_recipe,
    list_methods,
    list_trainings,
    list_tuning,
    load_recipe,
)
from benchmarks.studies.methods.records import Piece, Student, Study
from benchmarks.studies.resuming import read_earlier
from compress.errors import CompressError
from compress.events import Events
from compress.fingerprint import TRAINING, hash_sources
from compress.records import Report
from compress.run import pipeline

RUNS = Path("runs") / "study"
FOLDER = RUNS / "result"
DECISIVE = ("benchmarks/studies/methods/plan.py", "recipes/study_*.yaml", *TRAINING)
"""Sources that decide the result."""


def run_study(
    parts: Sequence[str], *, overrides: Sequence[str], only: Sequence[str], seeds: int | None, minutes: float, runs: Path,
    out: Path, command: str, events: Events,
) -> Study:  # fmt: skip
    """Run every piece that an earlier call did not, and write the result after each.

    Args:
        parts: Keys of `PARTS`.
        overrides: Of the recipes, such as where the data is.
        only: Labels of methods; empty for all of a part.
        seeds: Of each method; `None` for those of the plan.
        minutes: After which no piece is begun.
        runs: Folder of all runs.
        out: Folder of the result.
        command: What the report says it was made with.
        events: Where progress goes.

    Raises:
        CompressError: What lies in the folder is of another command or version, or a recipe cannot be carried out.
        Interrupted: The user stopped; the same call continues.
        Unreachable: Data or folders are not there.
    """
    source = hash_sources(*DECISIVE)
    earlier = read_earlier(out / report.RESULT, Study, command=command, source=source)
    result = earlier or Study(command=command, source=source, pieces=())
    begun = time.monotonic()
    for part in parts:
        while (task := _find_next_task(part, result, overrides=overrides, only=only, seeds=seeds)) is not None:
            if time.monotonic() - begun > 60 * minutes:
                events.say(f"{minutes:g} minutes are over; the same command goes on with {task.name}")
                return result
            result = result.model_copy(update={"pieces": (*result.pieces, _run(task, runs, events))})
            report.write(result, out)
    return result


def _find_next_task(
    part: str, result: Study, *, overrides: Sequence[str], only: Sequence[str], seeds: int | None
) -> Task | None:
    """Return the next piece of a part, nothing where all were run; what follows the tuning is known when that was done."""
    loaded = load_recipe(part, overrides)
    labels = tuple(label for label in list_methods(loaded) if not only or label in only)
    count = seeds or PARTS[part].seeds
    done = {piece.name for piece in result.pieces}
    left = [task for task in list_tuning(part, loaded, labels, seeds=count) if task.name not in done]
    if not left:
        rates = choose_rates(result.pieces, part) if PARTS[part].is_tuned else {}
        left = [task for task in list_trainings(part, loaded, labels, rates, seeds=count) if task.name not in done]
    return left[0] if left else None


def _run(task: Task, runs: Path, events: Events) -> Piece:
    """Run one piece, and keep what the study needs of its report."""
    events.say(f"{task.name}: {', '.join(task.labels)}")
    found = pipeline.run(task.recipe, base=find_recipe(task.part).parent, runs=runs, events=events, seeds=task.seeds)
    train = task.recipe.train
    return Piece(
        name=task.name, part=task.part, kind=task.kind, optimizer=train.optimizer, lr=train.lr,
        students=tuple(_describe_student(found, place, label) for place, label in enumerate(task.labels)),
        images=found.images, steps=train.epochs * (found.images["train"] // train.batch_size),
    )  # fmt: skip


def _describe_student(found: Report, place: int, label: str) -> Student:
    """Return one of a run's students, by its place behind the teachers."""
    students = [scores for scores in found.scores if not scores.network.startswith("teacher")]
    scores = students[place]
    row = next(variant for variant in found.variants if variant.network == scores.network)
    own = [stage for stage in found.stages if stage.stage == scores.network or _prepares(stage.stage, scores.network, found)]
    return Student(label=label, scores=scores, parameters=row.parameters, seconds=sum(stage.seconds for stage in own))


def _prepares(stage: str, network: str, found: Report) -> bool:
    """Return whether a stage was trained for a student: its name begins with the student's, or has none for the first."""
    if network == "student":
        names = [scores.network for scores in found.scores]
        return not any(stage == name or stage.startswith(f"{name}-") for name in names) and not stage.startswith("teacher")
    return stage.startswith(f"{network}-")


@click.command()
@click.option("--part", "parts", multiple=True, type=click.Choice(list(PARTS)), help="Only this; repeatable.  [default: all]")
@click.option("--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Replace a field of the recipes; repeatable.")
@click.option("--only", multiple=True, metavar="METHOD", help="Only this method of the parts; repeatable.  [default: all]")
@click.option("--seeds", type=click.IntRange(min=1), help="Students of each method.  [default: the plan's]")
@click.option("--minutes", default=150.0, show_default=True, type=click.FloatRange(min=0), help="No piece is begun later.")
@click.option("--runs", default=RUNS, show_default=True, type=click.Path(file_okay=False, path_type=Path), help="Of all runs.")
@click.option(
    "--out", default=FOLDER, show_default=True, type=click.Path(file_okay=False, path_type=Path), help="Of the result."
)
def main(
    *, parts: tuple[str, ...], overrides: tuple[str, ...], only: tuple[str, ...], seeds: int | None, minutes: float, runs: Path,
    out: Path,
) -> None:  # fmt: skip
    """Run the study of methods piece by piece, and judge the hypotheses."""
    said = [part for name, values in (("--part", parts), ("--set", overrides), ("--only", only)) for value in values
            for part in (name, value)]  # fmt: skip
    said += ["--seeds", str(seeds)] if seeds else []
    command = shlex.join(["python", "-m", "benchmarks.studies.methods", *said])
    try:
        result = run_study(
            parts or tuple(PARTS), overrides=overrides, only=only, seeds=seeds, minutes=minutes, runs=runs, out=out,
            command=command, events=Events(console=Console(stderr=True)),
        )  # fmt: skip
    except CompressError as error:
        click.echo(error, err=True)
        sys.exit(error.exit_code)
    click.echo(report.render(result))


if __name__ == "__main__":
    main()
