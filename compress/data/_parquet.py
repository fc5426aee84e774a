"""Parquet files of one split: find them and their columns, read labels and encoded images."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.errors import CompressError

_ROWS = 256
"""Rows that are held encoded at a time."""


@dataclass(frozen=True)
class Table:
    """The files of one split, and their columns."""

    split: str
    files: tuple[Path, ...]
    rows: int
    image: str
    label: str
    names: tuple[str, ...] | None


def find_table(folder: Path, split: str, *, subset: str | None, image: str | None, label: str | None) -> Table:
    """Find a split and read what its files declare.

    Args:
        folder: Where the files are, or the folders that hold them.
        split: Its name.
        subset: The folder below `folder` that is meant, if several have the split.
        image: The image column; `None` for the only one.
        label: The label column; `None` for the only one.

    Raises:
        CompressError: Files are missing, damaged or disagree, the split is empty, or a column is missing or ambiguous.
    """
    from pyarrow import parquet

    files = _find_files(folder, split, subset)
    schemas = []
    rows = 0
    for file in files:
        with _refuse_damaged(file), parquet.ParquetFile(file) as opened:
            schemas.append(opened.schema_arrow)
            rows += opened.metadata.num_rows
    columns = {_find_columns(file, schema, image, label) for file, schema in zip(files, schemas, strict=True)}
    if len(columns) > 1:
        raise CompressError(
            f"{files[0].parent}: the files of split {split!r} declare different features; take them from one source"
        )
    if rows == 0:
        raise CompressError(f"{files[0].parent}: split {split!r} has no rows")
    return Table(split, files, rows, *columns.pop())


def _find_files(folder: Path, split: str, subset: str | None) -> tuple[Path, ...]:
    """Return the complete files of a split, in order."""
    pattern = re.compile(re.escape(split) + r"(-(?P<part>\d+)(-of-(?P<parts>\d+))?(-\w+)?)?\.parquet")
    homes: dict[str, list[tuple[Path, re.Match[str]]]] = {}
    for path in sorted([*folder.glob("*.parquet"), *folder.glob("*/*.parquet")]):
        if match := pattern.fullmatch(path.name):
            homes.setdefault(str(path.parent.relative_to(folder)), []).append((path, match))
    if subset is not None:
        homes = {name: files for name, files in homes.items() if name == subset}
    if len(homes) != 1:
        several = f"is in several folders: {', '.join(sorted(homes))}; choose one as data.subset"
        raise CompressError(f"{folder}: split {split!r} {several if homes else 'has no files; ' + _list_splits(folder)}")
    found = homes.popitem()[1]
    present = sorted(int(match["part"]) for _, match in found if match["parts"])
    expected = {int(match["parts"]) for _, match in found if match["parts"]}
    if expected and present != list(range(max(expected))):
        raise CompressError(f"{folder}: split {split!r} has parts {present} of {max(expected)}; get all of them")
    return tuple(path for path, _ in found)


def _list_splits(folder: Path) -> str:
    paths = [*folder.glob("*.parquet"), *folder.glob("*/*.parquet")]
    splits = sorted({re.sub(r"-\d.*", "", path.stem) for path in paths})
    return f"the folder has the splits {', '.join(splits)}" if splits else "the folder has no parquet files"


def _find_columns(file: Path, schema: Any, image: str | None, label: str | None) -> tuple[str, str, tuple[str, ...] | None]:
    """Return the image column, the label column and the class names that an arrow schema declares."""
    from pyarrow import types

    kinds = {field.name: field.type for field in schema}
    encoded = [name for name, kind in kinds.items() if _holds_bytes(kind)]
    numbers = [name for name, kind in kinds.items() if types.is_integer(kind)]
    declared = _read_features(file, schema)
    images = [name for name in encoded if declared.get(name, {}).get("_type") == "Image"] or encoded
    labels = [name for name in numbers if declared.get(name, {}).get("_type") == "ClassLabel"] or numbers
    image = _choose(file, "image", image, encoded, images)
    label = _choose(file, "label", label, numbers, labels)
    names = declared.get(label, {}).get("names")
    return image, label, tuple(str(name) for name in names) if names else None


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


def _choose(file: Path, role: str, wanted: str | None, usable: Sequence[str], likely: Sequence[str]) -> str:
    if wanted is not None and wanted not in usable:
        raise CompressError(f"{file}: has no {role} column {wanted!r}; columns that can be one: {', '.join(usable) or 'none'}")
    if wanted is None and len(likely) != 1:
        which = (
            f"several {role} columns: {', '.join(likely)}; choose one as data.{role}_column" if likely else f"no {role} column"
        )
        raise CompressError(f"{file}: has {which}")
    return wanted or likely[0]


def read_labels(table: Table) -> NDArray[np.int64]:
    """Return the labels of a split, [N]; a missing one is -1, which no class has.

    Raises:
        CompressError: A file is damaged.
    """
    from pyarrow import compute, int64, parquet

    parts = []
    for file in table.files:
        with _refuse_damaged(file):
            column = parquet.read_table(file, columns=[table.label], partitioning=None).column(0)
            parts.append(compute.fill_null(column.cast(int64()), -1).to_numpy())
    return np.concatenate(parts)


def read_encoded(table: Table) -> Iterator[bytes | None]:
    """Yield the encoded images of a split one by one, `None` where the file has none.

    Raises:
        CompressError: A file is damaged.
    """
    from pyarrow import parquet

    for file in table.files:
        with _refuse_damaged(file), parquet.ParquetFile(file) as opened:
            for batch in opened.iter_batches(_ROWS, columns=[table.image]):
                for cell in batch.column(0).to_pylist():
                    yield cell.get("bytes") if isinstance(cell, dict) else cell


@contextmanager
def _refuse_damaged(file: Path) -> Iterator[None]:
    from pyarrow import ArrowException

    try:
        yield
    except (OSError, ArrowException) as error:
        raise CompressError(f"{file}: is no whole parquet file ({str(error).splitlines()[0]}); get it again") from error
