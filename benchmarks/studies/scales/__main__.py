"""Measure the scale of every method's gradient over a short training, and what comes of its student.

    python -m benchmarks.studies.scales [--seeds 2] [--images 400] [--epochs 30] [--arm NAME]... [--out FOLDER]

Every method is trained by its defaults on the digits, by SGD and by AdamW. Writes `scales.json` and `report.md` after every
student, and the same command continues where it was interrupted. Takes about ten minutes of one core.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import click
from rich.console import Console

from benchmarks.environment import read_environment
from benchmarks.studies.resuming import read_earlier
from benchmarks.studies.scales import report
from benchmarks.studies.scales.arms import (
    ARMS,
    OPTIMIZERS,
    Task,
    batch_shuffled,
    load_digits,
    run_arm,
    test,
    train_teacher,
)
from benchmarks.studies.scales.records import Scales
from compress.errors import CompressError
from compress.events import Events
from compress.fingerprint import hash_sources

FOLDER = Path(__file__).parents[2] / "results" / "scales"
DECISIVE = (
    "benchmarks/studies/scales/arms.py", "compress/losses/*.py", "compress/methods/**/*.py",
    "compress/training/optimizer.py",
)  # fmt: skip
"""Sources that decide the result."""


def study(names: Sequence[str], out: Path, *, seeds: int, images: int, epochs: int, command: str, events: Events) -> Scales:
    """Train every arm that an earlier call did not, and write the result after each.

    Args:
        names: Keys of `ARMS`.
        out: Folder of the result.
        seeds: Students of each arm.
        images: Training images.
        epochs: Of each student.
        command: What the report says it was made with.
        events: Where progress goes.

    Raises:
        CompressError: What lies in the folder is of another command or version.
        Unreachable: The folder cannot be written.
    """
    source = hash_sources(*DECISIVE)
    earlier = read_earlier(out / report.RESULT, Scales, command=command, source=source)
    done = {(arm.name, arm.optimizer, arm.seed): arm for arm in (earlier.arms if earlier else ())}
    data = load_digits(images)
    wanted = [(name, optimizer, seed) for seed, optimizer, name in product(range(1, seeds + 1), OPTIMIZERS, names)]
    task = Task(data, train_teacher(data), epochs)
    counts = {"train": len(data.train.labels), "test": len(data.test.labels)}
    settings = OPTIMIZERS["sgd"]
    with events.task("scales", total=len(wanted)) as progress:
        for each in wanted:
            if each not in done:
                done[each] = run_arm(*each, task)
            arms = sorted(
                done.values(), key=lambda arm: (arm.seed, [*OPTIMIZERS].index(arm.optimizer), [*ARMS].index(arm.name))
            )
            result = Scales(
                command=command, source=source, images=counts, steps=epochs * len(batch_shuffled(data, settings, 0)),
                teacher_top1_percent=test(task.teacher, data)[1], arms=tuple(arms), environment=read_environment(),
            )  # fmt: skip
            report.write(result, out)
            progress.advance(note=f"{each[0]}, {each[1]}")
    return result


@click.command()
@click.option("--seeds", default=2, show_default=True, type=click.IntRange(min=1), help="Students of each method.")
@click.option("--images", default=400, show_default=True, type=click.IntRange(100, 1300), help="Training images.")
@click.option("--epochs", default=30, show_default=True, type=click.IntRange(min=1), help="Of each student.")
@click.option("--arm", "names", multiple=True, type=click.Choice(list(ARMS)), help="Only this one; repeatable.  [default: all]")
@click.option("--out", default=FOLDER, type=click.Path(file_okay=False, path_type=Path), help="Folder of the result.")
def main(*, seeds: int, images: int, epochs: int, names: tuple[str, ...], out: Path) -> None:
    """Measure the scale of every method's gradient, and what comes of its student."""
    arguments = ["--seeds", str(seeds), "--images", str(images), "--epochs", str(epochs)]
    arguments += [part for name in names for part in ("--arm", name)]
    command = shlex.join(["python", "-m", "benchmarks.studies.scales", *arguments])
    try:
        result = study(
            names or tuple(ARMS), out, seeds=seeds, images=images, epochs=epochs, command=command,
            events=Events(console=Console(stderr=True)),
        )  # fmt: skip
    except CompressError as error:
        click.echo(error, err=True)
        sys.exit(error.exit_code)
    click.echo(report.render(result))


if __name__ == "__main__":
    main()
