"""Find a class order in which a teacher knows the classes, when it is not that of the data. Pure NumPy and SciPy.

The data's order is that of its folders or its source. A teacher that was trained elsewhere may count 1, 2, 10 where folders
count 1, 10, 2, may have two classes exchanged since a folder was renamed, or may know the classes in any order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from compress.recipe.class_order import split_numbers
from compress.statistics.paired import mcnemar

Predicted = NDArray[np.int64]
"""Classes, [N]."""

FITTED_GAIN_POINTS = 20.0
"""A teacher that gains this much by an order that was fitted to its answers was trained on another class order."""
KNOWN_GAIN_POINTS = 5.0
"""An order that somebody uses needs less: it was not fitted."""
SIGNIFICANT = 1e-3
"""Of McNemar's test, which is made for a few orders."""
EXCHANGED_SHARE, RIGHT_SHARE = 0.5, 0.2
"""Classes may be exchanged where at least so many images of each are answered with the other, and at most so many of all of
them rightly."""
WELL_KNOWN = 0.8
"""Top-1 on the other classes from which on few images of exchanged ones are enough."""
FEWEST_EXCHANGED = 4
"""Images of exchanged classes from which on it is no chance, if the other classes are known well."""
FEWEST_MERGED, MERGED_SHARE = 5, 0.9
"""A class of at least so many images is taken for another where at least this share of them is."""
MOST_NAMED = 40
"""Classes of which a message gives the whole order."""


class ClassOrder(NamedTuple):
    """Another order of the classes than the data's."""

    what: str
    """What it is, after `with`."""
    order: NDArray[np.int64]
    """Class of the data that each output of the teacher is, [K]."""
    correct: NDArray[np.bool_]
    """Which images the teacher gets right by it, [N]; none of them was used to find the order of its half."""
    is_fitted: bool


def find_class_order(predicted: Predicted, labels: Predicted, classes: Sequence[str]) -> ClassOrder | None:
    """Return the order that a teacher clearly knows the classes in, if it is another than the data's.

    Args:
        predicted: Places of the largest logits, [N].
        labels: True classes, [N].
        classes: Names in label order, [K].
    """
    found = [each for each in list_class_orders(predicted, labels, classes) if _is_clearly_better(each, predicted == labels)]
    best = max(found, key=lambda each: (int(each.correct.sum()), not each.is_fitted), default=None)
    if best is not None:
        return best
    exchanged = find_exchanged(predicted, labels, len(classes))
    if exchanged is None:
        return None
    return ClassOrder("some of its classes exchanged", exchanged, exchanged[predicted] == labels, is_fitted=True)


def list_class_orders(predicted: Predicted, labels: Predicted, classes: Sequence[str]) -> Iterator[ClassOrder]:
    """Yield orders that people use and that are not the data's, then the one that fits best; arguments as `find_class_order`.

    The last is fitted to each half of the images and judged by the other, so that it owes nothing to chance.
    """
    count = len(classes)
    for what, ranked in list_usual_orders(classes).items():
        order = np.array([classes.index(name) for name in ranked])
        yield ClassOrder(what, order, order[predicted] == labels, is_fitted=False)
    correct = np.zeros(len(labels), np.bool_)
    for half in (slice(0, None, 2), slice(1, None, 2)):
        other = slice(1 - half.start, None, 2)
        correct[other] = fit_class_order(predicted[half], labels[half], count)[predicted[other]] == labels[other]
    order = fit_class_order(predicted, labels, count)
    if (order != np.arange(count)).any():
        yield ClassOrder("its classes renamed", order, correct, is_fitted=True)


def list_usual_orders(classes: Sequence[str]) -> dict[str, list[str]]:
    """Return the names in each usual order that differs from the given one, by what it is."""
    known = {
        "its classes in natural order (2 before 10)": sorted(classes, key=split_numbers),
        "its classes in the order of their letters, large before small": sorted(classes),
        "its classes in the order of their letters, large as small": sorted(classes, key=str.casefold),
    }
    distinct: dict[str, list[str]] = {}
    for what, ranked in known.items():
        if ranked != list(classes) and ranked not in distinct.values() and len(set(classes)) == len(classes):
            distinct[what] = ranked
    return distinct


