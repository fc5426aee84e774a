"""Compare our latencies with those of the runtimes' own tools and of plain loops.

    python -m benchmarks.studies.fidelity [--network NAME]... [--rounds 9] [--seconds 2] [--out FOLDER]

Times the files of each network, fp32 and int8, by our own runner, by OpenVINO's `benchmark_app` and by plain loops over
`infer()` and `session.run`, in interleaved pairs of processes. Writes `fidelity.json` and `report.md` after every round. Takes
about 20 minutes on two cores; give the machine nothing else to do.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
from rich.console import Console

from benchmarks.environment import read_environment
from benchmarks.studies.fidelity import report
from benchmarks.studies.fidelity.networks import NETWORKS, File, write_files
from benchmarks.studies.fidelity.records import Fidelity, Row
from benchmarks.studies.fidelity.timers import COMPARED, OTHER_TIMERS, time_ours
from compress.errors import CompressError
from compress.events import Events

FOLDER = Path(__file__).parents[2] / "results" / "fidelity"
OURS = "ours"

Times = dict[str, list[float]]
"""By timer: milliseconds of each round."""


def time_round(file: File, number: int, seconds: float) -> Mapping[str, float]:
    """Return the milliseconds of every timer for a file, ours between the others, in an order that turns round by round.

    Raises:
        CompressError: A timer failed; the message says which.
    """
    first, *others = COMPARED[file.runtime]
    order = [first, OURS, *others]
    turned = order if number % 2 == 0 else order[::-1]
    return {name: (time_ours if name == OURS else OTHER_TIMERS[name])(file, seconds) for name in turned}


def list_rows(times: Mapping[File, Times]) -> tuple[Row, ...]:
    """Return one row for each file and each other timer."""
    return tuple(
        Row(
            network=file.network, precision=file.precision, runtime=file.runtime, against=other,
            ours_ms=tuple(found[OURS]), other_ms=tuple(found[other]),
        )
        for file, found in times.items()
        for other in COMPARED[file.runtime]
    )  # fmt: skip


def compare(names: Sequence[str], out: Path, *, rounds: int, seconds: float, command: str, events: Events) -> Fidelity:
    """Time all files of some networks in rounds, and write the result after each.

    Args:
        names: Keys of `NETWORKS`.
        out: Folder of the result.
        rounds: Pairs of each file and timer.
        seconds: Of timing in each process.
        command: What the report says it was made with.
        events: Where progress goes.

    Raises:
        CompressError: A file cannot be made or timed.
        Unreachable: A package is missing, or the disk is full.
    """
    machine = read_environment()
    with tempfile.TemporaryDirectory(prefix="edge-compress-") as folder:
        files = [file for name in names for file in write_files(name, Path(folder))]
        times: dict[File, Times] = {file: {OURS: [], **{name: [] for name in COMPARED[file.runtime]}} for file in files}
        with events.task("fidelity", total=rounds * len(files)) as task:
            for number in range(rounds):
                for file in files:
                    for name, milliseconds in time_round(file, number, seconds).items():
                        times[file][name].append(milliseconds)
                    task.advance(note=file.path.name)
                result = Fidelity(command=command, seconds=seconds, rows=list_rows(times), environment=machine)
                report.write(result, out)
    return result


@click.command()
@click.option(
    "--network",
    "names",
    multiple=True,
    type=click.Choice(list(NETWORKS)),
    help="Only this network; repeatable.  [default: all]",
)
@click.option("--rounds", default=9, show_default=True, type=click.IntRange(min=1), help="Pairs of each file and timer.")
@click.option(
    "--seconds", default=2.0, show_default=True, type=click.FloatRange(min=0, min_open=True), help="Of timing in each process."
)
@click.option("--out", default=FOLDER, type=click.Path(file_okay=False, path_type=Path), help="Folder of the result.")
def main(*, names: tuple[str, ...], rounds: int, seconds: float, out: Path) -> None:
    """Compare our latencies with those of the runtimes' own tools."""
    arguments = [
        *(part for name in names for part in ("--network", name)),
        "--rounds",
        str(rounds),
        "--seconds",
        f"{seconds:g}",
    ]
    command = shlex.join(["python", "-m", "benchmarks.studies.fidelity", *arguments])
    try:
        result = compare(
            names or tuple(NETWORKS), out, rounds=rounds, seconds=seconds, command=command,
            events=Events(console=Console(stderr=True)),
        )  # fmt: skip
    except CompressError as error:
        click.echo(error, err=True)
        sys.exit(error.exit_code)
    click.echo(report.render(result))


if __name__ == "__main__":
    main()
