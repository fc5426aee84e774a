"""The stage cache: what is found is what was made, whatever happened to the disk meanwhile."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from compress.events import Events
from compress.run.cache import SUMS, Cache

KEY = "a" * 64


def _work(folder: Path) -> None:
    (folder / "outcome.json").write_text('{"top1": 97.25}')
    (folder / "tried").mkdir(exist_ok=True)
    (folder / "tried" / "model.onnx").write_bytes(bytes(range(256)))
    (folder / ".decision.json").write_text("kept for the next time")


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def _halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


SPOILS: dict[str, Callable[[Path], None]] = {
    "flipped": _flip,
    "half": _halve,
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "lost": Path.unlink,
    "a folder": _replace_by_folder,
}


@pytest.mark.parametrize("name", ["outcome.json", "tried/model.onnx", SUMS])
@pytest.mark.parametrize("spoil", SPOILS)
def test_what_is_damaged_is_said_and_made_anew(name: str, spoil: str, tmp_path: Path) -> None:
    """Whatever happened to a file of a finished stage, it is not used, one line says so, and it is made anew."""
    folder = Cache(tmp_path).make(KEY, "student", _work)
    SPOILS[spoil](folder / name)
    events = Events()
    assert Cache(tmp_path, events).make(KEY, "student", _work) == folder
    (said,) = events.warnings
    assert said.startswith(f"student: what was made in {folder} is damaged (")
    assert name in said
    assert Cache(tmp_path, events).find(KEY, "student") == folder
    assert len(events.warnings) == 1


def test_a_stage_that_became_a_file_is_made_anew(tmp_path: Path) -> None:
    """A folder in whose place a file lies is as good as none."""
    folder = Cache(tmp_path).make(KEY, "student", _work)
    for path in (folder, folder.with_name(f"{KEY}.partial")):
        shutil.rmtree(path, ignore_errors=True)
        path.write_text("x")
    assert Cache(tmp_path).make(KEY, "student", _work).is_dir()


def test_a_file_that_was_added_is_noticed(tmp_path: Path) -> None:
    """What nobody made there is not taken for a result."""
    folder = Cache(tmp_path).make(KEY, "student", _work)
    (folder / "weights.safetensors").write_text("x")
    events = Events()
    assert Cache(tmp_path, events).find(KEY, "student") is None
    assert f"weights.safetensors is not in {SUMS}" in events.warnings[0]


def test_hidden_files_are_no_results(tmp_path: Path) -> None:
    """A choice that a stage keeps for its own continuation may go without harm."""
    folder = Cache(tmp_path).make(KEY, "student", _work)
    (folder / ".decision.json").unlink()
    assert Cache(tmp_path).find(KEY, "student") == folder


def test_the_system_s_own_tool_checks_a_stage(tmp_path: Path) -> None:
    """Who doubts a folder needs nothing of ours."""
    folder = Cache(tmp_path).make(KEY, "student", _work)
    done = subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["outcome.json: OK", "tried/model.onnx: OK"]


def test_a_stage_is_made_once_and_found_by_others(tmp_path: Path) -> None:
    """What is whole is not made again."""
    made: list[Path] = []

    def work(folder: Path) -> None:
        made.append(folder)
        _work(folder)

    for _ in range(2):
        Cache(tmp_path).make(KEY, "student", work)
    assert len(made) == 1
