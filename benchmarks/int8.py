"""What int8 costs and buys: `python -m benchmarks.int8 RUN... [--rounds 15] [--seconds 12] [--out FOLDER]`.

For each finished run of `compress run`: every file of the student on its own runtime, with accuracy on the test split, the rung
of the ladder that it is from, and its speed against float32; and beside them what the defaults of NNCF and onnxruntime make of
the same float32 files with the same calibration images (`_int8_plain.py`). Writes `int8.json` and `report.md`, and a copy of
each run's own report in a folder beside them. Networks that are in `int8.json` already stay, unless their run is given again.
Give the machine nothing else to do. The result is written after every run.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console

from benchmarks import _int8_report, _int8_rows, _int8_runs
from benchmarks._int8_records import OURS, Int8, Network, Row
from benchmarks._int8_report import POINTLESS, RESULT
from benchmarks._int8_runs import Finished
from benchmarks.environment import environment
from compress.errors import CompressError
from compress.events import Events
from compress.records import read

FOLDER = Path(__file__).parent / "results" / "int8"
VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""Flags of x86 processors that add int8 products in 32 bits; who has AMX has VNNI."""
NNCF_IMAGES = 300
"""`subset_size` of `nncf.quantize` by default: of more images it takes the first."""


def measure(run: Finished, *, rounds: int, seconds: float, events: Events) -> Network:
    """Return the table of one finished run.

    Args:
        run: As `_int8_runs.opened` gives it.
        rounds: Interleaved rounds of timing.
        seconds: Of timing, for all files of one runtime.
        events: Where progress goes.

    Raises:
        CompressError: A file is not what the run's report says.
        Unreachable: A runtime is not installed, or the disk is full.
    """
    machine, found, notes = environment(), list[Row](), list[str]()
    with tempfile.TemporaryDirectory(prefix="edge-compress-") as name:
        for file_format in run.rows():
            events.say(f"{run.name}: {file_format}")
            own, said = _int8_rows.rows(
                run, file_format, Path(name) / file_format, rounds=rounds, seconds=seconds, events=events
            )  # fmt: skip
            found += own
            notes += said
    student = next(each for each in run.report.variants if each.network == "student")
    trained = [each.seeds[0].seed for each in run.report.scores if each.network == "student"]
    return Network(
        name=run.name, recipe=f"recipes/{run.recipe.name}.yaml", student=run.recipe.student.model,
        parameters=student.parameters, seed=trained[0] if trained else run.recipe.seed,
        images=run.report.images, test_key=run.data.test_key,
        calibration_images=len(run.calibration.images), calibration_key=run.calibration.key,
        max_top1_drop_points=run.recipe.gate.max_top1_drop_points, rows=tuple(found), notes=(*notes, *_notes(run, found)),
        rounds=rounds, seconds=seconds, environment=machine,
        vnni=bool(VNNI & {flag.strip() for flag in machine.facts["instructions"].split(",")}),
    )  # fmt: skip


def _notes(run: Finished, found: list[Row]) -> Iterator[str]:
    """Yield what a reader of the rows must know."""
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
    if len(run.calibration.images) > NNCF_IMAGES:
        yield f"By default NNCF takes the first {NNCF_IMAGES} of the {len(run.calibration.images)} calibration images."


@click.command()
@click.argument(
    "runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--rounds", default=15, show_default=True, type=click.IntRange(min=5), help="Interleaved rounds of timing.")
@click.option(
    "--seconds", default=12.0, show_default=True, type=click.FloatRange(min=0, min_open=True),
    help="Of timing, for all files of one runtime.",
)  # fmt: skip
@click.option("--out", default=FOLDER, type=click.Path(file_okay=False, path_type=Path), help="Folder of the result.")
def main(*, runs: tuple[Path, ...], rounds: int, seconds: float, out: Path) -> None:
    """Compare the int8 files of finished runs with what the defaults of others make."""
    events = Events(console=Console(stderr=True))
    try:
        for folder in runs:
            run = _int8_runs.opened(folder)
            _int8_runs.copy_reports(run, out / run.name)
            network = measure(run, rounds=rounds, seconds=seconds, events=events)
            result = _added(out, network, command=_command(rounds, seconds))
            _int8_report.write(result, out)  # after every run, for the whole takes long
    except CompressError as error:
        click.echo(error, err=True)
        sys.exit(error.exit_code)
    click.echo(_int8_report.markdown(result, _int8_report.sabotage(out)))


def _added(out: Path, network: Network, *, command: str) -> Int8:
    """Return the result that is there already, with this network new or in its old place."""
    path = out / RESULT
    known = {each.name: each for each in read(path, Int8).networks} if path.is_file() else {}
    return Int8(command=command, networks=tuple((known | {network.name: network}).values()))


def _command(rounds: int, seconds: float) -> str:
    """Return how this is called, without where runs and report are on this machine."""
    return shlex.join(["python", "-m", "benchmarks.int8", "RUN...", "--rounds", str(rounds), "--seconds", f"{seconds:g}"])


if __name__ == "__main__":
    main()
