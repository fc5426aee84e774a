"""`torture.json` and `report.md`."""

from __future__ import annotations

from pathlib import Path

from benchmarks.studies.torture.records import GOALS, MEANINGS, Part, Torture
from compress.records import save
from compress.system.files import write_whole

RESULT, REPORT = "torture.json", "report.md"


def write(result: Torture, folder: Path) -> None:
    """Write both files into a folder.

    Raises:
        Unwritable: It cannot be written.
    """
    save(folder / RESULT, result)
    with write_whole(folder / REPORT) as temporary:
        temporary.write_text(render(result), encoding="utf-8")


def render(result: Torture) -> str:
    """Return the report in Markdown."""
    machine = result.environment
    lines = [
        "# Torture: kills, mutated recipes, damaged artefacts, sabotaged runs",
        "",
        "Goal: nothing is lost, nothing damaged is used without a word, no traceback, nothing is left over after the next run.",
        "",
        "| what | tried | goal | faults |",
        "|---|--:|--:|--:|",
        *map(_make_row, result.parts),
        *(line for part in result.parts for line in _list_outcomes(part)),
        "",
        "A run is a fork of a process that has everything imported, and so is its runner. Weights and files must be those of",
        "an undisturbed run, byte for byte, and so must the report be but for times. A file without a checksum, such as a",
        "user's picture or checkpoint, may be *read otherwise*: nothing can tell it from one that was meant.",
        "",
        f"Command: `{result.command}`, seed {result.seed}.",
        f"Machine: {machine.cpu}, {machine.platform}, Python {machine.python}.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _make_row(part: Part) -> str:
    return f"| {part.kind}: {MEANINGS[part.kind]} | {part.tried:,} | {GOALS[part.kind]:,} | {part.faults} |"


def _list_outcomes(part: Part) -> list[str]:
    ordered = sorted(part.outcomes.items(), key=lambda item: -item[1])
    listed = [f"* {count:,}: {' '.join(outcome.split())[:300]}" for outcome, count in ordered]
    return ["", f"## {part.kind}, {part.seconds:.0f} s", "", *listed]
