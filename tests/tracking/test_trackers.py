"""Trackers: what they get of a run, where it lies, and what happens where one is missing or fails."""

from __future__ import annotations

import math
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from compress import plugins
from compress.errors import CompressError, Unreachable
from compress.events import Events
from compress.records import StageResult, save
from compress.tracking import follow_run, require_trackers
from tests.tracking.played import make_epoch, parse, play

Install = Callable[..., None]

NOTES = '''"""A tracker of another package."""
from pathlib import Path

from compress.recipe import Text, WholeNumber

class Notes:
    """Writes lines.

    Args:
        path: The file.
        fails_at: Epoch at which it raises.
    """

    def __init__(self, *, path: Text, fails_at: WholeNumber = 0) -> None:
        self.path, self.fails_at = Path(path), fails_at

    def begin(self, run):
        self.write(f"begin {run.name} {run.recipe['student']['model']}")

    def log(self, stage, epoch, figures):
        if epoch == self.fails_at:
            raise ConnectionError("the server is gone")
        self.write(f"{stage} {epoch} {figures['loss/ce']}")

    def finish(self, figures):
        self.write(f"finish {figures}")

    def write(self, line):
        with self.path.open("a") as file:
            file.write(line + "\\n")
'''


@pytest.fixture
def notes(install: Install, tmp_path: Path) -> Path:
    """The file to which a tracker of another package writes."""
    install("trackers", "notes", NOTES)
    (tmp_path / "site-packages" / "acme" / "__init__.py").write_text("")  # this one may be imported
    return tmp_path / "notes.txt"


def test_another_package_brings_a_tracker(notes: Path, tmp_path: Path) -> None:
    """By its entry point it is listed and named in a recipe with its options, and gets run, epochs and results."""
    assert "notes" in plugins.list_names("trackers")
    play(parse(f"{{tracker: notes, path: {notes}}}"), tmp_path, epochs=2)
    assert notes.read_text().splitlines() == [
        "begin tiny resnet_cifar.resnet8",
        "teacher 1 1.0",
        "teacher 2 0.5",
        "finish {'student-onnx-fp32/percent': 97.5}",
    ]


def test_a_tracker_that_fails_is_named_and_the_run_goes_on(notes: Path, tmp_path: Path) -> None:
    """What it raises is a warning, which the report repeats; it gets nothing further, and others get everything."""
    other = tmp_path / "other.txt"
    track = f"[{{tracker: notes, path: {notes}, fails_at: 2}}]"
    events = play(parse(track), tmp_path)
    (warning,) = events.warnings
    assert "track: notes: ConnectionError: the server is gone" in warning
    assert str(tmp_path) in warning
    assert notes.read_text().splitlines() == ["begin tiny resnet_cifar.resnet8", "teacher 1 1.0"]
    play(parse(f"{{tracker: notes, path: {other}}}"), tmp_path)
    assert len(other.read_text().splitlines()) == 5


def test_a_tracker_that_cannot_begin_stops_the_run_at_once(notes: Path, tmp_path: Path) -> None:
    """Before anything is trained there is one message with its name and what to do."""
    with pytest.raises(CompressError, match=r"track: notes: cannot begin: FileNotFoundError.*leave it out"):
        play(parse(f"{{tracker: notes, path: {tmp_path / 'missing' / 'notes.txt'}}}"), tmp_path)


def test_stages_from_the_cache_have_their_epochs_too(notes: Path, tmp_path: Path) -> None:
    """Of a stage that an earlier run trained, the tracker gets the epochs that its record keeps."""
    (tmp_path / "teacher").mkdir()
    stage = StageResult(
        stage="teacher", key="0" * 64, method="supervised", parameters=1, best_epoch=2, epochs=(make_epoch(1), make_epoch(2)),
        seconds=2, files={},
    )  # fmt: skip
    save(tmp_path / "teacher" / "metrics.json", stage)
    loaded, events = parse(f"{{tracker: notes, path: {notes}}}"), Events()
    with follow_run(require_trackers(loaded), loaded, folder=tmp_path, events=events):
        events.emit("stage", stage="teacher", found=True)
    assert notes.read_text().splitlines()[1:] == ["teacher 1 1.0", "teacher 2 0.5", "finish {}"]


def test_nothing_is_tracked_unless_a_recipe_says_so(tmp_path: Path) -> None:
    """Without `track` no tracker is made, and no result of a recipe depends on it."""
    assert require_trackers(parse("[]")) == []
    assert parse("[]") == parse("[tensorboard]").model_copy(update={"track": ()})


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says which extra to install."""
    monkeypatch.setitem(sys.modules, "trackio", None)
    monkeypatch.delitem(sys.modules, "compress.tracking.trackio", raising=False)
    with pytest.raises(Unreachable, match=r"trackers/trackio needs the package 'trackio'.*pip install"):
        require_trackers(parse("trackio"))


@pytest.mark.slow  # loads TensorBoard
def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    """TensorBoard's own reader finds each figure of each epoch in the run's folder, and the results."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="no extra 'tensorboard'")
    play(parse("tensorboard"), tmp_path)
    found = accumulator.EventAccumulator(str(tmp_path / "tensorboard" / "teacher")).Reload()
    values = [(each.step, each.value) for each in found.Scalars("loss/ce")]
    assert [step for step, _ in values] == [1, 2, 3]
    assert all(math.isclose(value, 1 / step, rel_tol=1e-6) for step, value in values)  # it keeps float32
    assert {"lr", "validation_percent"} <= set(found.Tags()["scalars"])
    results = accumulator.EventAccumulator(str(tmp_path / "tensorboard" / "student-onnx-fp32")).Reload()
    assert results.Scalars("result/percent")[0].value == 97.5


@pytest.mark.slow  # loads trackio
def test_trackio_keeps_the_run_in_its_database(tmp_path: Path) -> None:
    """The database that `trackio show` reads holds every figure; nobody is asked over the network."""
    pytest.importorskip("trackio", reason="no extra 'trackio'")
    program = f"""
import socket, sys
def refuse(*arguments): raise AssertionError(arguments)
socket.socket.connect = refuse
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.tracking.played import parse, play
from pathlib import Path
print(play(parse("trackio"), Path({str(tmp_path)!r})).warnings)
"""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRACKIO_")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=kept | {"TRACKIO_DIR": str(tmp_path / "kept")}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    with sqlite3.connect(tmp_path / "kept" / "edge-compress.db") as database:
        rows = database.execute("select step, metrics from metrics order by step").fetchall()
    assert [step for step, _ in rows][:3] == [1, 2, 3]
    assert "teacher/loss/ce" in str(rows)


@pytest.mark.parametrize("name", ["TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"])
def test_trackio_sends_nothing_that_was_not_allowed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that was set for another program does not send this run away; the token in it is not printed."""
    pytest.importorskip("trackio", reason="no extra 'trackio'")
    monkeypatch.setenv(name, "https://example.org/x?write_token=secret")
    with pytest.raises(CompressError, match=f"{name} is set.*unset it") as caught:
        require_trackers(parse("trackio"))
    assert "secret" not in str(caught.value)
    assert require_trackers(parse("{tracker: trackio, remote: true}"))
