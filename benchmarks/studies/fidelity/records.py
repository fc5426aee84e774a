"""`fidelity.json`: our latencies over those of other tools, pair by pair."""

from __future__ import annotations

import statistics
from typing import Literal

from compress.records import Document, Environment, Record
from compress.statistics.series import compute_median_interval

GOAL = (0.97, 1.03)
"""Where the median ratio should lie: 3 % is what two starts of one process differ by on a quiet machine."""
FEWEST_ROUNDS = 5

Verdict = Literal["met", "missed", "undecided"]


class Row(Record):
    """One file, timed by us and by one other, in pairs."""

    network: str
    precision: str
    runtime: str
    against: str
    """`benchmark_app` or `bare loop`."""
    ours_ms: tuple[float, ...]
    """Our p50 of each round."""
    other_ms: tuple[float, ...]
    """The other's median of the same round."""

    @property
    def ratios(self) -> tuple[float, ...]:
        """Ours over the other's, of each round."""
        return tuple(ours / other for ours, other in zip(self.ours_ms, self.other_ms, strict=True))

    @property
    def ratio(self) -> float:
        """Median over rounds."""
        return statistics.median(self.ratios)

    @property
    def ci95(self) -> tuple[float, float]:
        """Bootstrap interval of the median ratio over rounds."""
        return compute_median_interval(self.ratios)

    @property
    def added_microseconds(self) -> float:
        """Median over rounds of ours minus the other's."""
        pairs = zip(self.ours_ms, self.other_ms, strict=True)
        return 1000 * statistics.median(ours - other for ours, other in pairs)

    @property
    def verdict(self) -> Verdict:
        """Whether the ratio keeps to the goal, as far as its interval tells; few rounds give no interval."""
        if len(self.ratios) < FEWEST_ROUNDS:
            return "undecided"
        (low, high), (least, most) = self.ci95, GOAL
        if least <= low and high <= most:
            return "met"
        return "missed" if high < least or low > most else "undecided"


class Fidelity(Document):
    """A whole study."""

    command: str
    seconds: float
    """Of timing in each process."""
    rows: tuple[Row, ...]
    environment: Environment
