"""`torture.json`: what was tried, and what came of it."""

from __future__ import annotations

from typing import Literal

from compress.records import Document, Environment, Record

Kind = Literal["kills", "recipes", "artefacts", "sabotages"]
GOALS: dict[Kind, int] = {"kills": 200, "recipes": 10_000, "artefacts": 5_000, "sabotages": 60}
"""How many of each the study tries."""
MEANINGS: dict[Kind, str] = {
    "kills": "a run is killed before an operation on files, or at a random moment, up to five times, and repeated",
    "recipes": "a recipe with mutated lines, order or bytes is parsed and planned",
    "artefacts": "a record, a state, weights, a part of a bundle or a picture is damaged and read",
    "sabotages": "a file of a finished run or of its cache is damaged or removed, and the run is repeated",
}


class Part(Record):
    """One kind of trial."""

    kind: Kind
    tried: int
    outcomes: dict[str, int]
    """How many ended in which way; a fault begins with `fault`."""
    seconds: float

    @property
    def faults(self) -> int:
        """How many ended as they must not."""
        return sum(count for outcome, count in self.outcomes.items() if outcome.startswith("fault"))


class Torture(Document):
    """A whole study."""

    command: str
    seed: int
    parts: tuple[Part, ...]
    environment: Environment
