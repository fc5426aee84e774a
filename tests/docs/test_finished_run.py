"""The pages that go on from a finished run are typed out, after the tutorial that makes one."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployed.hub_server import TOKEN, serve
from tests.docs.walking import Walk, walk_in

pytestmark = pytest.mark.slow
RUN = {"runs/a": "runs/digits", "runs/b": "runs/larger_student", "runs/NAME": "runs/digits"}
"""What the placeholders of pages stand for."""
BOARD = """#!/bin/sh
# A board that needs no server: what comes last is run by the shell, in a home of its own.
for script; do :; done
cd '{home}' && exec env -i HOME='{home}' PATH='{path}' sh -c "$script"
"""


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, time_once: None) -> Iterator[tuple[Walk, list[str]]]:
    """The tutorial of the digits, followed, and what it printed."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "cache").mkdir()
    with walk_in(folder / "walk", folder / "cache") as walk:
        yield walk, walk.follow("tutorial/digits.md")


@pytest.fixture
def walk(first: tuple[Walk, list[str]]) -> Walk:
    return first[0]


def test_the_first_run(first: tuple[Walk, list[str]]) -> None:
    """Whoever types the tutorial of the digits gets what it says: a report, a verified bundle, a comparison of two runs."""
    walk, printed = first
    assert (walk.folder / "runs" / "digits" / "report.html").is_file()
    assert "larger_student" in printed[-1]


@pytest.mark.parametrize("page", ["howto/several_seeds.md", "howto/int8_that_fails.md"])
def test_what_trains_long_is_checked(page: str, walk: Walk) -> None:
    """Recipes of pages that would train for long are in order, and the other commands answer."""
    assert all(walk.try_out(page, {"recipe.yaml": "recipes/digits.yaml", **RUN}))


@pytest.mark.parametrize("page", ["howto/installing.md", "howto/troubleshooting.md"])
def test_what_works_here_is_told(page: str, walk: Walk, probe_once: None) -> None:
    """`compress doctor` tells the runtimes of this machine."""
    assert "onnxruntime" in walk.follow(page)[0]


def test_a_latency_gate(walk: Walk) -> None:
    """The old file is timed beside the new one, the verdicts are JUnit's XML, and what was written before is a baseline."""
    (file,) = (walk.folder / "runs" / "digits" / "bundle").glob("student*.onnx")
    for name in ("new/student.onnx", "released/student.onnx", "student.onnx", "anchor.onnx"):
        (walk.folder / name).parent.mkdir(exist_ok=True)
        (walk.folder / name).write_bytes(file.read_bytes())
    assert all(walk.follow("howto/latency_gate.md"))
    assert "<testcase" in (walk.folder / "latency.xml").read_text(encoding="utf-8")


def test_a_run_is_followed(walk: Walk) -> None:
    """TensorBoard's own reader finds what a run of the page left."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    text = (walk.folder / "recipes" / "digits.yaml").read_text(encoding="utf-8")
    (walk.folder / "recipes" / "followed.yaml").write_text(text.replace("name: digits", "name: followed", 1), encoding="utf-8")
    for words, mark in walk.list_commands("howto/follow_a_run.md", {"recipe.yaml": "recipes/followed.yaml"}):
        if words[1] != "list":  # the tracker of the page, which has a test of its own
            walk.run(words, shrunk=mark)
    found = EventAccumulator(str(next((walk.folder / "runs" / "followed" / "tensorboard").glob("*"))))
    found.Reload()
    assert found.Tags()["scalars"]


@pytest.mark.filterwarnings(
    "ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning"  # huggingface_hub to its client, when it uploads a file
)
def test_a_bundle_is_published(walk: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page sends arrives at a hub on this machine, as one private repository with a model card."""
    with serve() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # it has a server of its own
        walk.follow("howto/publish_to_a_hub.md", {"OWNER/NAME": "me/digits", **RUN})
        repository = hub.repositories["me/digits"]
    assert (repository["private"], repository["commits"]) == (True, 1)
    assert b"model-index" in repository["branches"]["main"]["README.md"]


@pytest.mark.parametrize("page", ["howto/raspberry_pi.md", "howto/your_own_board.md"])
def test_a_board(page: str, walk: Walk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A board is looked at, proves and times files, is left alone with a job, brings results by hand, and is cleaned up."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text(
        BOARD.format(home=tmp_path, path=f"{Path(sys.executable).parent}:/usr/bin:/bin"), encoding="utf-8"
    )
    (tmp_path / "bin" / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path / "desk"))
    meant = {**RUN, "bench.py": "runs/digits/bundle/bench.py"}
    printed = {}
    for words, mark in walk.list_commands(page, meant):
        printed[" ".join(words)] = said = walk.run(words, shrunk=mark)
        if "--detach" in words:
            meant["5c0f36a1b2d4"] = re.findall(r"\b[0-9a-f]{12}\b", said)[-1]
    assert len(printed) >= 4
    assert not list((tmp_path / ".cache" / "edge-compress").glob("jobs/*"))
