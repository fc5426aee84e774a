"""Contract of a task: what labels are, what is minimised, and how answers are judged.

Labels are one array with the image as first axis, whatever they are, so that everything that takes rows of them stays as it is.
The answer of a network is its logits, [N, K, ...], with the classes as second axis. Answers are judged by tallies: one row
of numbers for each image, from which the metric of any weighted set of images follows. So one bootstrap serves every task:
intervals of a metric, of a difference and of a drop are draws of weights (`compress.statistics.tallies`).

The data source decides the task (`Source.task`), since images with masks cannot be classified. Judging is numpy; what trains
imports torch inside, so that a file is judged without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compress.errors import CompressError
from compress.records import Accuracy
from compress.statistics.tallies import RESAMPLES, compute_interval

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Labels = NDArray[Any]
"""What is known of each image, [N, ...]."""
Logits = NDArray[np.float32]
"""Answers of a network or file, [N, K, ...]."""
Tallies = NDArray[np.int64]
"""One row for each image, [N, S]."""
Weights = NDArray[np.integer[Any]]
"""How often each image counts, in each of R draws, [R, N]."""


class Metric(NamedTuple):
    """The number by which networks of a task are compared, in percent."""

    name: str
    """In records: `top1`."""
    title: str
    """For people: `top-1`."""
    draws: int = RESAMPLES
    """Of a bootstrap; fewer where each costs much."""


class Task(ABC):
    """One task. A class named after its file, with no arguments."""

    name: ClassVar[str]
    metric: ClassVar[Metric]
    label_dtype: ClassVar[np.dtype[Any]] = np.dtype(np.int64)
    """Type of the labels of a data set."""
    is_dense: ClassVar[bool] = False
    """Whether an image has many answers: maps of logits [N, K, h, w], or one answer for each cell of a detector."""
    logit_dims: ClassVar[int] = 2
    """Dimensions of logits."""
    boxes: ClassVar[int] = 0
    """How many of the last numbers of each answer are no logits but a box, which files give as an output of its own."""
    has_bundle: ClassVar[bool] = False
    """Whether programs and documents of a bundle (`exporters/bundle`) are written for it."""

    def count_classes(self, shape: Sequence[int]) -> int:
        """Return how many classes logits of a shape [N, K, ...] are of."""
        return shape[1]

    def get_label_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Return the shape of the labels of one image in a bundle's samples, of images of a height and width."""
        return size if self.is_dense else ()

    def pack_labels(self, labels: Labels) -> Labels:
        """Return labels [N, ...] in the shape that samples have, [N, ...]."""
        return labels

    draws: ClassVar[bool] = False
    """Whether labels and answers can be drawn on their image, by `draw` and `draw_answer`."""

    # ---- data

    @abstractmethod
    def check_labels(self, where: str, labels: Labels, classes: int, size: tuple[int, int]) -> None:
        """Refuse labels [N, ...] that are not of this task.

        Args:
            where: The split, for messages.
            labels: All of it.
            classes: How many there are.
            size: Height and width of the images.

        Raises:
            CompressError: The message names the row.
        """

    @abstractmethod
    def compute_strata(self, labels: Labels, classes: int) -> NDArray[np.int64]:
        """Return one class for each image, [N], by which splits and samples are balanced."""

    @abstractmethod
    def count_images(self, labels: Labels, classes: int) -> NDArray[np.int64]:
        """Return how many of the images with labels [N, ...] show each class, [K]."""

    @abstractmethod
    def make_labels(self, images: int, classes: int, size: tuple[int, int]) -> Labels:
        """Return labels [N, ...] of every class for a dry run without data; height and width of the images are given."""

    # ---- training

    @abstractmethod
    def compute_loss(self, logits: Tensor, labels: Tensor, *, size: tuple[int, int], smoothing: float = 0.0) -> Tensor:
        """Return the loss of logits [B, K, ...] against labels [B, ...], [].

        Args:
            logits: In any precision.
            labels: Of the batch.
            size: Height and width of the images.
            smoothing: Share of the target that is spread over all classes.
        """

    # ---- judging

    @abstractmethod
    def tally(self, logits: Logits, labels: Labels) -> Tallies:
        """Return one row for each image, [N, S], of logits [N, K, ...] against labels [N, ...]."""

    @abstractmethod
    def score(self, tallies: Tallies, weights: Weights) -> NDArray[np.float64]:
        """Return the metric in percent, 0 to 100, for each of R weighted sets of images, [N, S] with [R, N] -> [R]."""

    def measure(self, tallies: Tallies, classes: int) -> Accuracy:
        """Return the metric with its interval, of rows [N, S].

        Raises:
            CompressError: There are no images, or the metric is no percentage.
        """
        del classes
        if not len(tallies):
            raise CompressError(f"{self.metric.title} of no images is not defined; give at least one image")
        percent = float(self.score(tallies, np.ones((1, len(tallies)), np.int64))[0])
        if not 0 <= percent <= 100:
            raise CompressError(
                f"tasks/{self.name}: score gives {percent:g}; a metric is 0 to 100, and larger where it is better: clip what "
                "can lie beyond, such as an explained variance below 0"
            )
        low, high = compute_interval(lambda weights: self.score(tallies, weights), len(tallies), draws=self.metric.draws)
        return Accuracy(
            metric=self.metric.name, percent=percent, samples=len(tallies), ci95=(min(low, percent), max(high, percent))
        )

    @abstractmethod
    def measure_agreement(self, reference: Logits, candidate: Logits) -> float:
        """Return how far two networks give the same answer, 0 to 1, of logits [N, K, ...] each."""

    def find_guessing(self, tallies: Tallies, classes: int) -> str:
        """Return how rows [N, S] show that answers do not depend on what is seen, or nothing."""
        del tallies, classes
        return ""

    def draw(self, picture: Image, labels: Labels) -> Image:
        """Return a picture with the labels of one image, [...], over it.

        Raises:
            NotImplementedError: The task draws nothing.
        """
        raise NotImplementedError

    def draw_answer(self, picture: Image, logits: Logits) -> Image:
        """Return a picture with the answer for one image, logits [K, ...], over it.

        Raises:
            NotImplementedError: The task draws nothing.
        """
        raise NotImplementedError

    def describe(self, accuracy: Accuracy) -> str:
        """Return an accuracy as people read it in one line."""
        return f"{accuracy.percent:.2f} %"
