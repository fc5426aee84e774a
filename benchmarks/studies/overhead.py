"""Overhead of a recipe beside training and timing: `python -m benchmarks.studies.overhead [RUN_FOLDER] [--out FOLDER]`.

Without a folder, runs `recipes/digits.yaml` anew in a temporary one, which takes as long as that run: a few minutes. With the
folder of a finished run, reads its `events.jsonl`, which takes a second but does not know how long the process took to start.
Give the machine nothing else to do. Writes `overhead.json` and `report.md`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.environment import read_environment
from benchmarks.report import pages
from compress.errors import CompressError, Unreachable
from compress.records import Document, Environment, Record, save
from compress.text import format_duration, format_number, quantify

ROOT = Path(__file__).parents[2]
RECIPE = "recipes/digits.yaml"
OUT = ROOT / "benchmarks" / "results" / "overhead"
TRAINING = ("training", "teacher outputs")
TIMING = ("timing",)
START, BETWEEN = "start of the process", "between the steps"
NOTES = {
    "training": "epochs with their validation",
    "teacher outputs": "views that the teachers were run on for the store",
    "timing": "interleaved rounds, with the processes that run them",
    "verification": "files run on validation and test images in their own processes, and the gate",
    "export": "writing files of fp32 and fp16",
    "int8 search": "writing int8 files, rung by rung",
    "dry run": "every format tried on an untrained student",
    START: "Python, imports and the recipe",
    BETWEEN: "imports, data, preflight, hashes, report and bundle",
}
"""What belongs to each kind of step."""


class Step(Record):
    """All steps of one kind."""

    kind: str
    count: int
    seconds: float
    """Without the steps inside them, which are counted where they belong."""
    percent: float
    """Of the wall time."""


class Overhead(Document):
    """Wall time of one run by kind of step."""

    command: str
    recipe: str
    wall_seconds: float
    steps: tuple[Step, ...]
    """The longest first; together the wall time."""
    training_seconds: float
    timing_seconds: float
    overhead_seconds: float
    """All the rest."""
    stages_found: int
    """Stages that were not trained because the cache had them: with any, this is not the cost of a fresh run."""
    environment: Environment


def summarise(events: Sequence[Mapping[str, Any]], *, wall_seconds: float | None, command: str) -> Overhead:
    """Sum up the steps of the last run in a list of events.

    Args:
        events: Lines of `events.jsonl`.
        wall_seconds: From starting the process to its end; default: between the events `begin` and `end`.
        command: Of the measurement.

    Raises:
        CompressError: The last run has not ended, or its events do not tell how long steps took.
    """
    begins = [number for number, event in enumerate(events) if event["event"] == "begin"]
    own = events[begins[-1] :] if begins else ()
    if not own or own[-1]["event"] != "end":
        raise CompressError("events.jsonl: the last run has not ended; repeat `compress run` and measure then")
    steps = [event for event in own if event["event"] == "step"]
    if not steps:
        raise CompressError("events.jsonl: has no events 'step'; make the run again with this version of edge-compress")
    inside = own[-1]["time"] - own[0]["time"]
    whole = inside if wall_seconds is None else wall_seconds
    sums = {
        kind: sum(each["own_seconds"] for each in steps if each["kind"] == kind) for kind in {each["kind"] for each in steps}
    }
    counts = {kind: sum(each["kind"] == kind for each in steps) for kind in sums}
    sums[BETWEEN] = inside - sum(sums.values())
    if wall_seconds is not None:
        sums[START] = wall_seconds - inside
    training, timing = (sum(sums.get(kind, 0.0) for kind in kinds) for kinds in (TRAINING, TIMING))
    return Overhead(
        command=command, recipe=own[0]["recipe"], wall_seconds=whole,
        steps=tuple(
            Step(kind=kind, count=counts.get(kind, 1), seconds=sums[kind], percent=100 * sums[kind] / whole)
            for kind in sorted(sums, key=lambda kind: -sums[kind])
        ),
        training_seconds=training, timing_seconds=timing, overhead_seconds=whole - training - timing,
        stages_found=sum(event["event"] == "stage" and event["found"] for event in own), environment=read_environment(),
    )  # fmt: skip


def read_events(folder: Path) -> list[dict[str, Any]]:
    """Read the events of a run.

    Raises:
        Unreachable: There is no `events.jsonl`, or it cannot be read.
        CompressError: A line is not JSON.
    """
    path = folder / "events.jsonl"
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise Unreachable(f"{path}: cannot be read ({error.strerror}); give the folder of a finished run") from error
    except ValueError as error:
        raise CompressError(f"{path}: is not JSON, line by line ({error}); make the run again") from error


def run_recipe(recipe: Path, runs: Path) -> tuple[Path, float]:
    """Carry out a recipe in a process of its own; return its folder and the seconds from start to end of the process.

    Raises:
        CompressError: It ended without a report.
    """
    begun = time.monotonic()
    words = [sys.executable, "-m", "compress", "run", str(recipe), "--runs", str(runs), "--quiet"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    seconds = time.monotonic() - begun
    found = list(runs.glob("*/report.json"))
    if len(found) != 1:
        said = " / ".join(done.stderr.strip().splitlines()[-1:])
        raise CompressError(f"{recipe}: its run ended with status {done.returncode} and no report: {said}")
    return found[0].parent, seconds


def make_table(result: Overhead) -> list[str]:
    """Return the steps as a table in Markdown."""
    rows = [
        f"| {step.kind} | {step.count} | {format_number(step.seconds)} | {step.percent:.1f} | {NOTES.get(step.kind, '')} |"
        for step in result.steps
    ]
    return ["| step | times | seconds | share, % | |", "|---|--:|--:|--:|---|", *rows]


def render(result: Overhead) -> str:
    """Return the result as Markdown."""
    machine = result.environment
    share = 100 * result.overhead_seconds / result.wall_seconds
    total = (
        f"Wall time {format_duration(result.wall_seconds)}: training {format_duration(result.training_seconds)}, "
        f"timing {format_duration(result.timing_seconds)}, overhead beside them {format_duration(result.overhead_seconds)} "
        f"({share:.0f} %)."
    )
    parts = [f"# Overhead of {result.recipe}", "", f"`{result.command}`", "", *make_table(result), "", total, ""]
    if result.stages_found:
        parts += [f"{quantify(result.stages_found, 'stage')} came from the cache, so this is not the cost of a fresh run.", ""]
    parts.append(f"{machine.cpu}, {quantify(machine.cores_logical, 'core')}, load {machine.facts['load_average_1_5_15_min']}.")
    return "\n".join(parts) + "\n"


@click.command()
@click.argument("run", required=False, metavar="[RUN_FOLDER]", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--recipe", default=ROOT / RECIPE, type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What is run where no folder is given; default: the digits.",
)  # fmt: skip
@click.option("--out", default=OUT, type=click.Path(file_okay=False, path_type=Path), help="Folder of the result.")
def main(run: Path | None, recipe: Path, out: Path) -> None:
    """Measure where the wall time of a run goes, beside training and timing."""
    command = "python -m benchmarks.studies.overhead"
    try:
        if run is not None:
            result = summarise(read_events(run), wall_seconds=None, command=f"{command} RUN_FOLDER")
        else:
            with tempfile.TemporaryDirectory(prefix="edge-compress-") as runs:
                folder, seconds = run_recipe(recipe, Path(runs))
                result = summarise(read_events(folder), wall_seconds=seconds, command=command)
        save(out / "overhead.json", result)
        pages.save(out / "report.md", render(result))
    except CompressError as error:
        click.echo(error, err=True)
        sys.exit(error.exit_code)
    click.echo(render(result))


if __name__ == "__main__":
    main()
