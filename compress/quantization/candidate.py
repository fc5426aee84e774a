"""Candidates of the int8 search: a file that was made of a network, run and judged; and the backend that does so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from compress.errors import CompressError, Interrupted, Unreachable
from compress.recipe import GateSection
from compress.records import Accuracy, Gate, Ladder, Rung
from compress.tasks import Labels, Task
from exporters import Quantization
from exporters.verification.rule import get_usual_agreement


class QuantizationBackend(Protocol):
    """A network that is to become int8, and how files of it are made, run and judged.

    N images are those of the validation split, K the classes.
    """

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that can stay in floating point, from input to output."""

    @property
    def always_float(self) -> tuple[str, ...]:
        """Names of the layers that stay in floating point in every file, as far as the files so far have shown."""

    @property
    def labels(self) -> Labels:
        """Labels of the validation images, [N, ...]."""

    @property
    def task(self) -> Task:
        """What the network is for."""

    @property
    def reference(self) -> NDArray[np.float32]:
        """Logits of the network in float32, [N, K]."""

    def write(self, folder: Path, quantization: Quantization) -> Path:
        """Write the int8 file into a folder and return its path.

        Raises:
            CompressError: The format cannot hold this network so.
            Unreachable: The disk is full or the folder cannot be written.
        """

    def count_bytes(self, path: Path) -> int:
        """Return the size of all parts of a file."""

    def run_file(self, path: Path, images: NDArray[np.intp] | None = None) -> NDArray[np.float32]:
        """Return the logits [N, K] of a file on its own runtime, for all images or for those with the numbers `images`, [N].

        Raises:
            CompressError: The runtime cannot run it.
        """

    def simulate(self, quantization: Quantization, images: NDArray[np.intp]) -> NDArray[np.float32] | None:
        """Return the logits [N, K] of a file for the images with the numbers `images`, [N], computed without writing it.

        `None` where a file is written as quickly.

        Raises:
            CompressError: The format cannot hold this network so.
        """

    def judge(self, logits: NDArray[np.float32]) -> Gate:
        """Return the gate's verdict on a file by its logits, [N, K]."""


B = TypeVar("B", bound=QuantizationBackend)


@dataclass(frozen=True)
class Unavailable:
    """Stands where something is missing that a rung needs, with the reason for people."""

    reason: str


@dataclass(frozen=True)
class Candidate(Generic[B]):
    """One int8 file that was made, run and judged."""

    rung: Rung
    gate: Gate
    quantization: Quantization
    backend: B
    path: Path

    @property
    def passed(self) -> bool:
        """Whether it meets the gate."""
        return self.gate.status == "passed"


@dataclass(frozen=True)
class LadderResult(Generic[B]):
    """The file that a search came to, and its record."""

    chosen: Candidate[B]
    """The file that passed, or else the one that misses the gate by least."""
    best: Mapping[int, Candidate[B]]
    """The best file of each rung, by its number in the ladder; the chosen one is among them."""
    ladder: Ladder


def judge_file(backend: QuantizationBackend, path: Path) -> tuple[Gate, Accuracy | None]:
    """Run a file on the validation images and judge it; one that its runtime cannot run has failed.

    Raises:
        Interrupted: The user stopped.
        Unreachable: It is no fault of the file: the disk is full, or the runner was killed or took too long.
    """
    try:
        logits = backend.run_file(path)
    except (Interrupted, Unreachable):
        raise
    except CompressError as error:
        return Gate(status="failed", reason=f"cannot be run: {error}", samples=0), None
    gate = backend.judge(logits)
    if gate.max_abs_diff is None and gate.agreement_percent is None:  # no logits to compare
        return gate, None
    task = backend.task
    return gate, task.measure(task.tally(logits, backend.labels), task.count_classes(logits.shape))


def rank(candidate: Candidate[B], budget: GateSection) -> tuple[float, ...]:
    """Return a sort key that is larger for the better of two files.

    Of those that pass, the better is the one with the fewest float layers; of those that fail, the one that misses the budget
    by the fewest points of accuracy and agreement together.
    """
    gate = candidate.gate
    if gate.agreement_percent is None or gate.drop_points is None:
        return (0, 0, -np.inf, -np.inf, -np.inf)
    short = max(0.0, gate.drop_points - budget.max_top1_drop_points)
    task = candidate.backend.task
    usual = get_usual_agreement("int8", is_dense=task.is_dense, boxes=task.boxes)
    least = usual if budget.min_agreement is None else budget.min_agreement
    short += max(0.0, 100 * least - gate.agreement_percent)
    furthest = np.inf if gate.max_abs_diff is None else gate.max_abs_diff
    kept = len(candidate.quantization.keep) if candidate.passed else 0
    return (candidate.passed, -kept, -short, gate.agreement_percent, -furthest)
