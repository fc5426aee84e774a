"""Parquet files of the splits of a data set: find them and their columns, read labels and encoded images."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from compress.data._splits import SPLIT_NAMES, find_split
from compress.errors import CompressError

_ROWS = 256
"""Rows that are held encoded at a time."""

LABEL_NAMES = ("label", "labels", "class", "classes", "target", "category", "y", "fine_label")
"""What a column of labels is usually called, the best known first."""

MASK_NAMES = ("mask", "label", "annotation", "segmentation", "segmentation_mask", "semantic_mask", "seg", "target")
"""What a column of masks is usually called, the best known first."""

_NAMED = re.compile(r"(?P<split>.+?)(-(?P<part>\d+)(-of-(?P<parts>\d+))?(-\w+)?)?")
_NUMBERED = re.compile(r"(part[-_.]?|data[-_.]|shard[-_.]?|batch[-_.]?)?(?P<part>\d+)(-of-(?P<parts>\d+))?([-.][\w.-]+)?")


class Part(NamedTuple):
    """One file of a split."""

    path: Path
    split: str
    home: str
    """The folder of the splits, relative to the data set's; the hub calls it a subset, or configuration."""
    part: int | None
    parts: int | None
    """How many there are in all, if the name says it."""


@dataclass(frozen=True)
class Table:
    """The files of one split, and their columns."""

    split: str
    files: tuple[Path, ...]
    rows: int
    image: str
    label: str
    """The column of labels, or of masks."""
    names: tuple[str, ...] | None


def list_parts(folder: Path, subset: str | None) -> list[Part]:
    """Return all files of all splits, at any depth, as the hub and the usual tools name them.

    These are `train.parquet`, `train-00000-of-00002.parquet`, `train/part-0.parquet`, and the hub's own conversion,
    `CONFIG/train/0000.parquet`.

    Args:
        folder: Of the data set.
        subset: The folder below it that is meant; default: any.
    """
    found = (path for path in folder.rglob("*") if path.suffix.casefold() == ".parquet")
    paths = sorted(path for path in found if not _is_hidden(path.relative_to(folder)))
    parts = [_read_name(folder, path) for path in paths]
    return [part for part in parts if subset is None or subset == part.home or part.home.startswith(f"{subset}/")]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _read_name(folder: Path, path: Path) -> Part:
    """Return what the name of a file and of its folder say."""
    home, above = path.parent, path.parent.name.removeprefix("partial-") if path.parent != folder else ""
    numbered, named = _NUMBERED.fullmatch(path.stem), _NAMED.fullmatch(path.stem)
    match, split = (numbered, above) if numbered and above else (named, named["split"] if named else path.stem)
    inside = bool(above) and (match is numbered or split.casefold() == above.casefold())
    if above and not inside and _is_split(above) and not _is_split(split):
        inside, split = True, above
    place = (home.parent if inside else home).relative_to(folder)
    numbers = [None if match is None or match[name] is None else int(match[name]) for name in ("part", "parts")]
    return Part(path, above if inside else split, "." if place == Path() else place.as_posix(), numbers[0], numbers[1])


def _is_split(name: str) -> bool:
    return any(find_split(role, [name]) is not None for role in SPLIT_NAMES)


def list_splits(parts: Iterable[Part]) -> str:
    """Return which splits there are, in words."""
    splits = sorted({part.split for part in parts})
    return f"the folder has the splits {', '.join(splits)}" if splits else "the folder has no parquet files"


