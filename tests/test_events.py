"""Progress: what people see with and without a terminal, and what machines read."""

from __future__ import annotations

import io
import json
import math
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from compress import events
from compress.errors import Unreachable
from compress.events import Events

STEPS = 500


def screen(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=60)


def seen(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_silent_by_default(capfd: pytest.CaptureFixture[str]) -> None:
    """A library call that is given no place to report to writes nothing anywhere."""
    silent = Events()
    silent.emit("epoch", loss=1)
    silent.say("hello")
    silent.show("hello")
    with silent.task("training", total=2) as task:
        task.advance(2, note="loss 1")
    assert capfd.readouterr() == ("", "")


def test_bar_on_a_terminal() -> None:
    """On a terminal one live line shows what is done of how much, with a note, and is gone afterwards."""
    console = screen(terminal=True)
    with Events(console=console).task("training [kd]", total=STEPS, done=100) as task:
        task.advance(300, note="loss [0.5]")
        deadline = time.monotonic() + 60
        while "400/500" not in seen(console) and time.monotonic() < deadline:
            time.sleep(0.05)  # the bar is drawn ten times a second
    assert "training [kd]" in seen(console)
    assert "400/500" in seen(console)
    assert "loss [0.5]" in seen(console)
    assert seen(console).endswith("\r\x1b[2K\x1b[?25h\r")  # in the end the line is erased and the cursor is back


def test_two_tasks_at_once() -> None:
    """A task inside a task is shown too."""
    console = screen(terminal=True)
    reporter = Events(console=console)
    with reporter.task("outer", total=2) as outer, reporter.task("inner", total=2) as inner:
        inner.advance()
        outer.advance()
    assert "inner" in seen(console)
    with reporter.task("later", total=2):
        pass
    assert "later" in seen(console)


def test_plain_lines_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal a line now and then tells progress, note and time left, unbroken and without control characters."""
    monkeypatch.setattr(events, "PLAIN_INTERVAL_SECONDS", -1.0)
    console = screen(terminal=False)
    with Events(console=console).task("training [kd]" + "x" * 80, total=4, done=1) as task:
        task.advance(1)
        task.advance(1, note="loss [0.5]")
    first, line = seen(console).splitlines()
    assert first.endswith(": 2/4")
    assert line.startswith("training [kd]xxx")
    assert "3/4 loss [0.5], 0 s left" in line
    assert "\x1b" not in line


def test_number_of_lines_is_bounded() -> None:
    """However many steps there are, a task that takes less than the interval prints no line without a terminal."""
    console = screen(terminal=False)
    with Events(console=console).task("training", total=STEPS) as task:
        for _ in range(STEPS):
            task.advance()
    assert seen(console) == ""


def test_time_left_is_that_of_the_steps_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither steps done before a continued run nor a slow first step, which waits for teachers, count."""
    clock = [0.0]
    monkeypatch.setattr(events.time, "monotonic", lambda: clock[0])
    console = screen(terminal=False)
    with Events(console=console).task("training", total=100, done=79) as task:
        clock[0] = 1e6
        task.advance()
        assert "80/100" in seen(console)
        assert "left" not in seen(console)  # nobody knows yet
        clock[0] += 100.0
        task.advance(10)  # 10 steps in 100 s: the other 10 take as long
    assert "90/100" in seen(console)
    assert "2 min left" in seen(console)


def test_say_prints_what_it_is_given() -> None:
    """A line is neither broken nor read as markup."""
    console = screen(terminal=False)
    Events(console=console).say("[kd] " + "word " * 40)
    assert seen(console) == "[kd] " + "word " * 40 + "\n"


def test_a_line_for_every_event(tmp_path: Path) -> None:
    """Events are appended, one JSON object per line, with their time."""
    path = tmp_path / "events.jsonl"
    Events(path).emit("stage", name="teacher", path=tmp_path)
    Events(path).emit("epoch", losses={"kd": math.nan, "total": math.inf})
    first, second = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    assert (first["event"], first["name"], first["path"]) == ("stage", "teacher", str(tmp_path))
    assert (second["event"], second["losses"]) == ("epoch", {"kd": "NaN", "total": "Infinity"})
    assert first["time"] <= second["time"]


def test_a_step_is_timed_without_the_steps_inside_it(tmp_path: Path) -> None:
    """Own seconds add up to those of the outer step; a task without a kind is no step, and one that failed neither."""
    path = tmp_path / "events.jsonl"
    events = Events(path)
    inside = events.task("inner", total=1, kind="evaluation")
    with events.task("outer", total=1, kind="export"), events.task("shown", total=1), inside:
        time.sleep(0.01)
    with pytest.raises(ValueError, match="x"), events.task("failed", total=1, kind="export"):
        raise ValueError("x")
    inner, outer = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(each["event"], each["kind"], each["description"]) for each in (inner, outer)] == [
        ("step", "evaluation", "inner"), ("step", "export", "outer"),
    ]  # fmt: skip
    assert inner["own_seconds"] == inner["seconds"] >= 0.01
    assert inner["own_seconds"] + outer["own_seconds"] == pytest.approx(outer["seconds"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # the file is appended to, as in use
@given(st.dictionaries(st.text(st.characters(codec="utf-8")), st.floats() | st.text(st.characters(codec="utf-8")) | st.none()))
def test_any_field_is_one_valid_line(tmp_path: Path, fields: dict[str, object]) -> None:
    """No value, line breaks and NaN included, breaks a line in two or makes it unreadable for a strict reader."""
    path = tmp_path / "events.jsonl"
    Events(path).emit("any", fields=fields)
    last = path.read_bytes().split(b"\n")[-2]
    assert set(json.loads(last, parse_constant=pytest.fail)["fields"]) == set(fields)


@pytest.mark.parametrize(
    ("path", "reason", "remedy"),
    [
        ("/dev/full", "No space left on device", "free space"),
        ("/dev/null/events.jsonl", "Not a directory", "move away what is in its place"),
        ("/dev", "Is a directory", "move away what is in its place"),
    ],
)
def test_a_file_that_refuses(path: str, reason: str, remedy: str) -> None:
    """A full disk or an unfit path is one message with the path, the reason and the way out."""
    with pytest.raises(Unreachable, match=f"^{path}: cannot be written \\({reason}\\); {remedy} or choose another folder$"):
        Events(Path(path)).emit("epoch")


def test_attach_directs_what_follows(tmp_path: Path) -> None:
    """Events go to the file that was attached last."""
    reporter = Events()
    reporter.emit("lost")
    reporter.attach(tmp_path / "events.jsonl")
    reporter.emit("kept")
    assert json.loads((tmp_path / "events.jsonl").read_text())["event"] == "kept"


def test_a_warning_is_said_to_who_wants_quiet_too() -> None:
    """With --quiet there is no progress, but a result that was damaged is told all the same; the report has it once."""
    said = io.StringIO()
    events = Events(console=Console(file=said, width=200), quiet=True)
    events.say("student: epoch 1")
    for _ in range(2):
        events.warn("student: its state is damaged; it starts again")
    with events.task("train", 2) as task:
        task.advance()
    assert set(said.getvalue().splitlines()) == {"student: its state is damaged; it starts again"}
    assert events.warnings == ["student: its state is damaged; it starts again"]
