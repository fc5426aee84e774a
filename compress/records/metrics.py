"""Accuracy with its interval, and comparisons of networks on the test images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import model_validator

from compress.records.base import Count, Factor, Figure, Percent, Record, rename_field
from compress.statistics.proportions import compute_balanced_interval, compute_wilson_interval

UNEVEN = 2
"""Classes are uneven where the commonest has more than so many times the images of the rarest."""


class Accuracy(Record):
    """The metric of a task, such as top-1, with what is needed to judge it."""

    metric: str = "top1"
    """What is measured: the name of the task's metric."""
    percent: Percent
    samples: Count
    ci95: tuple[Percent, Percent]
    """Its interval in percent: Wilson's for a share of images, else of a bootstrap over images."""
    balanced_percent: Percent | None = None
    """Balanced accuracy: the mean over the classes of the share of their images that is right; `None` in old records."""
    balanced_ci95: tuple[Percent, Percent] | None = None
    """Its interval, in percent."""
    recall_percent: tuple[Percent | None, ...] = ()
    """Where classes are uneven, the share of the images of each class that is right; `None` for a class without images."""
    class_samples: tuple[Count, ...] = ()
    """Where classes are uneven, the images of each class."""
    class_percent: tuple[Percent | None, ...] = ()
    """Where the metric is a mean over classes, that of each class, such as its IoU; `None` for a class that is nowhere."""
    percent_at_half: Percent | None = None
    """Of a detector, the average precision at an overlap of 0.5 (AP50)."""

    @model_validator(mode="before")
    @classmethod
    def _read_old_names(cls, content: Any) -> Any:
        """Read what was written when classification was the only task."""
        return rename_field(content, "top1_percent", "percent")

    @property
    def is_uneven(self) -> bool:
        """Whether some classes have so many more images than others that top-1 says little."""
        return bool(self.recall_percent)

    @property
    def top1_percent(self) -> float:
        """The metric of a classification."""
        return self.percent

    @classmethod
    def from_hits(cls, correct: int, samples: int) -> Self:
        """Return the accuracy of `correct` hits among `samples` images, with its 95 % Wilson interval.

        Raises:
            CompressError: There are no images, or more hits than images.
        """
        low, high = compute_wilson_interval(correct, samples)
        return cls(percent=100 * correct / samples, samples=samples, ci95=(100 * low, 100 * high))

    @classmethod
    def from_counts(cls, correct: Sequence[int], samples: Sequence[int]) -> Self:
        """Return top-1 and balanced accuracy of the images of each class, and the recall of each where classes are uneven.

        Args:
            correct: Hits among the images of each class, [K].
            samples: Images of each class, [K].

        Raises:
            CompressError: There are no images, or more hits than images in a class.
        """
        plain = cls.from_hits(sum(correct), sum(samples))
        balanced, low, high = compute_balanced_interval(correct, samples)
        update: dict[str, object] = {"balanced_percent": 100 * balanced, "balanced_ci95": (100 * low, 100 * high)}
        if max(samples) > UNEVEN * min(samples):
            recalls = (100 * hits / images if images else None for hits, images in zip(correct, samples, strict=True))
            update |= {"recall_percent": tuple(recalls), "class_samples": tuple(samples)}
        return plain.model_copy(update=update)

    @classmethod
    def from_predictions(cls, predicted: Sequence[int], labels: Sequence[int], classes: int) -> Self:
        """Return top-1 and balanced accuracy of predicted classes [N] against labels [N].

        Raises:
            CompressError: There are no images.
        """
        right = Counter(label for answer, label in zip(predicted, labels, strict=True) if answer == label)
        images, every = Counter(labels), range(max(classes, max(labels, default=0) + 1))
        return cls.from_counts([right[label] for label in every], [images[label] for label in every])


class Calibration(Record):
    """How far a network's scores, the softmax of its logits, are from how often it is right."""

    samples: Count
    """Images."""
    nll: Figure
    """Mean negative log-likelihood of the labels, in nats: their cross-entropy."""
    ece_percent: Percent
    """Expected calibration error of the first class's score."""
    bins: Count
    """Bins of equal width over which that error is taken."""
    temperature: Factor
    """Fitted on the validation split: divides the logits before the softmax."""
    scaled_nll: Figure
    """Of the logits after that division, as is the next."""
    scaled_ece_percent: Percent


class SeedScore(Record):
    """One trained network on the test images, as torch runs it in float32."""

    seed: int
    """Of the student; a teacher has the recipe's."""
    validation: Accuracy
    accuracy: Accuracy
    """On the test split."""
    correct: str = ""
    """Of a classification, one bit for each test image in order, 1 where the top-1 class is right: eight to a byte, the first
    in the highest bit, the last byte filled with 0, base64."""
    tallies: str = ""
    """Of another task, the row of numbers of each test image in order, int32 [images, numbers], zlib, base64."""
    calibration: Calibration | None = None
    """On the test split; `None` in older records, and where the task has no one score for an image."""


class Scores(Record):
    """One way of training, over its seeds."""

    network: str
    """`teacher`, `student`, or a baseline's name."""
    method: str
    task: str = "classification"
    """What the networks are for."""
    seeds: tuple[SeedScore, ...]
    """The first is what was exported, gated and timed."""


class McNemar(Record):
    """The images on which two networks are not both right or both wrong, and the exact test that neither is better on them."""

    seed: int
    other_seed: int
    only_this: Count
    """Images that only this network gets right."""
    only_other: Count
    p_value: Figure
    """Two-sided."""


class Paired(Record):
    """Metric of one way of training minus that of another, in points."""

    this: str
    other: str
    pairing: Literal["images and seeds", "images", "none"]
    """`none`: the two were not tested on the same images, or it is not known on which of them they were right."""
    seeds: Count
    """Pairs of networks: each of this with the one of the other that has the same seed, or else the same place."""
    images: Count
    points: Figure
    """Mean over the pairs."""
    ci95: tuple[Figure, Figure]
    """Bootstrap over images and seeds; where there is no pairing, from two Wilson intervals (Newcombe's hybrid score)."""
    ci95_over_seeds: tuple[Figure, Figure] | None = None
    """Student's t over the differences of the pairs: these images, other seeds. `None` with one pair."""
    mcnemar: tuple[McNemar, ...] = ()
    """For each pair: these two networks, other images."""
    swap_p_values: tuple[Figure, ...] = ()
    """In its place where images are not right or wrong: how often the two networks differ as much when their images are
    exchanged at random."""
    verdict: Literal["better", "worse", "not distinguishable"]
    """Whether this is better: both intervals are on one side of 0; with one pair, `ci95` is and McNemar's p is below 0.05."""
    note: str = ""
    """Why nothing is paired."""
