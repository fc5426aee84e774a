"""A teacher that knows the classes in another order is told so, and which; one that makes mistakes is not."""

from __future__ import annotations

import numpy as np
import pytest

from compress.errors import CompressError
from compress.training import preflight
from compress.training.class_order import find_class_order, find_exchanged, list_usual_orders, write_recipe_line

NUMBERS = tuple(sorted(str(number) for number in range(12)))  # 0, 1, 10, 11, 2: as folders are counted


def answer(order: np.ndarray, labels: np.ndarray, wrong: float = 0.0, seed: int = 0) -> np.ndarray:
    """Return what a teacher answers whose output i is class `order[i]`, with a share of wrong answers."""
    predicted = np.argsort(order)[labels]
    draws = np.random.default_rng(seed)
    return np.where(draws.random(len(labels)) < wrong, draws.integers(len(order), size=len(labels)), predicted)


def test_natural_order_is_named() -> None:
    """A teacher that counts 1, 2, 10 gets its own words, and one word for the recipe."""
    labels = np.random.default_rng(0).integers(12, size=200)
    order = np.array([NUMBERS.index(str(number)) for number in range(12)])
    found = find_class_order(answer(order, labels, wrong=0.1), labels, NUMBERS)
    assert found is not None
    assert "natural order" in found.what
    assert (found.order == order).all()
    assert write_recipe_line(found, NUMBERS) == "classes: natural"


@pytest.mark.parametrize("classes", [40, 100])
@pytest.mark.parametrize("circle", [(3, 17), (3, 17, 20)])
def test_two_exchanged_classes_of_many_are_seen(classes: int, circle: tuple[int, ...]) -> None:
    """An exchange costs five points of forty classes or two of a hundred, and is found class by class."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(classes), 4))
    order = np.arange(classes)
    order[list(circle)] = np.roll(circle, 1)
    names = [f"class {place:03}" for place in range(classes)]
    logits = np.eye(classes, dtype=np.float32)[answer(order, labels, wrong=0.02)]
    with pytest.raises(CompressError, match=r"some of its classes exchanged.*classes: {'3': 'class 0"):
        preflight.check_teacher("teacher", logits, labels, names)


def test_confused_classes_are_not_exchanged() -> None:
    """Two classes that a weak teacher mixes up are no exchange, nor is one that it never answers."""
    labels = np.repeat(np.arange(10), 20)
    mixed = np.where(np.isin(labels, (2, 3)), 2 + np.arange(200) % 2, labels)
    missed = np.where(labels == 2, 3, labels)
    assert find_exchanged(mixed, labels, 10) is None
    assert find_exchanged(missed, labels, 10) is None
    assert find_class_order(mixed, labels, [f"c{place}" for place in range(10)]) is None


def test_orders_that_are_the_datas_own_are_not_tried() -> None:
    """Names that are in natural order, and in that of their letters, have no other usual order."""
    assert list_usual_orders(["a", "b", "c"]) == {}
    assert list(list_usual_orders(["B", "a"]).values()) == [["a", "B"]]
