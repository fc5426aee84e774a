"""Read the class order that a recipe declares for a teacher: by a word, a list, a mapping or a file.

A file has one name a line, or is JSON: a list of names, or a mapping such as torchvision's `class_to_idx` ({name: index}) or
transformers' `id2label` ({index: name}).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from compress.errors import CompressError, Unreachable
from compress.system.files import resolve_path

NATURAL, LETTERS = "natural", "letters"
WORDS = (NATURAL, LETTERS)
"""Orders that need no names: 1, 2, 10, and that of their letters, large as small."""
MAX_BYTES = 1 << 22
_MOST_SHOWN = 3


class TeacherClasses(NamedTuple):
    """Which of a teacher's outputs is which class of the data."""

    outputs: int
    """How many the teacher has."""
    order: tuple[int, ...]
    """Output of the teacher for each class of the data, in label order."""


def tidy_class_order(value: object) -> object:
    """Return what a recipe says of a class order in one form: a word or file, a list of names, or a mapping by index."""
    if isinstance(value, Mapping):
        return _tidy_mapping(value)
    if isinstance(value, list | tuple):
        return tuple(str(name) if isinstance(name, int | float) and not isinstance(name, bool) else name for name in value)
    return value


def _tidy_mapping(value: Mapping[Any, Any]) -> object:
    """Return {index: name} of that or of {name: index}; what is neither is returned as it is, for the type to refuse."""
    by_index = {_read_index(key): name for key, name in value.items()}
    if None not in by_index:
        return {str(index): str(name) for index, name in by_index.items()}
    if all(isinstance(index, int) and not isinstance(index, bool) and index >= 0 for index in value.values()):
        return {str(index): str(name) for name, index in value.items()}
    return value


def _read_index(key: object) -> int | None:
    if isinstance(key, bool):
        return None
    return key if isinstance(key, int) and key >= 0 else int(key) if isinstance(key, str) and key.isdecimal() else None


def resolve_class_order(
    declared: str | Sequence[str] | Mapping[str, str], classes: Sequence[str], base: Path, *, where: str
) -> TeacherClasses:
    """Return which output of a teacher is which class of the data.

    Args:
        declared: A word of `WORDS`, a file, the teacher's classes in its order, or a mapping from its index to the class;
            classes of which a mapping says nothing are where the data has them.
        classes: Names of the data's classes in label order.
        base: Folder of the recipe, at which a file's path starts.
        where: The field in messages.

    Raises:
        CompressError: The file has no names, or the names do not fit the data's.
        Unreachable: The file cannot be read.
    """
    if isinstance(declared, str):
        declared = _order_by_word(declared, classes) or _read_file(resolve_path(base, declared), where)
    names = _list_names(declared, classes, where)
    missing = [name for name in classes if name not in names]
    if missing:
        more = f" and {len(missing) - _MOST_SHOWN} more" if len(missing) > _MOST_SHOWN else ""
        shown = ", ".join(map(repr, missing[:_MOST_SHOWN]))
        raise CompressError(f"{where}: does not name {shown}{more}, which the data has; name every class of the data")
    twice = next((name for name in classes if names.count(name) > 1), None)
    if twice is not None:
        raise CompressError(f"{where}: names {twice!r} twice; name each class once")
    return TeacherClasses(len(names), tuple(names.index(name) for name in classes))


def _order_by_word(word: str, classes: Sequence[str]) -> list[str] | None:
    if word == NATURAL:
        return sorted(classes, key=split_numbers)
    return sorted(classes, key=str.casefold) if word == LETTERS else None


def split_numbers(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key by which `class2` comes before `class10`."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part.casefold()) for part in re.split(r"(\d+)", name) if part]


def _read_file(path: Path, where: str) -> Sequence[str] | Mapping[str, str]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CompressError(f"{where}: {path} has more than {MAX_BYTES} bytes; give a file of class names")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CompressError(f"{where}: {path} is not UTF-8 text; give a file of class names") from error
    except OSError as error:
        words = " or ".join(WORDS)
        raise Unreachable(
            f"{where}: {path}: cannot be read ({error.strerror}); give {words}, a list, a mapping, or the path of a file"
        ) from error
    if text.lstrip()[:1] in ("[", "{"):
        try:
            found = tidy_class_order(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise CompressError(f"{where}: {path} is no whole JSON; save it again, or give one name a line") from error
    else:
        found = tuple(line.strip() for line in text.splitlines() if line.strip())
    good = (isinstance(found, tuple) and all(isinstance(name, str) for name in found)) or (
        isinstance(found, dict) and all(_read_index(key) is not None for key in found)
    )
    if not good or not found:
        raise CompressError(f"{where}: {path} holds no class names; give one name a line, or a list or mapping as JSON")
    names: Sequence[str] | Mapping[str, str] = found  # type: ignore[assignment]  # as was looked at above
    return names


def _list_names(declared: Sequence[str] | Mapping[str, str], classes: Sequence[str], where: str) -> list[str]:
    """Return the name of each output of the teacher."""
    if isinstance(declared, Mapping):
        return _complete(declared, classes, where)
    return _read_numbers(list(declared), classes)


def _complete(mapping: Mapping[str, str], classes: Sequence[str], where: str) -> list[str]:
    """Return the name at each index; where the mapping says nothing, that of the data.

    Raises:
        CompressError: Names are where the mapping and the data both have one.
    """
    given = {int(index): name for index, name in mapping.items()}
    given = dict(zip(given, _read_numbers(list(given.values()), classes), strict=True))
    count = max(len(classes), max(given, default=0) + 1)
    names = [given.get(index, classes[index] if index < len(classes) else "") for index in range(count)]
    unnamed = next((index for index, name in enumerate(names) if not name), None)
    if unnamed is not None and count > len(classes):
        return [name or f"output {index}" for index, name in enumerate(names)]
    for name in given.values():
        if names.count(name) > 1:
            raise CompressError(f"{where}: {name!r} is at two places of the teacher; say, too, what is where the data has it")
    return names


def _read_numbers(names: list[str], classes: Sequence[str]) -> list[str]:
    """Return names; numbers that are no names of the data, but labels of it, stand for the classes of these labels."""
    labels = [_read_index(name) for name in names]
    if any(name in classes for name in names) or None in labels:
        return names
    return [classes[label] if label is not None and label < len(classes) else name
            for label, name in zip(labels, names, strict=True)]  # fmt: skip
