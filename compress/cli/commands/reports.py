"""`compress report` and `compress compare`: what is read of finished runs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from compress.cli.arguments import PATH, RunFolder, make_command, quote
from compress.cli.terminal import Terminal
from compress.errors import Unreachable, Unwritable


@make_command("compare")
@click.argument("runs", type=RunFolder(), nargs=-1, required=True, metavar="RUN...")
@click.option("--out", type=PATH, help="Also write the comparison with its accuracy-latency picture to this .html file.")
def compare(terminal: Terminal, *, runs: Sequence[Path], out: Path | None) -> None:
    """Put the reports of several runs into one table."""
    from benchmarks import report

    reports = [_read_report(run) for run in runs]
    if out is not None:
        report.write_comparison(reports, out)
    shown = (report.make_comparison_table(reports), *report.make_student_tables(reports), *([f"written: {out}"] if out else []))
    terminal.write_result(report.make_document(reports), *shown)
    terminal.hint(quote("report", runs[0]) if out else "the same command with --out comparison.html draws the picture")


@make_command("report")
@click.argument("run", type=RunFolder())
@click.option(
    "--add", type=PATH, multiple=True, metavar="FILE", help="Add what the bundle's bench.py wrote on another machine."
)
def report_(terminal: Terminal, *, run: Path, add: Sequence[Path]) -> None:
    """Print the report of a run; writes report.md and .html anew."""
    from benchmarks import report

    written = _read_report(run)
    if add:
        from compress.run.brought import add_brought

        report.write(add_brought(written, run, add), run)
    else:
        try:
            report.write(written, run)
        except Unwritable as error:  # of a run that one may only read
            terminal.warn(f"{error}; the pages there are as they were")
    show_report(terminal, run)
    terminal.hint(shlex.join(["open", str(run / "report.html")]))


def show_report(terminal: Terminal, run: Path) -> None:
    """Print the report of a run, and say where its pages are."""
    from benchmarks import report

    written = _read_report(run)
    paths = f"report: {run / 'report.html'}  {run / 'report.md'}  {run / 'report.json'}"
    shown = (
        report.make_headline(written, run),
        report.make_table(written),
        *report.make_score_tables(written),
        *report.make_device_tables(written),
    )
    terminal.write_result(report.add_headline(written), *shown, paths)


def _read_report(run: Path) -> Any:
    from compress.records import Report, read

    path = run / "report.json"
    if run.is_dir() and not path.exists():
        raise Unreachable(f"{run}: has no report yet, as its run is unfinished or failed; repeat that run, or leave it out")
    return read(path, Report)