def find_table(
    folder: Path, parts: Iterable[Part], split: str, *, image: str | None, label: str | None, masks: bool = False
) -> Table:
    """Read what the files of a split declare.

    Args:
        folder: Of the data set.
        parts: All files.
        split: Its name.
        image: The image column; `None` for the only one.
        label: The label column; `None` for the only one.
        masks: Whether labels are masks, pictures themselves.

    Raises:
        CompressError: Files are missing, damaged or disagree, the split is empty, or a column is missing or ambiguous.
    """
    from pyarrow import parquet

    files = _choose_files(folder, list(parts), split)
    schemas = []
    rows = 0
    for file in files:
        with _refuse_damaged(file), parquet.ParquetFile(file) as opened:
            schemas.append(opened.schema_arrow)
            rows += opened.metadata.num_rows
    find = _find_mask_columns if masks else _find_columns
    columns = {find(file, schema, image, label) for file, schema in zip(files, schemas, strict=True)}
    if len(columns) > 1:
        raise CompressError(
            f"{files[0].parent}: the files of split {split!r} declare different features; take them from one source"
        )
    if rows == 0:
        raise CompressError(f"{files[0].parent}: split {split!r} has no rows")
    return Table(split, files, rows, *columns.pop())


def _choose_files(folder: Path, parts: list[Part], split: str) -> tuple[Path, ...]:
    """Return the complete files of a split, in order."""
    homes: dict[str, list[Part]] = {}
    for part in parts:
        if part.split == split:
            homes.setdefault(part.home, []).append(part)
    if len(homes) != 1:
        several = f"is in several folders: {', '.join(sorted(homes))}; choose one as data.subset"
        raise CompressError(f"{folder}: split {split!r} {several if homes else 'has no files; ' + list_splits(parts)}")
    found = homes.popitem()[1]
    present = sorted(part.part for part in found if part.parts is not None and part.part is not None)
    expected = {part.parts for part in found if part.parts is not None}
    if expected and present != list(range(max(expected))):
        raise CompressError(f"{folder}: split {split!r} has parts {present} of {max(expected)}; get all of them")
    numbers = sorted(part.part for part in found if part.part is not None)
    if not expected and numbers and numbers[0] == 0 and numbers != list(range(len(numbers))):
        raise CompressError(f"{folder}: split {split!r} has parts {numbers}, of which some are missing; get all of them")
    return tuple(part.path for part in sorted(found, key=lambda part: (part.part or 0, part.path.name)))


def _find_columns(file: Path, schema: Any, image: str | None, label: str | None) -> tuple[str, str, tuple[str, ...] | None]:
    """Return the image column, the label column and the class names that an arrow schema declares."""
    kinds = {field.name: field.type for field in schema}
    encoded = [name for name, kind in kinds.items() if _holds_bytes(kind)]
    usable = [name for name, kind in kinds.items() if _holds_labels(kind)]
    declared = _read_features(file, schema)
    images = [name for name in encoded if declared.get(name, {}).get("_type") == "Image"] or encoded
    image = _choose(f"{file}: image", image, encoded, images, kinds)
    label = _choose(f"{file}: label", label, usable, _find_likely_labels(usable, kinds, declared), kinds)
    names = declared.get(label, {}).get("names")
    return image, label, tuple(str(name) for name in names) if names else None


def _find_mask_columns(file: Path, schema: Any, image: str | None, mask: str | None) -> tuple[str, str, None]:
    """Return the columns of images and of masks of an arrow schema, and no class names: none are declared for masks."""
    kinds = {field.name: field.type for field in schema}
    encoded = [name for name, kind in kinds.items() if _holds_bytes(kind)]
    free = [name for name in encoded if name != image]
    named = [name for usual in MASK_NAMES for name in free if name.casefold() == usual][:1]
    mask = _choose(f"{file}: mask", mask, encoded, named or (free if image else []), kinds)
    return _choose(f"{file}: image", image, encoded, [name for name in encoded if name != mask], kinds), mask, None


def _find_likely_labels(usable: list[str], kinds: Mapping[str, Any], declared: Mapping[str, dict[str, Any]]) -> list[str]:
    """Return the columns that are probably meant: declared as such, named as such, or the only whole numbers or texts."""
    from pyarrow import types

    marked = [name for name in usable if declared.get(name, {}).get("_type") == "ClassLabel"]
    named = [name for usual in LABEL_NAMES for name in usable if name.casefold() == usual][:1]
    numbers = [name for name in usable if types.is_integer(kinds[name])]
    return marked or named or numbers or usable


