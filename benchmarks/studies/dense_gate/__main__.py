"""Check the gate of maps on files of small trained segmenters, good ones and damaged ones.

    python -m benchmarks.studies.dense_gate --work FOLDER [--network NAME]... [--out FOLDER]

Networks are trained on scenes of digits, written in every format and precision, and judged; then float32 and int8 files are
damaged in every way of `damage.py` and judged again. Weights and files stay in `--work`, where the next call takes them from,
so that other bounds are tried in seconds. Writes `dense_gate.json` and `report.md` after every network. From nothing it takes
some eight minutes of one core.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from benchmarks.environment import read_environment
from benchmarks.studies.dense_gate import report
from benchmarks.studies.dense_gate.files import CALIBRATION, Judge, judge_damaged, judge_good, write_files
from benchmarks.studies.dense_gate.networks import KINDS, SIZE, Scenes, load_scenes, train
from benchmarks.studies.dense_gate.records import DenseGate, Known, Segmenter
from compress.errors import CompressError
from compress.events import Events
from compress.fingerprint import hash_sources
from compress.models import count_parameters
from compress.preprocess import normalise
from compress.records import read, save

FOLDER = Path(__file__).parents[2] / "results" / "dense_gate"
DECISIVE = ("benchmarks/studies/dense_gate/*.py", "compress/tasks/segmentation.py", "exporters/**/*.py")
"""Sources that decide the result."""
COUNTS = {"train": 1200, "test": 200}
DAMAGED = ("fp32", "int8")
"""Other precisions have bounds between those of these two."""


def study(names: Sequence[str], work: Path, out: Path, *, rungs: int, command: str, events: Events) -> DenseGate:
    """Judge the files of each network, and write the result after each.

    Args:
        names: Keys of `KINDS`.
        work: Folder of weights and files.
        out: Folder of the result.
        rungs: How many estimators of ranges int8 files are made by.
        command: What the report says it was made with.
        events: Where progress goes.

    Raises:
        CompressError: A format cannot hold a network.
        Unreachable: A folder cannot be written, or a package is missing.
    """
    source, found, scenes = hash_sources(*DECISIVE), list[Segmenter](), load_scenes(COUNTS["train"], COUNTS["test"])
    for name in names:
        events.say(name)
        found.append(_take_known(name, scenes, work, source=source, rungs=rungs, events=events))
        result = DenseGate(
            command=command, source=source, images=COUNTS, size=SIZE, segmenters=tuple(found), environment=read_environment()
        )
        report.write(result, out)
    return result


def _take_known(name: str, scenes: Scenes, work: Path, *, source: str, rungs: int, events: Events) -> Segmenter:
    """Return what an earlier call of the same sources found of a network, or find it."""
    path = work / f"{name}-{rungs}-{source[:12]}.json"
    if not path.is_file():
        save(path, Known(segmenter=_judge_network(name, scenes, work, rungs=rungs, events=events)))
    return read(path, Known).segmenter


def _judge_network(name: str, scenes: Scenes, work: Path, *, rungs: int, events: Events) -> Segmenter:
    network, seconds = train(name, scenes, work, events)
    judge = Judge(network, scenes)
    calibration = normalise(scenes.data.train.images[:CALIBRATION], scenes.preprocess)
    files = list(write_files(name, network, calibration, work / name, rungs=rungs))
    events.say(f"{name}: {len(files)} files")
    damaged = [file for file in files if file.precision in DAMAGED and file.rung in ("", "default")]
    return Segmenter(
        name=name, model=KINDS[name].model, parameters=count_parameters(network), epochs=KINDS[name].epochs,
        miou_percent=judge.measure(), training_seconds=seconds, good=tuple(judge_good(file, judge) for file in files),
        damaged=tuple(each for file in damaged for each in judge_damaged(file, judge)),
    )  # fmt: skip


@click.command()
@click.option("--work", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of weights and files.")
@click.option("--network", "names", multiple=True, type=click.Choice(list(KINDS)), help="Only this one.  [default: all]")
@click.option("--rungs", default=1, show_default=True, help="Estimators of ranges that int8 files are made by.")
@click.option("--out", default=FOLDER, type=click.Path(file_okay=False, path_type=Path), help="Folder of the result.")
def main(*, work: Path, names: tuple[str, ...], rungs: int, out: Path) -> None:
    """Check the gate of maps on good and on damaged files."""
    chosen = [part for name in names for part in ("--network", name)] + ["--rungs", str(rungs)]
    command = shlex.join(["python", "-m", "benchmarks.studies.dense_gate", "--work", "FOLDER", *chosen])
    try:
        events = Events(console=Console(stderr=True))
        result = study(names or tuple(KINDS), work, out, rungs=rungs, command=command, events=events)
    except CompressError as error:
        click.echo(error, err=True)
        sys.exit(error.exit_code)
    click.echo(report.render(result))


if __name__ == "__main__":
    main()
