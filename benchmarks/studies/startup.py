"""Start-up time of the command line: `python -m benchmarks.studies.startup [--runs 20] [--json] [--out FILE]`.

Each light command runs in fresh processes, in turn with an interpreter that does nothing, so that what disturbs the machine
disturbs both alike. Budget: `compress --help` under 250 ms (importing torch alone costs 1500). Takes about 20 seconds.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click

from compress.errors import CompressError
from compress.system.files import write_whole

EMPTY = "python -c pass"
COMMANDS: dict[str, list[str]] = {
    EMPTY: ["-c", "pass"],
    "compress --help": ["-m", "compress", "--help"],
    "compress --version": ["-m", "compress", "--version"],
    "compress run --help": ["-m", "compress", "run", "--help"],
    "compress list methods": ["-m", "compress", "list", "methods"],
}
"""What is started, as arguments of the interpreter; the first is what the others are compared with."""


def time_command(arguments: list[str]) -> float:
    """Return the milliseconds from starting an interpreter with these arguments to its end.

    Raises:
        CompressError: It failed; a command that fails fast is no result.
    """
    begun = time.perf_counter_ns()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    elapsed = (time.perf_counter_ns() - begun) / 1e6
    if done.returncode != 0:
        said = " / ".join(done.stderr.strip().splitlines()[-1:])
        raise CompressError(f"python {' '.join(arguments)}: ended with status {done.returncode}: {said}")
    return elapsed


def time_startup(commands: dict[str, list[str]], *, runs: int) -> dict[str, dict[str, float]]:
    """Return min, median and max of each command in milliseconds, and its median over the first one's.

    One uncounted run of each fills the file cache and writes the bytecode.
    """
    samples: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(runs + 1):
        for name, arguments in commands.items():
            elapsed = time_command(arguments)
            if number:
                samples[name].append(elapsed)
    empty = statistics.median(next(iter(samples.values())))
    return {name: _summarise(values, empty) for name, values in samples.items()}


def _summarise(values: list[float], empty: float) -> dict[str, float]:
    median = statistics.median(values)
    figures = {"min_ms": min(values), "median_ms": median, "max_ms": max(values), "median_over_empty_ms": median - empty}
    return {name: round(value, 1) for name, value in figures.items()}


@click.command()
@click.option("--runs", default=20, show_default=True, type=click.IntRange(min=1), help="Counted runs of each command.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Also write the JSON document to this file.")
def main(runs: int, as_json: bool, out: Path | None) -> None:
    """Time how fast the command line starts, in fresh processes."""
    try:
        results = time_startup(COMMANDS, runs=runs)
        document = json.dumps({"python": sys.version.split()[0], "runs": runs, "commands": results}, indent=1)
        if out is not None:
            with write_whole(out) as temporary:
                temporary.write_text(document + "\n", encoding="utf-8")
    except CompressError as error:
        click.echo(error, err=True)
        sys.exit(error.exit_code)
    if as_json:
        click.echo(document)
        return
    click.echo(f"{'milliseconds':24}{'min':>8}{'median':>8}{'max':>8}{'over empty':>12}")
    for name, figures in results.items():
        click.echo(
            f"{name:24}" + "".join(f"{value:{width}.0f}" for value, width in zip(figures.values(), (8, 8, 8, 12), strict=True))
        )


if __name__ == "__main__":
    main()
