"""One file of the int8 ladder: made of a network, run, judged, and compared with others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from compress.errors import CompressError, Interrupted
from compress.recipe import GateSection
from compress.records import Accuracy, Gate, Ladder, Rung
from exporters._exporter import Quantisation
from exporters.verification.gate import AGREEMENT


class Footing(Protocol):
    """A network that is to become int8, and how files of it are made, run and judged; images are those of validation."""

    @property
    def layers(self) -> tuple[str, ...]:
        """What can stay in floating point, from input to output."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """[N]."""

    @property
    def reference(self) -> NDArray[np.float32]:
        """What the network says in float32, [N, K]."""

    def write(self, folder: Path, quantisation: Quantisation) -> Path:
        """Write the int8 file into a folder and return its path.

        Raises:
            CompressError: The format cannot hold this network so.
            Unreachable: The disk is full or the folder cannot be written.
        """

    def size_bytes(self, path: Path) -> int:
        """Return the size of all that belongs to a file."""

    def answer(self, path: Path, images: NDArray[np.intp] | None = None) -> NDArray[np.float32]:
        """Return the logits of a file on its own runtime, for all images or for those with these numbers.

        Raises:
            CompressError: The runtime cannot run it.
        """

    def simulated(self, quantisation: Quantisation, images: NDArray[np.intp]) -> NDArray[np.float32] | None:
        """Return what a file would say of the images with these numbers, computed without writing it.

        `None` where a file is written as quickly.

        Raises:
            CompressError: The format cannot hold this network so.
        """

    def judge(self, logits: NDArray[np.float32]) -> Gate:
        """Return what the gate says of a file's logits, [N, K]."""


F = TypeVar("F", bound=Footing)


@dataclass(frozen=True)
class Try(Generic[F]):
    """One file that was made, run and judged."""

    rung: Rung
    gate: Gate
    quantisation: Quantisation
    footing: F
    path: Path

    @property
    def passed(self) -> bool:
        """Whether it meets the gate."""
        return self.gate.status == "passed"


@dataclass(frozen=True)
class Climbed(Generic[F]):
    """Where the climb ended."""

    taken: Try[F]
    """What passed, or else what came nearest."""
    best: Mapping[int, Try[F]]
    """The best file of each rung, by its number in the ladder; what was taken is one of them."""
    ladder: Ladder


def judged(footing: Footing, path: Path) -> tuple[Gate, Accuracy | None]:
    """Run a file on the validation images; one that cannot be run has failed."""
    try:
        logits = footing.answer(path)
    except Interrupted:
        raise
    except CompressError as error:
        return Gate(status="failed", reason=f"cannot be run: {error}", samples=0), None
    gate = footing.judge(logits)
    if gate.max_abs_diff is None and gate.agreement_percent is None:  # not what was promised, so there is nothing to compare
        return gate, None
    return gate, Accuracy.of(int((logits.argmax(axis=1) == footing.labels).sum()), len(footing.labels))


def rank(tried: Try[F], budget: GateSection) -> tuple[float, ...]:
    """Return what is larger for the better of two files.

    Of those that pass, that is the one with the fewest float layers; of those that fail, the one that misses the budget by the
    fewest points of top-1 and agreement together.
    """
    gate = tried.gate
    if gate.agreement_percent is None or gate.top1_drop_points is None:
        return (0, 0, -np.inf, -np.inf, -np.inf)
    short = max(0.0, gate.top1_drop_points - budget.max_top1_drop_points)
    wanted = AGREEMENT["int8"] if budget.min_agreement is None else budget.min_agreement
    short += max(0.0, 100 * wanted - gate.agreement_percent)
    furthest = np.inf if gate.max_abs_diff is None else gate.max_abs_diff
    kept = len(tried.quantisation.keep) if tried.passed else 0
    return (tried.passed, -kept, -short, gate.agreement_percent, -furthest)
