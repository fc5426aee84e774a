"""Reads Markdown pages for the tests: their fenced blocks, the commands in them, and what is wrong with a command."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

FENCE = re.compile(
    r"^(?:<!-- test: (?P<mark>[^\n]*?) -->\n)?"
    r" *(?P<marks>`{3,}) *(?P<language>\w*)[^\n`]*\n(?P<text>.*?)^ *(?P=marks)`* *$",
    re.MULTILINE | re.DOTALL,
)


QUOTED = re.compile(r"(?<!`)`((?:(?:\.venv/bin/)?compress\b|make\b|python -m benchmarks\.[^`\s]+) ?[^`\n]*)`(?!`)")
"""A command within a sentence."""


class Block(NamedTuple):
    """A fenced block, the line of its first line, and what a comment right above it says to the tests."""

    language: str
    line: int
    text: str
    mark: str = ""


def list_pages(root: Path) -> list[Path]:
    """Return every page that people read, in the repository and its documentation, but for the ones that are generated."""
    pages = [
        *(root / f"{name}.md" for name in ("README", "CONTRIBUTING", "AGENTS", "SECURITY")),
        *sorted((root / "docs").rglob("*.md")),
    ]
    generated = {"recipe", "methods", "models", "data", "exporters", "runtimes", "devices", "tasks", "trackers"}
    return [
        page
        for page in pages
        if "_build" not in page.parts and not (page.parent.name == "reference" and page.stem in generated)
    ]


def blocks(markdown: str, *languages: str) -> Iterator[Block]:
    """Yield the fenced blocks of these languages."""
    for found in FENCE.finditer(markdown):
        if found["language"] in languages:
            line = markdown.count("\n", 0, found.start("text")) + 1
            yield Block(found["language"], line, found["text"], found["mark"] or "")


def commands_of(block: Block) -> Iterator[tuple[int, list[str]]]:
    """Yield line and words of every command; in a `console` block only what follows a prompt was typed."""
    for offset, line in enumerate(block.text.replace("\\\n", "  ").splitlines()):
        typed = line.strip()
        if block.language == "console":
            if not typed.startswith("$ "):
                continue
            typed = typed.removeprefix("$ ")
        for words in split_commands(typed):
            yield block.line + offset, words


def split_commands(typed: str) -> Iterator[list[str]]:
    """Yield the words of each command of a line of the shell; a variable that is set before a command is none of its words."""
    lexer = shlex.shlex(typed, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if not set(word) <= set("&|;"):
            if words or not re.fullmatch(r"[A-Z_]+=.*", word):
                words.append(word)
        elif words:
            yield words
            words = []


def commands(markdown: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line and words of every command of a page's blocks."""
    for block in blocks(markdown, "console", "sh", "bash", "shell"):
        yield from commands_of(block)


def find_quoted_commands(markdown: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line and words of every command that a sentence or a table quotes."""
    text = FENCE.sub(lambda block: "\n" * block[0].count("\n"), markdown)
    for found in re.finditer(
        r"(?<!`)`((?:(?:\.venv/bin/)?compress\b|make\b|python -m benchmarks\.[^`\s]+) ?[^`\n]*)`(?!`)", text
    ):
        for words in split_commands(found[1]):
            yield text.count("\n", 0, found.start()) + 1, words


def find_problems(words: list[str], root: Path) -> Iterator[str]:
    """Yield what a user who types these words would stumble over."""
    program = Path(words[0]).name
    if program == "compress":
        yield from find_compress_problems(words[1:])
    if program == "make":
        targets = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
        done = subprocess.run(["make", "--dry-run", *targets], cwd=root, capture_output=True, text=True, check=False)
        if done.returncode:
            yield done.stderr.strip()
    if words[:2] == ["python", "-m"] and words[2].startswith("benchmarks."):
        yield from find_study_problems(words[2], words[3:])
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for word in words:
        for extra in re.findall(r"edge-compress\[(.+)\]", word):
            yield from (
                f"there is no extra {name!r}" for name in extra.split(",") if name not in project["optional-dependencies"]
            )
        if re.fullmatch(r"recipes/[\w-]+\.yaml", word) and not (root / word).exists():
            yield f"there is no {word}"


def find_compress_problems(words: list[str]) -> Iterator[str]:
    """Yield what is wrong with the words that follow `compress`."""
    from compress.cli.commands import program

    command: click.Command | None = program
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        command, words = command.commands.get(words[0]), words[1:]
    if command is None:
        yield "there is no such command"
        return
    yield from find_option_problems(command, words)


def find_study_problems(module: str, words: list[str]) -> Iterator[str]:
    """Yield what is wrong with the words that follow `python -m` and the module of a study."""
    if (spec := importlib.util.find_spec(module)) is None:
        yield f"there is no module {module}"
        return
    program = importlib.import_module(f"{module}.__main__" if spec.submodule_search_locations else module)
    yield from find_option_problems(program.main, words)


def find_option_problems(command: click.Command, words: list[str]) -> Iterator[str]:
    """Yield each option that a command does not have."""
    known = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h", "--version"}
    for word in words:
        if word.startswith("-") and word.partition("=")[0] not in known:
            yield f"{command.name!r} has no option {word!r}"
