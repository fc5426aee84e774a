"""The contract of a tracker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol


class TrackedRun(NamedTuple):
    """What a tracker is told of a run before it begins."""

    name: str
    folder: Path
    """Of the run; what a tracker writes belongs there, or where its own program looks."""
    recipe: Mapping[str, Any]
    """The recipe with every default spelled out."""


class Tracker(Protocol):
    """Takes the figures of one run; a class in `compress/tracking/NAME.py`, whose keyword-only arguments are its options.

    Its module imports the package that it needs at the top, so that a missing one is noticed before anything is trained.
    """

    def begin(self, run: TrackedRun) -> None:
        """Make ready for the figures of a run, or of its continuation.

        Raises:
            CompressError: It cannot.
        """

    def log(self, stage: str, epoch: int, figures: Mapping[str, float]) -> None:
        """Take what one epoch of a stage gave.

        Args:
            stage: As the run calls it: `teacher`, `student`, the name of a baseline.
            epoch: From 1.
            figures: Numbers by name, such as `loss/ce`, `lr` and `validation_percent`.
        """

    def finish(self, figures: Mapping[str, float]) -> None:
        """Take the results, by `FILE/NAME`, and let go of everything; without results the run ended early."""
