"""The pages are executed: Python runs, every command exists with its options, and the figures are those of the results."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from compress import recipe
from compress.plan.checks import find_recipe_problems
from exporters.verification import rule
from tests.docs.walking import LEFT_OUT, is_left_out
from tests.docs.walking import PAGES as WALKED
from tests.pages import FENCE, Block, blocks, commands, commands_of, find_problems, find_quoted_commands, list_pages

ROOT = Path(__file__).parents[2]
PAGES = {str(page.relative_to(ROOT)): page for page in list_pages(ROOT)}
PROGRAMS = ("docs/tutorial/own_network.md",)
"""Pages whose Python blocks are one program, in their order, but for those that are files of their own."""


@pytest.fixture(params=sorted(PAGES))
def page(request: pytest.FixtureRequest) -> Path:
    return PAGES[request.param]


def test_parser_of_these_tests() -> None:
    """The small parser sees language, line, marks, prompts, continued lines, chains, variables and comments."""
    markdown = (
        "a\n```python\nx = 1\n```\n\n````console\n$ make demo  # minutes; or more | less\nout $ put\n"
        "$ a \\\n  --b && A=1 c 'd e'\n````\n"
    )
    assert list(blocks(markdown, "python")) == [Block("python", 3, "x = 1\n")]
    assert [words for _, words in commands(markdown)] == [["make", "demo"], ["a", "--b"], ["c", "d e"]]
    assert next(line for line, _ in commands(markdown)) == 7
    marked = next(blocks("<!-- test: shrink -->\n```sh\nmake demo\n```\n", "sh"))
    assert (marked.mark, list(commands_of(marked))) == ("shrink", [(3, ["make", "demo"])])


def test_commands_exist(page: Path, root: Path) -> None:
    """Every `compress` command and option, `make` target, extra and recipe that a page names is there."""
    text = page.read_text(encoding="utf-8")
    found = [*commands(text), *find_quoted_commands(text)]
    wrong = [f"{page}:{line}: {' '.join(words)}: {problem}" for line, words in found for problem in find_problems(words, root)]
    assert not wrong, "\n".join(wrong)


def test_commands_are_run(page: Path) -> None:
    """Every command of a page's blocks is typed by a walk, or it is said why not and what runs it instead."""
    text = page.read_text(encoding="utf-8")
    typed = [(line, words) for line, words in commands(text) if not is_left_out(words)]
    walks = "".join(each.read_text(encoding="utf-8") for each in (Path(__file__).parent).glob("test_*.py"))
    name = os.path.relpath(page, WALKED)
    assert not typed or f'"{name}"' in walks, f"{page}:{typed[0][0]}: no walk types {' '.join(typed[0][1])}"


def test_commands_that_no_walk_types_are_there() -> None:
    """Each of the commands that are left out stands on a page, and the tests that are named for it exist."""
    found = [" ".join(words) for page in PAGES.values() for _, words in commands(page.read_text(encoding="utf-8"))]
    assert [start for start in LEFT_OUT if not any(each.startswith(start) for each in found)] == []
    named = re.findall(r"tests/[\w/]+(?:\.py)?", " ".join(LEFT_OUT.values()))
    assert [each for each in named if not (ROOT / each).exists()] == []


def test_commands_stand_in_blocks_with_a_language(page: Path) -> None:
    """No command stands in an indented block or in one without a language, where the tests would not see it."""
    text = page.read_text(encoding="utf-8")
    fenced = "\n".join(block.text for block in blocks(text, ""))
    indented = "\n".join(line[4:] for line in FENCE.sub("", text).splitlines() if line.startswith("    "))
    assert re.findall(r"^(?:\$ )?(?:compress|make|pip|python3?|\.ci/\w+) .*", f"{fenced}\n{indented}", re.MULTILINE) == []


