"""The order in which a teacher knows the classes can be said in every form in which people have it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compress.errors import CompressError, Unreachable
from compress.recipe.class_order import resolve_class_order, tidy_class_order

CLASSES = ("1", "10", "2", "cat", "Dog")


def resolve(declared: object, base: Path = Path(), classes: tuple[str, ...] = CLASSES) -> tuple[int, tuple[int, ...]]:
    found = resolve_class_order(tidy_class_order(declared), classes, base, where="teacher.classes")  # type: ignore[arg-type]
    return found.outputs, found.order


@pytest.mark.parametrize(
    ("declared", "order"),
    [
        pytest.param("natural", (0, 2, 1, 3, 4), id="natural"),
        pytest.param("letters", (0, 1, 2, 3, 4), id="letters"),
        pytest.param(["Dog", "1", 10, "2", "cat"], (1, 2, 3, 4, 0), id="list"),
        pytest.param({"cat": 0, "Dog": 1, "1": 2, "2": 3, "10": 4}, (2, 4, 3, 0, 1), id="name to index"),
        pytest.param({"0": "cat", "3": "1"}, (3, 1, 2, 0, 4), id="index to name, in part"),
        pytest.param({"0": "cat", "3": "1", "7": "Dog", "4": "other"}, (3, 1, 2, 0, 7), id="more outputs than classes"),
    ],
)
def test_forms_are_read(declared: object, order: tuple[int, ...], tmp_path: Path) -> None:
    """A word, a list, mappings in both directions, and files; what a mapping leaves out is where the data has it."""
    outputs, found = resolve(declared)
    assert found == order
    assert outputs >= 5
    if not isinstance(declared, str):
        (tmp_path / "order.json").write_text(json.dumps(declared), encoding="utf-8")
        assert resolve("order.json", tmp_path) == (outputs, order)
    if isinstance(declared, list):
        (tmp_path / "order.txt").write_text("\n".join(map(str, declared)) + "\n", encoding="utf-8-sig")
        assert resolve("order.txt", tmp_path) == (outputs, order)


def test_labels_stand_for_classes_that_have_other_names() -> None:
    """Numbers that are no names are labels of the data."""
    assert resolve([2, 0, 1], classes=("a", "b", "c")) == (3, (1, 2, 0))
    assert resolve({"0": 1, "1": 0}, classes=("a", "b", "c")) == (3, (1, 0, 2))


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (["1", "10", "2", "cat"], "does not name 'Dog', which the data has"),
        (["1", "10", "2", "cat", "Dog", "cat"], "names 'cat' twice"),
        ({"0": "cat"}, "'cat' is at two places of the teacher"),
        ({"cat": "Dog"}, "does not name"),
    ],
)
def test_what_does_not_fit_is_refused(declared: object, message: str) -> None:
    """Every class of the data stands at one place of the teacher."""
    if declared == {"cat": "Dog"}:
        assert tidy_class_order(declared) == declared  # the recipe's type refuses it
        return
    with pytest.raises(CompressError, match=message):
        resolve(declared)


def test_files_that_hold_no_names_are_told(tmp_path: Path) -> None:
    """Missing, binary, empty and damaged files give one message each."""
    with pytest.raises(Unreachable, match=r"none.txt: cannot be read .*; give natural or letters, a list"):
        resolve("none.txt", tmp_path)
    for name, data in {"a": b"\xff\xfe\x00", "b": b"", "c": b"[1, 2", "d": b"[[1]]", "e": b'{"a": {}}'}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CompressError, match=f"teacher.classes: .*{name} "):
            resolve(name, tmp_path)
