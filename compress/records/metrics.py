"""Accuracy with its interval, and comparisons of networks on the test images."""

from __future__ import annotations

from typing import Literal, Self

from compress.records.base import Record
from compress.statistics.proportions import compute_wilson_interval


class Accuracy(Record):
    """Top-1 accuracy with what is needed to judge it."""

    top1_percent: float
    samples: int
    ci95: tuple[float, float]
    """Wilson interval, in percent."""

    @classmethod
    def from_hits(cls, correct: int, samples: int) -> Self:
        """Return the accuracy of `correct` hits among `samples` images, with its 95 % Wilson interval.

        Raises:
            CompressError: There are no images, or more hits than images.
        """
        low, high = compute_wilson_interval(correct, samples)
        return cls(top1_percent=100 * correct / samples, samples=samples, ci95=(100 * low, 100 * high))


class SeedScore(Record):
    """One trained network on the test images, as torch runs it in float32."""

    seed: int
    """Of the student; a teacher has the recipe's."""
    validation: Accuracy
    accuracy: Accuracy
    """On the test split."""
    correct: str
    """One bit for each test image in order, 1 where the top-1 class is right: eight to a byte, the first in the highest bit,
    the last byte filled with 0, base64."""


class Scores(Record):
    """One way of training, over its seeds."""

    network: str
    """`teacher`, `student`, or a baseline's name."""
    method: str
    seeds: tuple[SeedScore, ...]
    """The first is what was exported, gated and timed."""


class McNemar(Record):
    """The images on which two networks are not both right or both wrong, and the exact test that neither is better on them."""

    seed: int
    other_seed: int
    only_this: int
    """Images that only this network gets right."""
    only_other: int
    p_value: float
    """Two-sided."""


class Paired(Record):
    """Top-1 of one way of training minus that of another, in points."""

    this: str
    other: str
    pairing: Literal["images and seeds", "images", "none"]
    """`none`: the two were not tested on the same images, or it is not known on which of them they were right."""
    seeds: int
    """Pairs of networks: each of this with the one of the other that has the same seed, or else the same place."""
    images: int
    points: float
    """Mean over the pairs."""
    ci95: tuple[float, float]
    """Bootstrap over images and seeds; where there is no pairing, from two Wilson intervals (Newcombe's hybrid score)."""
    ci95_over_seeds: tuple[float, float] | None = None
    """Student's t over the differences of the pairs: these images, other seeds. `None` with one pair."""
    mcnemar: tuple[McNemar, ...] = ()
    """For each pair: these two networks, other images."""
    verdict: Literal["better", "worse", "not distinguishable"]
    """Whether this is better: both intervals are on one side of 0; with one pair, `ci95` is and McNemar's p is below 0.05."""
    note: str = ""
    """Why nothing is paired."""
