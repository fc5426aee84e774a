"""The README is executed: its Python runs, and every command that it names exists with its options."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

README = Path(__file__).parent.parent / "README.md"
FENCE = re.compile(r"^ *(?P<marks>`{3,}) *(?P<language>\w*)[^\n`]*\n(?P<text>.*?)^ *(?P=marks)`* *$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block and the line of its first line."""

    language: str
    line: int
    text: str


def blocks(markdown: str, *languages: str) -> Iterator[Block]:
    for found in FENCE.finditer(markdown):
        if found["language"] in languages:
            yield Block(found["language"], markdown.count("\n", 0, found.start("text")) + 1, found["text"])


def commands(markdown: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line and words of every command; in a `console` block only what follows a prompt was typed."""
    for block in blocks(markdown, "console", "sh", "bash", "shell"):
        for offset, line in enumerate(block.text.replace("\\\n", "  ").splitlines()):
            typed = line.strip()
            if block.language == "console":
                if not typed.startswith("$ "):
                    continue
                typed = typed.removeprefix("$ ")
            for part in re.split(r"&&|\||;", typed):
                words = shlex.split(part, comments=True)
                if words:
                    yield block.line + offset, words


def test_parser_of_this_test() -> None:
    """The small parser sees language, line, prompts, continued lines, chains and comments."""
    markdown = "a\n```python\nx = 1\n```\n\n````console\n$ make demo  # minutes\nout $ put\n$ a \\\n  --b && c 'd e'\n````\n"
    assert list(blocks(markdown, "python")) == [Block("python", 3, "x = 1\n")]
    assert [words for _, words in commands(markdown)] == [["make", "demo"], ["a", "--b"], ["c", "d e"]]
    assert next(line for line, _ in commands(markdown)) == 7


@pytest.mark.slow
def test_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python of the README runs as it stands: in its order, in an empty folder, warnings being errors."""
    found = list(blocks(README.read_text(encoding="utf-8"), "python"))
    assert found, "README.md has no ```python block"
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in found:
        # Blank lines above make a traceback name the line of the README.
        exec(compile("\n" * (block.line - 1) + block.text, str(README), "exec"), names)  # noqa: S102 (our own README)


def test_commands_exist(root: Path) -> None:
    """Every `compress` command and option, `make` target, extra and recipe that the README names is there."""
    found = list(commands(README.read_text(encoding="utf-8")))
    assert found, "README.md names no command in a ```console or ```sh block"
    wrong = [f"README.md:{line}: {' '.join(words)}: {problem}" for line, words in found for problem in problems(words, root)]
    assert not wrong, "\n".join(wrong)


def test_ci_runs_what_the_readme_says(root: Path) -> None:
    """The command by which the README tells people to test is the one by which changes are tested."""
    typed = [words for _, words in commands(README.read_text(encoding="utf-8"))]
    assert ["make", "test"] in typed
    assert "make test" in (root / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def problems(words: list[str], root: Path) -> Iterator[str]:
    """Yield what a user who types these words would stumble over."""
    program = Path(words[0]).name
    if program == "compress":
        yield from compress_problems(words[1:])
    if program == "make":
        targets = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
        done = subprocess.run(["make", "--dry-run", *targets], cwd=root, capture_output=True, text=True, check=False)
        if done.returncode:
            yield done.stderr.strip()
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for word in words:
        for extra in re.findall(r"edge-compress\[(.+)\]", word):
            yield from (
                f"there is no extra {name!r}" for name in extra.split(",") if name not in project["optional-dependencies"]
            )
        if re.fullmatch(r"recipes/[\w-]+\.yaml", word) and not (root / word).exists():
            yield f"there is no {word}"


def compress_problems(words: list[str]) -> Iterator[str]:
    from compress.cli.commands import program

    if not words or words[0].startswith("-"):
        command: click.Command | None = program
    else:
        command = program.commands.get(words[0])
    if command is None:
        yield f"there is no command {words[0]!r}"
        return
    known = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h", "--version"}
    for word in words:
        if word.startswith("-") and word.partition("=")[0] not in known:
            yield f"{words[0]!r} has no option {word!r}"


def test_the_measured_tables_are_those_of_the_committed_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """No number of the tables is typed by hand: `benchmarks.studies.readme` writes them, and another number is noticed."""
    from click.testing import CliRunner

    from benchmarks.studies import readme

    assert CliRunner().invoke(readme.main, ["--check"]).exit_code == 0
    monkeypatch.setattr(readme, "make_demo_table", lambda _report: ["another number"])
    assert CliRunner().invoke(readme.main, ["--check"]).exit_code == 1
