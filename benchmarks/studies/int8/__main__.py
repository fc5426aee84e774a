"""Compare our int8 files with those that NNCF and onnxruntime make by their defaults: accuracy, size and speed.

    python -m benchmarks.studies.int8 RUN... [--exported FORMAT] [--rounds 15] [--seconds 12] [--out FOLDER]

For each finished run of `compress run`: every file of the student on its own runtime, with accuracy on the test split, the rung
of the ladder that it is from, and its speed against float32; and beside them what the defaults of NNCF and onnxruntime make of
the same float32 files with the same calibration images (`defaults.py`). Writes `int8.json` and `report.md`, and a copy of
each run's own report in a folder beside them. Networks that are in `int8.json` already stay, unless their run is given again.
Give the machine nothing else to do. The result is written after every run. Timing takes
`--seconds` for each runtime of a run; the test images and the quantizers of others come on top, minutes for 224 pixels.

Formats whose packages want an environment of their own are measured there, once the rows above exist. For example, where
`edge-compress[executorch]` is installed:

    compress export RUN --to executorch:fp32 --to executorch:int8
    python -m benchmarks.studies.int8 RUN --exported executorch

The rows are added to the run's, with the environment that they were measured in; all others stay.
"""

from __future__ import annotations

import math
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from rich.console import Console

from benchmarks.environment import read_environment
from benchmarks.studies.int8.defaults import NAMES
from benchmarks.studies.int8.records import OURS, Int8, Network, Row, Session
from benchmarks.studies.int8.report import POINTLESS, RESULT, read_sabotage, render, write
from benchmarks.studies.int8.rows import SAME_POINTS, measure_rows
from benchmarks.studies.int8.runs import FLOAT, Finished, copy_reports, open_run
from compress.errors import CompressError
from compress.events import Events
from compress.quantization.saturation import find_vnni_flags
from compress.records import read

FOLDER = Path(__file__).parents[2] / "results" / "int8"
NNCF_IMAGES = 300
"""`subset_size` of `nncf.quantize` by default: of more images it takes the first."""


def measure(run: Finished, *, rounds: int, seconds: float, events: Events) -> Network:
    """Return the table of one finished run.

    Args:
        run: As `opened` gives it.
        rounds: Interleaved rounds of timing.
        seconds: Of timing, for all files of one runtime.
        events: Where progress goes.

    Raises:
        CompressError: A file is not what the run's report says.
        Unreachable: A runtime is not installed, or the disk is full.
    """
    found = measure_session(run, tuple(run.group_by_format()), rounds=rounds, seconds=seconds, events=events)
    student = next(each for each in run.report.variants if each.network == "student")
    trained = [each.seeds[0].seed for each in run.report.scores if each.network == "student"]
    return Network(
        name=run.name, recipe=f"recipes/{run.recipe.name}.yaml", student=run.recipe.student.model,
        parameters=student.parameters, seed=trained[0] if trained else run.recipe.seed,
        images=run.report.images, test_key=run.data.test_key,
        calibration_images=len(run.calibration.images), calibration_key=run.calibration.key,
        max_top1_drop_points=run.recipe.gate.max_top1_drop_points, **dict(found),
    )  # fmt: skip


def measure_session(run: Finished, formats: Sequence[str], *, rounds: int, seconds: float, events: Events) -> Session:
    """Return the rows of some formats of a run, measured here and now; arguments and errors are as for `measure`."""
    machine, found, notes = read_environment(), list[Row](), list[str]()
    with tempfile.TemporaryDirectory(prefix="edge-compress-") as name:
        for file_format in formats:
            events.say(f"{run.name}: {file_format}")
            own, said = measure_rows(
                run, file_format, Path(name) / file_format, rounds=rounds, seconds=seconds, events=events
            )  # fmt: skip
            found += own
            notes += said
    return Session(
        rows=tuple(found), notes=(*notes, *_collect_notes(run, found)), rounds=rounds, seconds=seconds, environment=machine,
        vnni=bool(find_vnni_flags(machine.facts["instructions"])),
    )  # fmt: skip


def _collect_notes(run: Finished, found: list[Row]) -> Iterator[str]:
    """Yield remarks on failed, slow, adapted and unstable rows."""
    for row in found:
        if row.status == "failed":
            apart = "; the run keeps it apart, and here it is only measured" if row.made_by == OURS else ""
            yield f"{row.name}: failed: {row.reason}{apart}."
        if row.precision == "int8" and row.ratio is not None and row.ratio.verdict in POINTLESS:
            low, high = row.ratio.ci95
            pace = f"{row.ratio.speedup:.2f}× ({low:.2f}–{high:.2f}) that of float32, {row.ratio.verdict}"
            yield f"{row.name}: int8 does not pay in speed: {pace}."
        if row.rung == "distillation":
            yield f"{row.name}: the network was adapted to int8, so it agrees less with the one that it is compared with here."
    shaky = [row.name for row in found if row.latency_ms is not None and not row.latency_ms.stable]
    if shaky:
        yield f"{', '.join(shaky)}: the latency is unstable, so take the speed as a rough figure."
    by_nncf = NAMES["openvino"] in {row.made_by for row in found}
    if by_nncf and len(run.calibration.images) > NNCF_IMAGES:
        yield f"By default NNCF takes the first {NNCF_IMAGES} of the {len(run.calibration.images)} calibration images."


