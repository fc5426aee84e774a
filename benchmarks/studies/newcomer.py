"""Time of a newcomer's way from pictures to a bundle that runs elsewhere: `python -m benchmarks.studies.newcomer`.

Types the page `docs/tutorial/own_pictures.md` in an empty folder outside of the repository: writes the program that it shows,
and runs its commands one after the other, each in a process of its own. Nothing is shortened. Wall time is what a person waits,
and says little where the machine had other work; processor time is that of a command with all processes that it starts. Writes
`newcomer.json` and the table of the page, `table.md`.
"""

from __future__ import annotations

import os
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click

from benchmarks.environment import read_environment
from benchmarks.report import pages
from compress.errors import CompressError
from compress.records import Document, Environment, Record, save
from compress.text import format_number, quantify

ROOT = Path(__file__).parents[2]
PAGE = Path("docs/tutorial/own_pictures.md")
OUT = ROOT / "benchmarks" / "results" / "newcomer"
BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"# (?P<name>[\w.]+\.py)\n")


class Step(Record):
    """One command of the page."""

    command: str
    wall_seconds: float
    cpu_seconds: float
    """Of all cores, the processes that it starts included."""
    exit_code: int


class Newcomer(Document):
    """All commands of the page, in order."""

    command: str
    page: str
    steps: tuple[Step, ...]
    environment: Environment


def read_page(text: str) -> tuple[dict[str, str], list[str]]:
    """Return the programs that a page shows, by the names in their first lines, and its commands in order."""
    programs: dict[str, str] = {}
    commands: list[str] = []
    for block in BLOCK.finditer(text):
        if block["language"] == "python" and (named := NAMED.match(block["text"])):
            programs[named["name"]] = block["text"]
        elif block["language"] == "sh":
            commands += block["text"].splitlines()
    return programs, commands


def follow(commands: list[str], folder: Path) -> Iterator[Step]:
    """Run commands in a folder, and yield each when it has ended.

    Raises:
        CompressError: One failed; those after it need what it should have left.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    for command in commands:
        begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(shlex.split(command), cwd=folder, env=environment, capture_output=True, text=True, check=False)
        wall, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        if done.returncode != 0:
            said = " / ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
            raise CompressError(f"{command}: ended with status {done.returncode}: {said}")
        yield Step(command=command, wall_seconds=wall, cpu_seconds=cpu, exit_code=done.returncode)


def render(result: Newcomer) -> str:
    """Return the result as a table in Markdown, and where it was measured."""
    rows = [
        f"| `{step.command}` | {format_number(step.cpu_seconds, 2)} | {format_number(step.wall_seconds, 2)} |"
        for step in result.steps
    ]
    cpu, wall = (sum(getattr(step, name) for step in result.steps) for name in ("cpu_seconds", "wall_seconds"))
    rows.append(f"| all | {format_number(cpu, 2)} | {format_number(wall, 2)} |")
    machine = result.environment
    load = machine.facts["load_average_1_5_15_min"]
    where = f"{machine.cpu}, {quantify(machine.cores_logical, 'core')}; load at the end {load}."
    return "\n".join(["| command | processor, s | wall, s |", "|---|--:|--:|", *rows, "", where, ""])


@click.command()
@click.option("--out", default=OUT, type=click.Path(file_okay=False, path_type=Path), help="Folder of the result.")
def main(out: Path) -> None:
    """Time the way from a folder of pictures to a bundle that runs outside of the repository."""
    programs, commands = read_page((ROOT / PAGE).read_text(encoding="utf-8"))
    steps = []
    try:
        with tempfile.TemporaryDirectory(prefix="edge-compress-") as folder:
            for name, text in programs.items():
                (Path(folder) / name).write_text(text, encoding="utf-8")
            for step in follow(commands, Path(folder)):
                click.echo(f"{step.wall_seconds:8.1f} s, processor {step.cpu_seconds:8.1f} s  {step.command}", err=True)
                steps.append(step)
        result = Newcomer(
            command="python -m benchmarks.studies.newcomer", page=str(PAGE), steps=tuple(steps), environment=read_environment()
        )
        save(out / "newcomer.json", result)
        pages.save(out / "table.md", render(result))
    except CompressError as error:
        click.echo(error, err=True)
        sys.exit(error.exit_code)
    click.echo(render(result))


if __name__ == "__main__":
    main()
