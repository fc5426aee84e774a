"""`compress device`: its verbs on a board that a package brings, and what a device without them says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmarks.devices import open_device
from compress.cli.commands import program
from compress.errors import CompressError

BOARD = '''"""A board.\x1b[31m"""
from __future__ import annotations
from benchmarks.devices import BoardJob

class Mine:
    """A board.

    Args:
        at: Where; write mine:PLACE.
        slow: Whether it is.
    """

    name = "mine"

    def __init__(self, *, at: Text, slow: bool = False) -> None:
        self.at = at

    def prepare(self, say):
        say("looking at " + self.at)

    def describe(self):
        return {"address": self.at, "model": "Pi \\x1b[2J 4"}

    def list_jobs(self):
        return [BoardJob("1f", "running", "desk", "2026-01-01 00:00", 2048)] if self.at == "mine:full" else []

    def clean(self, *, everything):
        return ["jobs", "packages"] if everything else []
'''


@pytest.fixture
def board(install, tmp_path: Path) -> None:
    """A package with the device `mine`."""
    install("devices", "mine", BOARD)
    (tmp_path / "site-packages" / "acme" / "__init__.py").write_text("")


def call(*arguments: str) -> Result:
    """Run `compress device`."""
    return CliRunner().invoke(program, ["device", *arguments])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("prepare", "mine:a"), "mine:a: is ready"),
        (("show", "mine:a"), "address   mine:a"),
        (("jobs", "mine:a"), "mine:a: no job of ours is there"),
        (("jobs", "mine:full"), "1f    running   desk         2026-01-01 00:00   2.00 KiB"),
        (("clean", "mine:a"), "mine:a: there was nothing of ours"),
        (("clean", "mine:a", "--all"), "jobs\npackages"),
    ],
)
def test_each_verb_shows_what_the_board_says(board: None, arguments: tuple[str, ...], said: str) -> None:
    """What is shown comes from the board, and nothing of it commands the terminal."""
    done = call(*arguments)
    assert done.exit_code == 0
    assert said in done.stdout
    assert "\x1b" not in done.output


def test_in_json_it_is_one_document(board: None) -> None:
    """Machines get the same facts."""
    assert json.loads(call("show", "mine:a", "--json").stdout)["facts"]["address"] == "mine:a"
    assert json.loads(call("jobs", "mine:full", "--json").stdout)[0]["size_bytes"] == 2048
    assert json.loads(call("clean", "mine:a", "--all", "--json").stdout)["removed"] == ["jobs", "packages"]


@pytest.mark.parametrize("verb", ["prepare", "show", "jobs", "clean"])
@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("local", "local: keeps nothing of ours, so there is nothing to do; give the address of a board"),
        ("local:x", "local:x: the device 'local' takes no address; write local"),
        ("mine", "mine: says no address; Where; write mine:PLACE."),
        ("nine:x", "devices: there is no 'nine'; did you mean 'mine'?"),
    ],
)
def test_what_is_no_board_is_one_message(board: None, verb: str, address: str, said: str) -> None:
    """A device without anything to keep, or an address that is none, is bad usage."""
    done = call(verb, address)
    assert (done.exit_code, done.stderr.strip()) == (2, said)


def test_options_of_a_device_are_its_own(board: None) -> None:
    """An unknown one is named with the nearest."""
    assert open_device("mine:x", slow=True).at == "mine:x"
    with pytest.raises(CompressError, match="mine:x: the device 'mine' has no option 'slw'; did you mean 'slow'"):
        open_device("mine:x", slw=True)
