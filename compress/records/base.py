"""Frozen, versioned records: what all have in common, and how they are written and read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from compress.errors import CompressError, Unreachable
from compress.system.files import write_whole

SCHEMA_VERSION: Literal[2] = 2

Status = Literal["passed", "failed", "skipped"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]


class Record(BaseModel):
    """A frozen part of a file; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Document(Record):
    """A whole file."""

    schema_version: Literal[2] = SCHEMA_VERSION


R = TypeVar("R", bound=BaseModel)


def save(path: Path, record: BaseModel) -> None:
    """Write a record as JSON, whole or not at all.

    Raises:
        Unreachable: The disk is full or the folder cannot be written.
    """
    with write_whole(path, durable=True) as temporary:
        temporary.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read(path: Path, kind: type[R]) -> R:
    """Read a record.

    Raises:
        Unreachable: There is no such file, or it cannot be read.
        CompressError: The file is not a record of this kind and version.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise Unreachable(f"{path}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"] == ("schema_version",) and isinstance(first["input"], int):
            raise CompressError(
                f"{path}: has schema version {first['input']}, and this edge-compress reads {SCHEMA_VERSION}; make it "
                "again with `compress run` or `compress export`, or read it with the version that wrote it"
            ) from error
        place = ".".join(str(part) for part in first["loc"]) or "document"
        message = f"{path}: is not a {kind.__name__} of schema version {SCHEMA_VERSION}: {place}: {first['msg']}; make it again"
        raise CompressError(message) from error
