"""Names from strangers (files, classes, reports) are shown on a terminal, and never obeyed by it."""

from __future__ import annotations

import io
import json

import pytest
from rich.table import Table

from compress.cli.safe_console import make_console
from compress.cli.terminal import Terminal
from compress.events import Events

EVIL = {
    "an escape": ("cat\x1b[31m\x1b]0;owned\x07.png", r"cat\x1b[31m\x1b]0;owned\x07.png"),
    "a control of eight bits": ("cat\x9b31m.png", r"cat\x9b31m.png"),
    "text that runs backwards": ("cat\u202egnp.exe\u2066", r"cat\u202egnp.exe\u2066"),
    "a line that is written over": ("cat\rok", r"cat\rok"),
    "half a character": ("cat\udcff.png", r"cat\udcff.png"),
}


@pytest.mark.parametrize(("name", "shown"), EVIL.values(), ids=list(EVIL))
def test_a_message_shows_a_name_and_does_not_obey_it(name: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong with a file is said with its name in escapes."""
    Terminal().refuse(f"{name}: is no picture", 2)
    assert capsys.readouterr().err == f"{shown}: is no picture\n"


@pytest.mark.parametrize(("name", "shown"), EVIL.values(), ids=list(EVIL))
def test_a_table_and_a_line_show_it_too(name: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    """So do the results of every command; what the library of tables drops itself is gone."""
    table = Table("class")
    table.add_row(name)
    Terminal().write_result({}, table, f"class {name}")
    out = capsys.readouterr().out
    assert not set(out) & set("\x1b\x07\x9b\u202e\u2066\r\udcff")
    assert shown.replace(r"\x07", "").replace(r"\r", "") in out


@pytest.mark.parametrize(("name", "_shown"), EVIL.values(), ids=list(EVIL))
def test_json_holds_the_name_itself(name: str, _shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A program gets the name as it is, from text that no terminal obeys and any encoding holds."""
    Terminal(as_json=True).write_result({"image": name, name: 1})
    out = capsys.readouterr().out
    assert json.loads(out) == {"image": name, name: 1}
    assert not set(out) & set("\x1b\x07\x9b\u202e\u2066\r\udcff")
    assert out.encode()


def test_progress_shows_names_and_keeps_its_own_colours() -> None:
    """The bar still moves and has colours; the name beside it commands nothing."""
    console = make_console()
    console.file = io.StringIO()
    console._force_terminal = True
    with Events(console=console).task("stage\x1b]0;owned\x07", 2) as task:
        task.advance(note="\x1b[2J")
    assert "\x1b]0" not in console.file.getvalue()
    assert "\x1b[2J" not in console.file.getvalue()


def test_letters_of_all_languages_stay(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing that is meant to be read is escaped: accents, scripts from the right, joined emoji."""
    text = "café 猫 קטן قط 👩‍💻"
    Terminal().refuse(text, 2)
    assert capsys.readouterr().err == f"{text}\n"


def test_an_address_is_no_picture() -> None:
    """What stands between colons is shown as it was typed, not as the picture that it is a name of."""
    from io import StringIO

    console = make_console()
    console.file = StringIO()
    console.print("ssh://host:a:b and :smile:", markup=False)
    assert console.file.getvalue() == "ssh://host:a:b and :smile:\n"