def fit_class_order(predicted: Predicted, labels: Predicted, classes: int) -> NDArray[np.int64]:
    """Return the class of the data that each output of the teacher is, by the assignment that hits most, [K]."""
    from scipy.optimize import linear_sum_assignment

    confusion = np.zeros((classes, classes))
    np.add.at(confusion, (predicted, labels), 1)
    confusion[np.diag_indices(classes)] += 0.5  # where nothing speaks for another place, a class stays
    order: NDArray[np.int64] = linear_sum_assignment(confusion, maximize=True)[1]
    return order


def find_exchanged(predicted: Predicted, labels: Predicted, classes: int, *, at_once: bool = False) -> NDArray[np.int64] | None:
    """Return the class order in which those classes are exchanged that nearly always answer for each other, [K].

    `None` where there are none, or so few images of them that it may be chance. The gain over all images plays no part: of
    forty classes two that are exchanged cost five points.

    Args:
        predicted: Places of the largest logits, [N].
        labels: True classes, [N].
        classes: How many there are.
        at_once: Also return what may be chance.
    """
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    images, answers = confusion.sum(axis=1), confusion.argmax(axis=1)
    shares = confusion[np.arange(classes), answers] / np.maximum(images, 1)
    closed = _keep_cycles({a: int(answers[a]) for a in range(classes) if answers[a] != a and shares[a] >= EXCHANGED_SHARE})
    inside, right = np.isin(labels, list(closed)), predicted == labels
    if not closed or right[inside].mean() > RIGHT_SHARE:
        return None
    answered = sum(int(confusion[a, target]) for a, target in closed.items())
    rest = float(right[~inside].mean()) if (~inside).any() else 0.0
    sure = mcnemar(~right[inside], right[inside])[2] < SIGNIFICANT
    if not (at_once or sure or (answered >= FEWEST_EXCHANGED and rest >= WELL_KNOWN)):
        return None
    order = np.arange(classes)
    for label, answer in closed.items():
        order[answer] = label
    return order


def find_merged(predicted: Predicted, labels: Predicted, classes: int) -> list[tuple[int, int, int, int]]:
    """Return classes that are nearly always taken for one other: class, the other, images so taken, all its images.

    Args:
        predicted: Places of the largest logits, [N].
        labels: True classes, [N].
        classes: How many there are.
    """
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    images, answers = confusion.sum(axis=1), confusion.argmax(axis=1)
    return [
        (label, int(answers[label]), int(confusion[label, answers[label]]), int(images[label]))
        for label in range(classes)
        if answers[label] != label
        and images[label] >= FEWEST_MERGED
        and confusion[label, answers[label]] >= MERGED_SHARE * images[label]
    ]


def describe_order(order: ClassOrder, classes: Sequence[str]) -> str:
    """Return in words what is moved, such as "its output 2 is 'b', not 'c'"."""
    moved = np.flatnonzero(order.order != np.arange(len(classes)))
    first = [f"its output {place} is {classes[order.order[place]]!r}, not {classes[place]!r}" for place in moved[:2]]
    return ", ".join(first) + (f", and {len(moved) - 2} more" if len(moved) > 2 else "")


def write_recipe_line(order: ClassOrder, classes: Sequence[str]) -> str:
    """Return the line of a recipe's teacher that declares an order."""
    for word, kind in (("natural", "natural order"), ("letters", "large as small")):
        if not order.is_fitted and kind in order.what:
            return f"classes: {word}"
    moved = [int(place) for place in np.flatnonzero(order.order != np.arange(len(classes)))]
    if len(moved) > MOST_NAMED:
        return "classes: FILE, which names the teacher's classes in its order, a line each"
    return "classes: {" + ", ".join(f"'{place}': {_quote(classes[order.order[place]])}" for place in moved) + "}"


def _quote(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def _keep_cycles(moved: Mapping[int, int]) -> dict[int, int]:
    """Return the classes that answer for each other in a circle: of two, or of more."""
    closed: dict[int, int] = {}
    for start in moved:
        seen, place = [start], moved[start]
        while place in moved and place not in seen:
            seen.append(place)
            place = moved[place]
        if place == start:
            closed |= {each: moved[each] for each in seen}
    return closed


def _is_clearly_better(order: ClassOrder, correct: NDArray[np.bool_]) -> bool:
    gain = 100 * (float(order.correct.mean()) - float(correct.mean()))
    least = FITTED_GAIN_POINTS if order.is_fitted else KNOWN_GAIN_POINTS
    return gain > least and mcnemar(order.correct, correct)[2] < SIGNIFICANT
