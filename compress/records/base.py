"""Frozen, versioned records: what all have in common, and how they are written and read.

A document carries its own `checksum`, the sha256 of its other fields, as JSON with sorted keys and without spaces. So
a bit that flips on the disk is noticed at the next read, whatever it turns a number into. A bundle's documents have none of
their own, since `SHA256SUMS` seals the whole folder.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from compress.errors import CompressError
from compress.system.files import read_bounded, write_whole

SCHEMA_VERSION: Literal[2] = 2
MAX_NAME = 200
"""Letters of a name or reason in a message; a damaged file may hold endless ones."""

Status = Literal["passed", "failed", "skipped"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]


Count = Annotated[int, Field(ge=0, le=1 << 62)]
Percent = Annotated[float, Field(ge=-1e-3, le=100.001)]
"""With room for rounding."""
Seconds = Annotated[float, Field(ge=0, le=1e12)]
Milliseconds = Annotated[float, Field(ge=1e-15, le=1e15)]
"""Of something that took place, so never 0."""
Factor = Annotated[float, Field(ge=1e-15, le=1e15)]
Figure = Annotated[float, Field(ge=-1e30, le=1e30)]
"""A number that can still be multiplied and drawn."""


Png = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]*={0,2}$", max_length=1 << 20)]
"""A picture in base64, and nothing that a page could take for anything else."""


class Record(BaseModel):
    """A frozen part of a file; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Document(Record):
    """A whole file."""

    carries_checksum: ClassVar[bool] = True
    """Whether its file holds a checksum of it."""

    schema_version: Literal[2] = SCHEMA_VERSION


R = TypeVar("R", bound=BaseModel)


def rename_field(content: Any, old: str, new: str) -> Any:
    """Return the content of a record with a field under the name that it has now, where it has an older one."""
    if isinstance(content, dict) and old in content and new not in content:
        return {new if name == old else name: value for name, value in content.items()}
    return content


CHECKSUM = "checksum"
"""The field of a file that holds its checksum; no document has a field of its own by that name."""
_LIMIT_BYTES = 1 << 28


def save(path: Path, record: BaseModel) -> None:
    """Write a record as JSON, whole or not at all; a document with its checksum.

    Raises:
        Unreachable: The disk is full or the folder cannot be written.
    """
    text = record.model_dump_json(indent=1)
    if isinstance(record, Document) and record.carries_checksum:
        content = from_json(text)
        text = json.dumps({CHECKSUM: hashlib.sha256(_dump(content)).hexdigest(), **content}, indent=1, ensure_ascii=False)
    with write_whole(path, durable=True) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read(path: Path, kind: type[R]) -> R:
    """Read a record; one with a checksum must be what was written.

    Raises:
        Unreachable: There is no such file, or it cannot be read.
        CompressError: The file is not a record of this kind and version, or was damaged or edited.
    """
    try:
        return kind.model_validate_json(_read_checked(path))
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"] == ("schema_version",) and isinstance(first["input"], int):
            raise CompressError(
                f"{path}: has schema version {first['input']}, and this edge-compress reads {SCHEMA_VERSION}; make it "
                "again with `compress run` or `compress export`, or read it with the version that wrote it"
            ) from error
        place = ".".join(str(part)[:MAX_NAME] for part in first["loc"]) or "document"
        why = first["msg"][:MAX_NAME]
        message = f"{path}: is not a {kind.__name__} of schema version {SCHEMA_VERSION}: {place}: {why}; make it again"
        raise CompressError(message) from error


def _read_checked(path: Path) -> bytes:
    """Return the JSON of a record without its checksum.

    Raises:
        Unreachable: There is no such file, or it cannot be read.
        CompressError: The content is not that of the checksum, or too large for a record.
    """
    text = read_bounded(path, limit_bytes=_LIMIT_BYTES, what="a record")
    try:
        content = from_json(text)
    except ValueError:  # the type says where it breaks off
        return text
    checked = isinstance(content, dict) and CHECKSUM in content
    checksum = content.pop(CHECKSUM) if checked else None
    try:
        dumped = _dump(content)
    except ValueError as error:
        raise CompressError(f"{path}: holds a number that is not finite, so it was damaged or edited; make it again") from error
    if checked and checksum != hashlib.sha256(dumped).hexdigest():
        raise CompressError(f"{path}: does not agree with its own checksum, so it was damaged or edited; make it again")
    return dumped


def _dump(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
