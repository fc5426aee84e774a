"""Classes of a label column: what kind of values it holds, which classes they are, and the label of each row.

Where names are declared, a value is the place of its name. Where none are, the values that occur in the training split are the
classes, in their order: texts, numbers that need not begin at 0, false and true. No class is invented.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compress.data._splits import describe_renamed, list_names, normalise_name, refuse_duplicates
from compress.errors import CompressError
from compress.tasks import Labels
from compress.text import quantify

Values = NDArray[Any]
"""[N]: numbers, or texts and `None`; a missing number is NaN or masked out by `None`."""


class Classes(NamedTuple):
    """Classes of a label column."""

    names: tuple[str, ...]
    values: tuple[Any, ...]
    """The value of each class."""
    notes: tuple[str, ...]


def find_classes(where: str, column: str, values: Sequence[Any], declared: Sequence[str] | None) -> Classes:
    """Return the classes of a column.

    Args:
        where: What the column's data is called in messages.
        column: Its name.
        values: Of the training split, one for each row; `None` where one is missing.
        declared: Names of the classes, if the files declare them.

    Raises:
        CompressError: The values are no classes, or two declared classes have one name.
    """
    if declared is not None:
        refuse_duplicates(where, declared)
        notes = describe_renamed(declared)
        return Classes(tuple(normalise_name(name) for name in declared), tuple(range(len(declared))), notes)
    distinct = {_unify(where, column, value) for value in values if value is not None} - {""}
    if not distinct:
        raise CompressError(f"{where}: column {column!r} holds no label; choose another as data.label_column")
    ordered = sorted(distinct)
    if len(ordered) == 1:
        without = sum(value is None or _unify(where, column, value) == "" for value in values)
        rest = f", and {quantify(without, 'row')} without a label" if without else ""
        raise CompressError(
            f"{where}: column {column!r} holds one class alone, {ordered[0]!r}{rest}, and two classes are needed; choose "
            "another as data.label_column, or add images"
        )
    if isinstance(ordered[0], str):
        return _take_texts(where, column, ordered, values)
    _refuse_identifiers(where, column, ordered, len(values))
    return Classes(tuple(map(_name_value, ordered)), tuple(ordered), tuple(_describe_numbers(column, ordered)))


def _take_texts(where: str, column: str, ordered: list[str], values: Sequence[Any]) -> Classes:
    if len(ordered) > max(len(values) // 2, 2):
        raise CompressError(
            f"{where}: column {column!r} holds {len(ordered)} different texts in {len(values)} rows, which are no classes, "
            f"such as {ordered[0][:60]!r}; choose another as data.label_column"
        )
    named = f"column {column!r} holds texts: its {len(ordered)} different ones are the classes, in sorted order"
    return Classes(tuple(ordered), tuple(ordered), (named, *describe_renamed(v for v in values if v is not None)))


def _refuse_identifiers(where: str, column: str, ordered: list[Any], rows: int) -> None:
    """Refuse numbers of which nearly each row has its own, and the number that stands for no label."""
    if (2 * len(ordered) > rows and ordered[-1] >= rows + 2 * len(ordered)) or 20 < len(ordered) == rows:
        raise CompressError(
            f"{where}: column {column!r} holds numbers up to {ordered[-1]} in {rows} rows, which are no classes; choose "
            "another as data.label_column"
        )
    if ordered[:2] == [-1, 0]:
        raise CompressError(
            f"{where}: column {column!r} holds the label -1 beside 0, which usually says that a row has none; remove these "
            "rows, or declare the names of the classes"
        )


def _describe_numbers(column: str, ordered: list[Any]) -> Iterator[str]:
    """Yield how the classes came about where the numbers are not 0, 1, 2, ..."""
    if isinstance(ordered[0], bool) or ordered == list(range(len(ordered))):
        return
    count = quantify(len(ordered), "number")
    if ordered == list(range(ordered[0], ordered[0] + len(ordered))):
        ends = f"{ordered[0]} to {ordered[-1]}"
        yield f"column {column!r}: labels begin at {ordered[0]} and not at 0; the {count} {ends} are the classes"
        return
    missing = sorted(set(range(ordered[-1] + 1)) - set(ordered)) if ordered[0] >= 0 and ordered[-1] < 100_000 else []
    shown = (
        f"; no image has {', '.join(map(str, missing[:5]))}" + (" and others" if len(missing) > 5 else "") if missing else ""
    )
    yield f"column {column!r}: the {count} that occur, {ordered[0]} to {ordered[-1]}, are the classes, in their order{shown}"


def _unify(where: str, column: str, value: Any) -> Any:
    """Return a value as a class has it: texts composed, whole floats as whole numbers.

    Raises:
        CompressError: It is a fraction.
    """
    if isinstance(value, str):
        return normalise_name(value)
    if isinstance(value, float):
        if not value.is_integer():
            raise CompressError(
                f"{where}: column {column!r} holds fractions such as {value:g}, which are no classes; choose another as "
                "data.label_column, or write the class of each row"
            )
        return int(value)
    return value


def _name_value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def label_rows(where: str, column: str, values: Sequence[Any], classes: Classes) -> Labels:
    """Return the label of each row, [N].

    Args:
        where: What the split is called in messages.
        column: Name of the column.
        values: One for each row; `None` where one is missing.
        classes: Of the training split.

    Raises:
        CompressError: A row has no label, or one that is no class; the message names the row.
    """
    known = {value: label for label, value in enumerate(classes.values)}
    unified = [None if value is None else _unify(where, column, value) for value in values]
    unified = [None if value == "" else value for value in unified]
    labels = np.array([-1 if value is None else known.get(value, -1) for value in unified], np.int64)
    wrong = np.flatnonzero(labels < 0)
    if not len(wrong):
        return labels
    row = int(wrong[0])
    as_in = f", as in {len(wrong)} rows" if len(wrong) > 1 else ""
    if unified[row] is None:
        raise CompressError(f"{where}, row {row}: has no label in column {column!r}{as_in}; mend the labels")
    if classes.values == tuple(range(len(classes.values))):
        rule = f"is not in 0 .. {len(classes.values) - 1}"
        shifted = 0 not in set(unified) and unified[row] == len(classes.values)
        hint = "; labels begin at 1, and the first of the names is label 0: subtract 1" if shifted else ""
    else:
        rule, hint = f"is none of the training split's, {list_names(classes.names)}", ""
    if isinstance(unified[row], str) != isinstance(classes.values[0], str):
        hint = f"; these are {'texts' if isinstance(classes.values[0], str) else 'numbers'}, so write all in one way"
    raise CompressError(
        f"{where}, row {row}: label {unified[row]!r} {rule}{as_in}{hint}; mend the labels, or choose another split"
    )