def test_recipes_are_valid(page: Path) -> None:
    """A YAML block that is a whole recipe is one, and a part of a recipe fits into one."""
    for block in blocks(page.read_text(encoding="utf-8"), "yaml"):
        given = YAML(typ="safe").load(block.text)
        if "jobs" in given or re.match(r"# [\w-]+\.yaml\n", block.text):
            continue  # an example for a CI service; a file of the page, which `test_walks.py` runs
        whole: dict[str, Any] = {
            "name": "part",
            "data": {"source": "digits", "image_size": 16},
            "teacher": "resnet_cifar.resnet8",
            "student": "resnet_cifar.resnet8",
            "method": "kd",
        }
        for name, value in given.items():
            both = isinstance(value, dict) and isinstance(whole.get(name), dict)
            whole[name] = whole[name] | value if both else value
        text = io.BytesIO()
        YAML(typ="safe").dump(whole, text)
        recipe.parse(text.getvalue(), f"{page.name}:{block.line}")


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_python_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python of a page runs as it stands: in its order, in an empty folder, warnings being errors."""
    found = [block for block in blocks(PAGES[name].read_text(encoding="utf-8"), "python") if not block.text.startswith("# my_")]
    assert found, f"{name} has no ```python block"
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in found:
        # Blank lines above make a traceback name the line of the page.
        exec(compile("\n" * (block.line - 1) + block.text, name, "exec"), names)  # noqa: S102 (our own page)


def test_ci_runs_what_the_readme_says(root: Path) -> None:
    """The command by which the README tells people to test is the one by which changes are tested."""
    typed = [words for _, words in commands(PAGES["README.md"].read_text(encoding="utf-8"))]
    assert ["make", "test"] in typed
    assert "make test" in (root / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_the_picture_of_the_architecture_names_what_is_there(root: Path) -> None:
    """Each step of the picture stands beside a folder of the repository."""
    named = re.findall(r'<text class="path"[^>]*>([^<]+)</text>', (root / "docs/_static/architecture.svg").read_text())
    assert len(named) > 10
    assert [name for name in named if not (root / name).is_dir()] == []


def test_the_bounds_of_the_gate_are_those_of_the_code() -> None:
    """The pages of the gate and of segmentation state the defaults by which files are judged."""
    shown = {
        "gate": {"least agreement": rule.AGREEMENT, "largest difference of a logit": rule.BOUNDS},
        "segmentation": {
            "least agreement: the mIoU of the file's maps with the network's": rule.DENSE_AGREEMENT,
            "largest RMS of all differences, over that of the logits": rule.DENSE_RMS,
        },
    }
    for name, rows in shown.items():
        lines = PAGES[f"docs/concepts/{name}.md"].read_text(encoding="utf-8").splitlines()
        for title, bounds in rows.items():
            assert f"| default | {' | '.join(bounds)} |" in lines
            (row,) = (line for line in lines if line.startswith(f"| {title} |"))
            assert [float(cell) for cell in row.strip("| ").split(" | ")[1:]] == list(bounds.values())


def test_the_readme_is_short() -> None:
    """What a stranger reads first is no longer than three screens, and its links lead somewhere."""
    text = PAGES["README.md"].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    targets = [target for target in re.findall(r"\]\(([^)#]+)", text) if "://" not in target]
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_measured_tables_are_those_of_the_committed_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """No number of the tables is typed by hand: `benchmarks.studies.readme` writes them, and another number is noticed."""
    from benchmarks.studies import readme

    assert CliRunner().invoke(readme.main, ["--check"]).exit_code == 0
    monkeypatch.setattr(readme, "make_demo_table", lambda _report: ["another number"])
    assert CliRunner().invoke(readme.main, ["--check"]).exit_code == 1


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """A broken link, a page that no list names, or a docstring that is no markup fails the build."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", str(tmp_path / "html")]
    done = subprocess.run([*command, "-d", str(tmp_path / "trees")], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    recipe_page = (tmp_path / "html" / "reference" / "recipe.html").read_text(encoding="utf-8")
    for section in recipe.json_schema()["properties"]:
        assert section in recipe_page


def test_shorter_runs_can_be_run(root: Path) -> None:
    """The fields by which recipes and AGENTS.md make a run short fit together with the rest of the recipe."""
    texts = {path: path.read_text(encoding="utf-8") for path in (root / "recipes").glob("*.yaml")}
    found = [(path, line) for path, text in texts.items() for line in text.splitlines() if "(shorter:" in line]
    found += [
        (root / "recipes" / "digits.yaml", line) for line in (root / "AGENTS.md").read_text().splitlines() if "--set" in line
    ]
    assert len(found) >= 3
    for path, line in found:
        fields = re.findall(r"--set ([\w.]+=[\w.]+)", line)
        assert fields
        assert list(find_recipe_problems(recipe.load(path, fields), path.parent)) == [], (path, line)