def _holds_labels(kind: Any) -> bool:
    """Tell whether a column can hold labels: whole numbers, texts, false and true, or floats that are whole."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return _holds_labels(kind.value_type)
    tests = (types.is_integer, types.is_string, types.is_large_string, types.is_boolean, types.is_floating)
    return any(test(kind) for test in tests)


def _read_features(file: Path, schema: Any) -> dict[str, dict[str, Any]]:
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, AttributeError) as error:
        raise CompressError(f"{file}: its declared features cannot be read ({error}); write the file again") from error


def _holds_bytes(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return any(kind.field(index).name == "bytes" for index in range(kind.num_fields))
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _choose(what: str, wanted: str | None, usable: list[str], likely: list[str], kinds: Mapping[str, Any]) -> str:
    """Return the column that is wanted, or else the only likely one.

    Args:
        what: File and role of the column, `FILE: ROLE`.
        wanted: The name that the recipe gives, if it does.
        usable: Columns whose type fits.
        likely: Of those, the ones that are probably meant.
        kinds: Types of all columns.

    Raises:
        CompressError: It is not there, or there is none or several; the message names the columns with their types.
    """
    file, _, role = what.rpartition(": ")
    if wanted is not None and wanted not in usable:
        can = _describe_columns(usable, kinds) or f"none; the file has {_describe_columns(kinds, kinds)}"
        raise CompressError(f"{file}: has no {role} column {wanted!r}; columns that can be one: {can}")
    if wanted is None and len(likely) != 1:
        which = f"several {role} columns: {_describe_columns(likely, kinds)}; choose one as data.{role}_column"
        none = f"no {role} column; the file has {_describe_columns(kinds, kinds) or 'no columns'}"
        raise CompressError(f"{file}: has {which if likely else none}")
    return wanted or likely[0]


def _describe_columns(names: Iterable[str], kinds: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} ({_describe_kind(kinds[name])})" for name in names)


def _describe_kind(kind: Any) -> str:
    """Return the type of a column in short; of a struct the names of its fields."""
    from pyarrow import types

    if types.is_struct(kind):
        return f"struct of {', '.join(kind.field(index).name for index in range(kind.num_fields))}"
    return {"string": "texts", "large_string": "texts", "bool": "false and true"}.get(str(kind), str(kind)[:60])


def read_values(table: Table) -> list[Any]:
    """Return the values of the label column of a split, one for each row; `None` where one is missing.

    Raises:
        CompressError: A file is damaged.
    """
    from pyarrow import parquet

    values: list[Any] = []
    for file in table.files:
        with _refuse_damaged(file):
            values += parquet.read_table(file, columns=[table.label], partitioning=None).column(0).to_pylist()
    return [None if value != value else value for value in values]  # noqa: PLR0124 (NaN alone differs from itself)


def read_encoded(table: Table, column: str | None = None) -> Iterator[bytes | None]:
    """Yield the encoded images of a split one by one, `None` where the file has none.

    Args:
        table: Of the split.
        column: Default: that of the images.

    Raises:
        CompressError: A file is damaged.
    """
    from pyarrow import parquet

    for file in table.files:
        with _refuse_damaged(file), parquet.ParquetFile(file) as opened:
            for batch in opened.iter_batches(_ROWS, columns=[column or table.image]):
                for cell in batch.column(0).to_pylist():
                    yield cell.get("bytes") if isinstance(cell, dict) else cell


@contextmanager
def _refuse_damaged(file: Path) -> Iterator[None]:
    from pyarrow import ArrowException

    try:
        yield
    except (OSError, ArrowException) as error:
        raise CompressError(f"{file}: is no whole parquet file ({str(error).splitlines()[0]}); get it again") from error
