"""The study of overhead: steps add up to the wall time, each second once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.studies.overhead import BETWEEN, START, Overhead, main, summarise
from compress.errors import CompressError, Unreachable
from compress.records import read

LINES: list[dict[str, Any]] = [
    {"time": 0.0, "event": "begin", "recipe": "earlier"},
    {"time": 1.0, "event": "step", "kind": "training", "description": "kd", "seconds": 1.0, "own_seconds": 1.0},
    {"time": 100.0, "event": "begin", "recipe": "tiny"},
    {"time": 104.0, "event": "step", "kind": "training", "description": "kd", "seconds": 4.0, "own_seconds": 4.0},
    {"time": 104.0, "event": "stage", "stage": "kd", "found": False},
    {"time": 106.0, "event": "step", "kind": "evaluation", "description": "a", "seconds": 1.5, "own_seconds": 1.5},
    {"time": 106.5, "event": "step", "kind": "verification", "description": "a", "seconds": 2.0, "own_seconds": 0.5},
    {"time": 109.5, "event": "step", "kind": "timing", "description": "measure", "seconds": 3.0, "own_seconds": 3.0},
    {"time": 110.0, "event": "end", "status": "passed", "seconds": 9.0},
]


def write_run(folder: Path, lines: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def test_the_steps_of_the_last_run_add_up_to_its_wall_time() -> None:
    """Nested steps are counted once, what no step covers is a row, and so is the start where it is known."""
    found = summarise(LINES, wall_seconds=12.5, command="c")
    seconds = {step.kind: step.seconds for step in found.steps}
    assert seconds == {
        "training": 4.0, START: 2.5, "timing": 3.0, "evaluation": 1.5, BETWEEN: 1.0, "verification": 0.5,
    }  # fmt: skip
    assert sum(seconds.values()) == found.wall_seconds == 12.5
    assert sum(step.percent for step in found.steps) == pytest.approx(100)
    assert (found.training_seconds, found.timing_seconds, found.overhead_seconds) == (4.0, 3.0, 5.5)
    assert (found.recipe, found.stages_found) == ("tiny", 0)


def test_a_finished_run_becomes_json_and_markdown(tmp_path: Path) -> None:
    """Without a start that was seen, the wall time is that between the first and the last event."""
    run, out = write_run(tmp_path / "tiny", LINES), tmp_path / "out"
    result = CliRunner().invoke(main, [str(run), "--out", str(out)])
    assert result.exit_code == 0, result.output
    found = read(out / "overhead.json", Overhead)
    assert found.wall_seconds == 10.0
    assert START not in {step.kind for step in found.steps}
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "| training | 1 | 4.00 | 40.0 |" in text
    assert "overhead beside them 3.0 s (30 %)" in text
    assert text in result.output


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "has not ended"),
        (LINES[:-1], "has not ended"),
        ([LINES[0], {"time": 1.0, "event": "end"}], "has no events 'step'"),
    ],
)
def test_what_cannot_be_summed_up_is_refused(lines: list[dict[str, Any]], words: str) -> None:
    """A run that is not over, or of a version that did not time its steps, is a message."""
    with pytest.raises(CompressError, match=words):
        summarise(lines, wall_seconds=None, command="c")


def test_a_folder_without_events_is_a_message(tmp_path: Path) -> None:
    """It names the file and the kind of folder that is wanted."""
    result = CliRunner().invoke(main, [str(tmp_path), "--out", str(tmp_path)])
    assert result.exit_code == Unreachable.exit_code
    assert "give the folder of a finished run" in result.stderr
