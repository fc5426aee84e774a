"""The pages that walk through something are typed out: every command of theirs runs, in order, in a fresh folder.

What a page trains for minutes is made smaller by fields that are added to its commands (`<!-- test: shrink -->` above a block).
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.pages import blocks, commands_of

ROOT = Path(__file__).parents[2]
SHRUNK = {
    "teacher.model": "resnet_cifar.resnet8", "teacher.train.epochs": "4", "train.epochs": "2", "baselines": "[]",
    "exports": "[onnx]", "measure.rounds": "5", "measure.seconds": "1",
}  # fmt: skip
"""Fields of a recipe by which the digits go through the whole chain in seconds."""


def follow(page: Path, folder: Path) -> list[str]:
    """Write the files that a page shows, run its commands, and return what they printed.

    A file is a block whose first line is a comment with its name.
    """
    shutil.copytree(ROOT / "recipes", folder / "recipes", dirs_exist_ok=True)
    printed = []
    for block in blocks(page.read_text(encoding="utf-8"), "python", "yaml", "toml", "sh"):
        first = block.text.partition("\n")[0].removeprefix("# ")
        if block.language == "sh":
            for _, words in commands_of(block):
                if words[0] not in {"make", "pip", "."}:  # the environment is the one of the tests
                    printed.append(run(words, folder, shrunk=block.mark == "shrink"))
        elif first.endswith((".py", ".yaml", ".toml")):
            (folder / first).parent.mkdir(exist_ok=True)
            (folder / first).write_text(block.text, encoding="utf-8")
    return printed


def run(words: list[str], folder: Path, *, shrunk: bool = False) -> str:
    """Run a command of a page in a folder whose modules Python finds, and return what it printed."""
    places = [str(folder), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places), "COLUMNS": "120"}
    command = adapt(words, shrunk=shrunk)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, f"{shlex.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout


def adapt(words: list[str], *, shrunk: bool) -> list[str]:
    """Return a command as it is started here; fields that the page itself sets are kept."""
    start = {"compress": [sys.executable, "-m", "compress"], "python": [sys.executable]}[words[0]]
    given = {word.partition("=")[0] for word in words}
    fields = (
        {name: value for name, value in SHRUNK.items() if name not in given} if shrunk and words[1] in {"run", "check"} else {}
    )
    return [*start, *words[1:], *(part for name, value in fields.items() for part in ("--set", f"{name}={value}"))]


@pytest.mark.slow
def test_the_first_run(tmp_path: Path) -> None:
    """Whoever types the tutorial of the digits gets what it says: a report, a verified bundle, a comparison of two runs."""
    printed = follow(ROOT / "docs" / "tutorial" / "digits.md", tmp_path)
    assert (tmp_path / "runs" / "digits" / "report.html").is_file()
    assert "larger_student" in printed[-1]


@pytest.mark.slow
def test_pictures_of_ones_own(tmp_path: Path) -> None:
    """A folder of pictures without splits becomes a recipe, a bundle, and answers."""
    printed = follow(ROOT / "docs" / "tutorial" / "own_pictures.md", tmp_path)
    assert "1,797 pictures in 10 classes, 174 to 183 of each; 360 of them are the test split." in printed[1]
    assert "pictures/seven/0017.png" in printed[-1]


@pytest.mark.slow
def test_a_network_of_ones_own(tmp_path: Path) -> None:
    """A function in a module of one's own becomes a student, named in the recipe and nowhere else."""
    follow(ROOT / "docs" / "tutorial" / "own_network.md", tmp_path)
    assert (tmp_path / "runs" / "own" / "bundle" / "manifest.json").is_file()


def install(folder: Path, page: Path) -> None:
    """Make the entry points of the page's pyproject.toml known, as `pip install` would."""
    block = next(block for block in blocks(page.read_text(encoding="utf-8"), "toml") if "entry-points" in block.text)
    project = tomllib.loads(block.text)["project"]
    place = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (place / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.slow
def test_a_method_of_ones_own(tmp_path: Path) -> None:
    """The method of the page is found by its entry point, described, and trains a student from a recipe."""
    page = ROOT / "docs" / "howto" / "write_a_method.md"
    install(tmp_path, page)
    assert "weight" in follow(page, tmp_path)[0]
    method = "method={name: hard_labels, weight: 0.5}"
    recipe = ["compress", "run", "recipes/digits.yaml", "--set", method, "--set", "exports=[]"]
    assert "hard_labels" in run(recipe, tmp_path, shrunk=True)


@pytest.mark.slow
def test_a_data_source_of_ones_own(tmp_path: Path) -> None:
    """The source of the page feeds a whole run."""
    page = ROOT / "docs" / "howto" / "write_a_data_source.md"
    install(tmp_path, page)
    follow(page, tmp_path)
    assert (tmp_path / "runs" / "stripes" / "bundle" / "manifest.json").is_file()


@pytest.mark.slow
def test_a_format_and_a_runtime_of_ones_own(tmp_path: Path) -> None:
    """The format of the page is written, run by its runtime in a process of its own, and gives what the module gives."""
    page = ROOT / "docs" / "howto" / "write_a_format_and_runtime.md"
    install(tmp_path, page)
    follow(page, tmp_path)
    program = next(block for block in blocks(page.read_text(encoding="utf-8"), "python") if block.text.startswith("import"))
    (tmp_path / "program.py").write_text(program.text)
    assert float(run(["python", "program.py"], tmp_path)) < 1e-5
