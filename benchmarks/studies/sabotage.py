"""Share of damaged files that are refused: `python -m benchmarks.studies.sabotage [--out FILE]`. Takes about two minutes.

The damages and the good files are those of the tests: each case of a test in `tests/**/test_sabotage*.py` whose name says that
something is refused or noticed is one damage, each case of one that starts with `test_no_good_` or `test_a_good_` one good file
or bundle. The tests run as they are; what passes was right. Other tests there are about the words of messages, and not counted.
"""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic

import click

from benchmarks.environment import read_environment
from benchmarks.studies.int8.records import Group, Sabotage
from compress.errors import CompressError, Unreachable
from compress.records import save

TESTS = Path(__file__).parents[2] / "tests"
OUT = Path(__file__).parents[1] / "results" / "int8" / "sabotage.json"
CASE = re.compile(r"^(PASSED|FAILED|ERROR) .*?::(\w+)", re.MULTILINE)
"""A line of pytest's summary: how a case ended, and its test."""
GOOD, DAMAGE = re.compile(r"test_(no|a)_good_"), re.compile(r"_(refused|noticed)(_|$)")


def count_caught(folder: Path) -> Sabotage:
    """Run the sabotage tests below a folder and count what was right.

    Raises:
        Unreachable: There are none, or pytest is not installed.
        CompressError: pytest could not run them.
    """
    files = sorted(folder.rglob("test_sabotage*.py"))
    if not files:
        raise Unreachable(f"{folder}: holds no test_sabotage*.py; run this from a checkout of the repository")
    begun = monotonic()
    passed, all_cases = _run_tests(files)
    said = {name: text for file in files for name, text in _read_docstrings(file)}
    groups = [
        Group(test=name, what=said[name], cases=count, right=passed[name])
        for name, count in all_cases.items()
        if GOOD.match(name) or DAMAGE.search(name)
    ]
    return Sabotage(
        command=shlex.join(["python", "-m", "benchmarks.studies.sabotage"]),
        damages=tuple(group for group in groups if not GOOD.match(group.test)),
        good=tuple(group for group in groups if GOOD.match(group.test)),
        seconds=monotonic() - begun, environment=read_environment(),
    )  # fmt: skip


def _run_tests(files: Sequence[Path]) -> tuple[Counter[str], Counter[str]]:
    """Run the tests in files; return how many cases of each passed, and how many there are."""
    words = [sys.executable, "-m", "pytest", "-q", "-rA", "--tb=no", *map(str, files)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=files[0].parent)
    if done.returncode not in (0, 1):  # 1: some failed
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise CompressError(
            f"pytest: ended with status {done.returncode} ({' '.join(said)}); see `python -m pytest {files[0]}`"
        )
    cases = CASE.findall(done.stdout)
    broken = sorted({name for status, name in cases if status == "ERROR"})
    if broken:
        raise CompressError(f"pytest: {', '.join(broken)} could not be begun, which says nothing of damages; repair the tests")
    return Counter(name for status, name in cases if status == "PASSED"), Counter(name for _, name in cases)


def _read_docstrings(file: Path) -> Iterator[tuple[str, str]]:
    """Yield each test of a file with its docstring."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, ast.get_docstring(node) or node.name


@click.command()
@click.option("--out", default=OUT, type=click.Path(dir_okay=False, path_type=Path), help="Where the result goes.")
def main(out: Path) -> None:
    """Count how many damages to exported files are noticed, and how many good files are accepted."""
    try:
        result = count_caught(TESTS)
        save(out, result)
    except CompressError as error:
        click.echo(error, err=True)
        sys.exit(error.exit_code)
    for what, groups in (("damages caught", result.damages), ("good files accepted", result.good)):
        click.echo(f"{what}: {sum(each.right for each in groups)} of {sum(each.cases for each in groups)}")


if __name__ == "__main__":
    main()
