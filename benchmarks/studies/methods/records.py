"""`study.json`: every piece that was run, the learning rates that were chosen, and what became of each method."""

from __future__ import annotations

from typing import Literal

from benchmarks.studies.resuming import Resumable
from compress.records import Record, Scores


class Student(Record):
    """One way of training in one piece, over its seeds."""

    label: str
    """Of the method with its options, the same in all pieces of a part."""
    scores: Scores
    parameters: int
    """Of what is shipped."""
    seconds: float
    """Training the first seed's student with all stages before it, without outputs of teachers that were there already."""


class Piece(Record):
    """One run."""

    name: str
    part: str
    kind: Literal["tuning", "default", "tuned"]
    optimizer: str
    lr: float
    students: tuple[Student, ...]
    images: dict[str, int]
    """In each split."""
    steps: int


class Study(Resumable):
    """All that is known so far."""

    pieces: tuple[Piece, ...]
