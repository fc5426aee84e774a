"""How the tests themselves are kept."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parent
MODULES = {str(path.relative_to(TESTS)): path.read_text(encoding="utf-8") for path in sorted(TESTS.rglob("test_*.py"))}
"""The text of each test module by its place."""


def programs(text: str) -> Iterator[ast.AST]:
    """Yield a module and each program that it holds as text."""
    whole = ast.parse(text)
    yield whole
    for node in ast.walk(whole):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "import " in node.value:
            try:
                yield ast.parse(node.value)
            except SyntaxError:  # prose, or a part of a program
                continue


def imported(program: ast.AST) -> Iterator[str]:
    """Yield the dotted names that a program imports, wherever it does."""
    for node in ast.walk(program):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_no_test_module_imports_another() -> None:
    """What several tests share lies in a module without tests, also for the programs that tests start."""
    ours = [
        (place, name)
        for place, text in MODULES.items()
        for program in programs(text)
        for name in imported(program)
        if name.split(".")[0] in {"tests", "conftest"} or name.startswith("test_")
    ]
    assert ours
    assert [(place, name) for place, name in ours if "test_" in name or "conftest" in name] == []


def test_every_test_says_what_can_be_relied_on() -> None:
    """Each has a docstring."""
    tests = [
        (place, node)
        for place, text in MODULES.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert tests
    assert [(place, test.name) for place, test in tests if not ast.get_docstring(test)] == []


@pytest.fixture(scope="module", params=["first", "second"])
def threads() -> int:
    """The number of threads in which a fixture computes that tests share."""
    return torch.get_num_threads()


def test_fixtures_of_a_module_compute_in_one_thread(threads: int) -> None:
    """A network that a fixture trains is the same alone, in company, and after a test that takes more threads."""
    assert threads == 1
    torch.set_num_threads(2)
