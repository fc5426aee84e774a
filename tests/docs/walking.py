"""Types out a page: writes the files that it shows and runs its commands in a folder.

`compress` runs in this process, for starting it anew shows nothing of a page; what `python` runs is a process of its own.
What a page trains for minutes is made smaller by fields that are added to its commands (`<!-- test: shrink -->` above a block;
words behind it stand for more of them).
"""

from __future__ import annotations

import importlib
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from compress import plugins, recipe
from compress.cli.commands import program
from tests.pages import blocks, commands_of

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs"

SHRUNK = {
    "teacher.model": "resnet_cifar.resnet8", "teacher.train.epochs": "4", "train.epochs": "1", "baselines": "[]",
    "exports": "[onnx]", "measure.rounds": "5", "measure.seconds": "0.2", "measure.launches": "1", "measure.against": "student",
}  # fmt: skip
"""Fields of a recipe by which pictures go through the whole chain in seconds; teachers' files are not made for comparison."""
FURTHER = {
    "dih": {"method.heads_epochs": "1"},
    "listed-dih": {"method.0.heads_epochs": "1"},
    "unexported": {"exports": "[]"},
    "fewer": {"data.train_images": "600"},
}
"""What further words of a mark stand for."""


class Walk:
    """A folder in which pages are typed out; Python finds the modules there, and the runs' cache may be shared with others."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT / "recipes", folder / "recipes")
        (folder / "runs").mkdir()
        (folder / "runs" / ".cache").symlink_to(cache)

    def follow(self, page: str) -> list[str]:
        """Write the files that a page shows, run its commands, and return what they printed.

        A file is a block whose first line is a comment with its name.
        """
        printed = []
        for block in blocks((PAGES / page).read_text(encoding="utf-8"), "python", "yaml", "toml", "sh"):
            first = block.text.partition("\n")[0].removeprefix("# ")
            if block.language == "sh":
                for _, words in commands_of(block):
                    if words[0] not in {"make", "pip", "."}:  # the environment is the one of the tests
                        printed.append(self.run(words, shrunk=block.mark))
            elif first.endswith((".py", ".yaml", ".toml")):
                (self.folder / first).parent.mkdir(exist_ok=True)
                (self.folder / first).write_text(block.text, encoding="utf-8")
                forget()
        return printed

    def try_out(self, page: str, placeholders: Mapping[str, str]) -> list[str]:
        """Run the commands of a page with what its placeholders stand for; what would train is checked instead."""
        printed = []
        for block in blocks((PAGES / page).read_text(encoding="utf-8"), "sh"):
            for _, words in commands_of(block):
                filled = [placeholders.get(word, word) for word in words]
                filled[1] = "check" if filled[1] == "run" else filled[1]
                printed.append(self.run(filled, shrunk="shrink dih fewer"))
        return printed

    def run(self, words: list[str], *, shrunk: str = "") -> str:
        """Run a command of a page, shrunk as a mark says, and return what it printed."""
        if words[0] == "python":
            return self.run_python(words[1:])
        assert words[0] == "compress", words
        arguments = [*words[1:], *shrink(words, shrunk)]
        done = CliRunner().invoke(program, arguments, prog_name="compress", catch_exceptions=False)
        assert done.exit_code == 0, f"{shlex.join(words)}: {done.output}"
        return done.stdout

    def run_python(self, arguments: list[str]) -> str:
        """Run a program in a process of its own, which finds our packages, and return what it printed."""
        places = [str(self.folder), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=1200
        )
        assert done.returncode == 0, f"{shlex.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def install(self, page: str) -> None:
        """Make the entry points of the page's pyproject.toml known, as `pip install` would."""
        block = next(
            block for block in blocks((PAGES / page).read_text(encoding="utf-8"), "toml") if "entry-points" in block.text
        )
        project = tomllib.loads(block.text)["project"]
        place = self.folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        place.mkdir()
        (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
        lines = []
        for group, entries in project["entry-points"].items():
            lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
        (place / "entry_points.txt").write_text("\n".join(lines) + "\n")
        forget()


def shrink(words: list[str], mark: str) -> Iterator[str]:
    """Yield options that make a command small; fields that the page itself sets are kept."""
    if mark and words[1] in {"run", "check"}:
        fields = SHRUNK | {name: value for word in mark.split()[1:] for name, value in FURTHER[word].items()}
        given = {word.partition("=")[0] for word in words}
        for name, value in fields.items():
            if name not in given:
                yield from ("--set", f"{name}={value}")


@contextmanager
def walk_in(folder: Path, cache: Path) -> Iterator[Walk]:
    """Give a walk in an empty folder; modules and plug-ins that were found there are forgotten afterwards."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.setenv("COLUMNS", "120")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
        yield Walk(folder, cache)
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    forget()


def forget() -> None:
    """Let modules and plug-ins be looked for anew."""
    importlib.invalidate_caches()
    plugins._collect_plugins.cache_clear()
    recipe.schema.cache_clear()