@click.command()
@click.argument(
    "runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option(
    "--exported", "formats", multiple=True, metavar="FORMAT",
    help="Measure what `compress export` made of the runs in this format, and add the rows to theirs; repeatable.",
)  # fmt: skip
@click.option("--rounds", default=15, show_default=True, type=click.IntRange(min=5), help="Interleaved rounds of timing.")
@click.option(
    "--seconds", default=12.0, show_default=True, type=click.FloatRange(min=0, min_open=True),
    help="Of timing, for all files of one runtime.",
)  # fmt: skip
@click.option("--out", default=FOLDER, type=click.Path(file_okay=False, path_type=Path), help="Folder of the result.")
def main(*, runs: tuple[Path, ...], formats: tuple[str, ...], rounds: int, seconds: float, out: Path) -> None:
    """Compare the int8 files of finished runs with what the defaults of others make."""
    events = Events(console=Console(stderr=True))
    try:
        for folder in runs:
            run = open_run(folder, exported=formats)
            if not formats:
                copy_reports(run, out / run.name)
                network = measure(run, rounds=rounds, seconds=seconds, events=events)
                result = _add_network(out, network, command=_make_command(rounds, seconds), events=events)
                write(result, out)  # after every run, for the whole takes long
            for file_format in formats:
                _read_known(out, run)  # refuses before anything is measured
                found = measure_session(run, [file_format], rounds=rounds, seconds=seconds, events=events)
                result = _add_session(out, run, found)
                write(result, out)
    except CompressError as error:
        click.echo(error, err=True)
        sys.exit(error.exit_code)
    click.echo(render(result, read_sabotage(out)))


def _add_network(out: Path, network: Network, *, command: str, events: Events) -> Int8:
    """Return the result that is there already, with this network new or in its old place."""
    path = out / RESULT
    known = {each.name: each for each in read(path, Int8).networks} if path.is_file() else {}
    old = known.get(network.name)
    if old is not None and old.further:
        if same := _is_same(network, old):
            network = network.model_copy(update={"further": old.further})
        events.say(f"{network.name}: its rows of further formats {'stay' if same else 'go, for they are of another network'}")
    return Int8(command=command, networks=tuple((known | {network.name: network}).values()))


def _is_same(network: Network, other: Network) -> bool:
    """Return whether two tables are of the same weights, as far as images and accuracy tell."""
    keys = [(each.test_key, each.calibration_key) for each in (network, other)]
    return keys[0] == keys[1] and _is_as_good(network.rows, other.rows)


def _is_as_good(rows: Sequence[Row], others: Sequence[Row]) -> bool:
    """Return whether two networks are right on the same share of the test images in float32."""
    return abs(_find_top1(rows) - _find_top1(others)) <= SAME_POINTS


def _find_top1(rows: Sequence[Row]) -> float:
    """Return the accuracy in float32 in percent; what is not known is like nothing else."""
    found = next((row.accuracy for row in rows if row.precision == FLOAT), None)
    return math.nan if found is None else found.top1_percent


def _read_known(out: Path, run: Finished) -> Int8:
    """Return the result that has the rows of a run's own formats.

    Raises:
        CompressError: It has not.
    """
    path = out / RESULT
    known = read(path, Int8) if path.is_file() else Int8(command="", networks=())
    keys = {each.name: (each.test_key, each.calibration_key) for each in known.networks}
    if keys.get(run.name) != (run.data.test_key, run.calibration.key):
        raise CompressError(
            f"{path}: has no rows of {run.name} on these images; first run `python -m benchmarks.studies.int8 {run.folder}`"
        )
    return known


def _add_session(out: Path, run: Finished, found: Session) -> Int8:
    """Return the result that is there already, with further rows of this run in it.

    Raises:
        CompressError: The rows there are of another network.
    """
    known = _read_known(out, run)
    networks = {each.name: each for each in known.networks}
    own = networks[run.name]
    if not _is_as_good(own.rows, found.rows):
        raise CompressError(
            f"{out / RESULT}: {run.name} has another accuracy there; first run `python -m benchmarks.studies.int8 {run.folder}`"
        )
    others = {each.rows[0].format: each for each in own.further}
    further = tuple((others | {found.rows[0].format: found}).values())
    changed = own.model_copy(update={"further": further})
    return known.model_copy(update={"networks": tuple((networks | {run.name: changed}).values())})


def _make_command(rounds: int, seconds: float) -> str:
    """Return how this is called, without where runs and report are on this machine."""
    return shlex.join(
        ["python", "-m", "benchmarks.studies.int8", "RUN...", "--rounds", str(rounds), "--seconds", f"{seconds:g}"]
    )


if __name__ == "__main__":
    main()
