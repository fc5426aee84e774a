"""Docstrings and names of functions: shapes of tensors and arrays, what is raised, and a verb at the beginning."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PLACES = (
    *(f"compress/{name}" for name in (
        "methods", "models", "data", "losses", "freezing.py", "preprocess.py", "api.py", "fingerprint.py", "text.py",
        "events.py", "plugins.py", "recipe", "plan", "records", "statistics", "system", "teachers", "training", "quantization",
        "run", "deployed",
    )),
    "exporters", "benchmarks",
)  # fmt: skip
"""All but the command line, whose docstrings are its help."""

ARRAY = re.compile(r"\b(Tensor|NDArray|Images|Labels)\b")


def public_functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """Yield functions and methods whose names, and those of their classes, have no leading underscore."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            if isinstance(node, ast.FunctionDef):
                yield node
            else:
                yield from public_functions(node)


def lacks(function: ast.FunctionDef) -> list[str]:
    """Return what a docstring should say and does not."""
    said = ast.get_docstring(function) or ""
    arguments = [*function.args.args, *function.args.kwonlyargs]
    types = [ast.unparse(node) for node in (*(each.annotation for each in arguments), function.returns) if node is not None]
    raises = any(isinstance(node, ast.Raise) and node.exc is not None for node in ast.walk(function))
    wanted = {"a shape": any(map(ARRAY.search, types)) and "[" not in said, "Raises:": raises and "Raises:" not in said}
    return [name for name, missing in wanted.items() if missing]


@pytest.mark.parametrize("place", PLACES)
def test_public_functions_state_shapes_and_what_they_raise(place: str, root: Path) -> None:
    """A reader learns from the docstring which shapes go in and come out, and which errors to expect."""
    home = root / place
    files = [home] if home.is_file() else sorted(home.rglob("*.py"))
    found = {
        f"{file.relative_to(root)}:{function.lineno} {function.name}": missing
        for file in files
        for function in public_functions(ast.parse(file.read_text(encoding="utf-8")))
        if (missing := lacks(function))
    }
    assert files
    assert not found


def test_a_docstring_that_says_too_little_is_found() -> None:
    """The check sees a missing shape and a missing section."""
    (function,) = public_functions(ast.parse('def f(x: Tensor) -> None:\n    """Do it."""\n    raise ValueError("no")\n'))
    assert lacks(function) == ["a shape", "Raises:"]


NO_VERB = re.compile(
    r"_?(of|for|in|with|by|as|on|to|what|[a-z]+ed|told|said|taken|given|shown|made|seen|found|kept|known|written)(_\w*)?"
)
VERBS = {"seed_generator", "seed_trial"}
"""Verbs that look like participles."""


@pytest.mark.parametrize("package", ["compress", "exporters", "benchmarks"])
def test_functions_start_with_a_verb(package: str, root: Path) -> None:
    """No function is called by a participle or a preposition alone: `find_layers`, not `layers_found`, `taken` or `of`."""
    found = [
        f"{file.relative_to(root)}:{node.lineno} {node.name}"
        for file in sorted((root / package).rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and NO_VERB.fullmatch(node.name) and node.name not in VERBS
        if not any("property" in ast.unparse(each) for each in node.decorator_list)
    ]
    assert not found


@pytest.mark.parametrize(
    ("name", "is_wrong"), [("taken", True), ("_of", True), ("for_comparison", True), ("find_layers", False), ("form", False)]
)
def test_names_without_a_verb_are_found(name: str, is_wrong: bool) -> None:
    """The check knows participles and prepositions from verbs."""
    assert bool(NO_VERB.fullmatch(name)) is is_wrong
