"""Rows of a table with a label each and perhaps a split: which are trained on, which tested, and what their classes are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compress.data._labels import find_classes, label_rows
from compress.data._source import Summary
from compress.data._splits import TEST_FRACTION, choose_test_rows, describe_split, find_split, list_names
from compress.errors import CompressError
from compress.tasks import Labels


class Table(NamedTuple):
    """What is known of each row."""

    where: str
    """What the data is called in messages."""
    column: str
    """What the labels are called there."""
    values: Sequence[Any]
    """Label of each row; `None` where one is missing."""
    keys: Sequence[str]
    """What names each row for good."""
    key_name: str
    """What that is, for people: the path of each picture."""
    splits: Sequence[str] | None = None
    """Name of each row's split, as it stands there; `None` where there are none."""
    declared: Sequence[str] | None = None
    """Names of the classes, where labels are their places."""


class Divided(NamedTuple):
    """Rows of both splits, with their labels."""

    train: NDArray[np.int64]
    """Rows, [n]."""
    test: NDArray[np.int64]
    """Rows, [m]."""
    train_labels: Labels
    test_labels: Labels
    classes: tuple[str, ...]
    notes: tuple[str, ...]

    def summarize(self) -> Summary:
        """Return classes and sizes."""
        train, test = (np.bincount(labels, minlength=len(self.classes)) for labels in (self.train_labels, self.test_labels))
        sizes = len(self.train_labels), len(self.test_labels)
        return Summary(self.classes, *sizes, tuple(map(int, train)), tuple(map(int, test)), self.notes)


def divide_rows(table: Table, *, fraction: float | None, seed: int) -> Divided:
    """Return the rows of both splits; where there is no test split, one is set apart by a hash of each row's key.

    Args:
        table: What is known of them.
        fraction: Share of each class that is set apart; `None` is the usual one.
        seed: Of that split.

    Raises:
        CompressError: A split has an unknown name or no rows, the labels are no classes, or a row has none of them.
    """
    roles, notes = _find_roles(table)
    train, test = (np.flatnonzero(roles == role) for role in ("train", "test"))
    if not len(train):
        raise CompressError(f"{table.where}: has no row to train on; name its split train, or leave the splits out")
    chosen = [table.values[row] for row in train.tolist()]
    classes = find_classes(table.where, table.column, chosen, table.declared)
    labels = label_rows(f"{table.where}: training split", table.column, chosen, classes)
    if len(test):
        if fraction is not None:
            raise CompressError(f"data.test_fraction: {table.where} has a test split; remove one of the two")
        tested = label_rows(f"{table.where}: test split", table.column, [table.values[row] for row in test.tolist()], classes)
        return Divided(train, test, labels, tested, classes.names, (*classes.notes, *notes))
    share = TEST_FRACTION if fraction is None else fraction
    aside = choose_test_rows([table.keys[row] for row in train.tolist()], labels, fraction=share, seed=seed)
    if not aside.any() or aside.all():
        raise CompressError(f"{table.where}: has {len(train)} rows, too few to set a test split apart; add some")
    note = describe_split(share, seed, int((~aside).sum()), int(aside.sum()), by=table.key_name)
    notes = (*classes.notes, *notes, f"{table.where}: {note}")
    return Divided(train[~aside], train[aside], labels[~aside], labels[aside], classes.names, notes)


def _find_roles(table: Table) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Return what each row is for, `train`, `test` or nothing, [N], and what a reader must know of it.

    Raises:
        CompressError: A split has no usual name.
    """
    if table.splits is None:
        return np.full(len(table.values), "train"), ()
    present = sorted(set(table.splits))
    known = {
        role: {name for name in present if find_split(role, [name]) is not None} for role in ("train", "test", "validation")
    }
    unknown = set(present) - set().union(*known.values())
    if unknown:
        raise CompressError(
            f"{table.where}: the splits {list_names(unknown)} have no usual name; call them train, test and val"
        )
    tested, notes = "test", []
    if known["validation"] and not known["test"]:
        tested = "validation"
        notes.append(f"{table.where}: {list_names(known[tested])} is what the result is tested on")
    elif known["validation"]:
        notes.append(
            f"{table.where}: {list_names(known['validation'])} is not used: validation images are held out of training"
        )
    roles = dict.fromkeys(known["train"], "train") | dict.fromkeys(known[tested], "test")
    return np.array([roles.get(name, "") for name in table.splits]), tuple(notes)
