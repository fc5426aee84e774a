"""Classification: one class for each image, judged by top-1."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from compress.errors import CompressError
from compress.records import Accuracy
from compress.tasks._task import Labels, Logits, Metric, Tallies, Task, Weights

if TYPE_CHECKING:
    from torch import Tensor


class Classification(Task):
    """One of K classes for each image: labels int64 [N], logits [N, K], a tally of label and answered class, [N, 2]."""

    name: ClassVar[str] = "classification"
    metric: ClassVar[Metric] = Metric("top1", "top-1")
    has_bundle: ClassVar[bool] = True

    def check_labels(self, where: str, labels: Labels, classes: int, size: tuple[int, int]) -> None:
        """Refuse labels [N] of which one is no class.

        Raises:
            CompressError: They are not int64 [N], or one is no class; the message names the row.
        """
        del size
        if labels.dtype != self.label_dtype or labels.ndim != 1:
            raise CompressError(f"{where}: labels are {labels.dtype} {list(labels.shape)}; int64 [{len(labels)}] is needed")
        wrong = np.flatnonzero((labels < 0) | (labels >= classes))
        if len(wrong):
            problem = f"label {labels[wrong[0]]} is not in 0 .. {classes - 1}, as in {len(wrong)} rows"
            raise CompressError(f"{where}, row {wrong[0]}: {problem}; mend the labels, or choose another split")

    def compute_strata(self, labels: Labels, classes: int) -> NDArray[np.int64]:
        """Return the labels, [N]."""
        del classes
        return labels

    def count_images(self, labels: Labels, classes: int) -> NDArray[np.int64]:
        """Return how many of the labels [N] are each class, [K]."""
        return np.bincount(labels, minlength=classes)

    def make_labels(self, images: int, classes: int, size: tuple[int, int]) -> Labels:
        """Return one class after the other, [N]."""
        del size
        return np.arange(images) % classes

    def compute_loss(self, logits: Tensor, labels: Tensor, *, size: tuple[int, int], smoothing: float = 0.0) -> Tensor:
        """Return the cross-entropy, [], of logits [B, K] with labels [B], or with shares of classes [B, K].

        An image whose shares are all 0 has no label and does not count.
        """
        from torch.nn import functional

        del size
        if labels.ndim == 1:
            return functional.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
        sums = labels.sum(dim=1, keepdim=True)  # [B, 1]
        shares = labels * (1 - smoothing) + smoothing / labels.shape[1] * sums if smoothing else labels
        counted = len(labels) / (sums > 0).sum().clamp_min(1)
        return functional.cross_entropy(logits.float(), shares) * counted

    def tally(self, logits: Logits, labels: Labels) -> Tallies:
        """Return the label and the class of the largest logit, [N, 2], of logits [N, K] and labels [N]."""
        return np.stack([labels, logits.argmax(axis=1)], axis=1).astype(np.int64, copy=False)

    def score(self, tallies: Tallies, weights: Weights) -> NDArray[np.float64]:
        """Return the weighted share of images that are right in percent, [N, 2] with [R, N] -> [R]."""
        found: NDArray[np.float64] = 100 * (weights @ is_right(tallies)) / weights.sum(axis=1)
        return found

    def measure(self, tallies: Tallies, classes: int) -> Accuracy:
        """Return top-1 with Wilson's interval, and balanced accuracy, of rows [N, 2].

        Raises:
            CompressError: There are no images.
        """
        return Accuracy.from_predictions(tallies[:, 1].tolist(), tallies[:, 0].tolist(), classes)

    def measure_agreement(self, reference: Logits, candidate: Logits) -> float:
        """Return the share of images with the same class, of logits [N, K] each."""
        return float((reference.argmax(axis=1) == candidate.argmax(axis=1)).mean())

    def describe(self, accuracy: Accuracy) -> str:
        """Return a top-1 as text, with the balanced accuracy where classes are uneven."""
        balanced = f" (balanced accuracy {accuracy.balanced_percent:.2f} %)" if accuracy.is_uneven else ""
        return f"{accuracy.percent:.2f} %{balanced}"


def is_right(tallies: Tallies) -> NDArray[np.bool_]:
    """Return which images are classified rightly, [N], of rows [N, 2]."""
    right: NDArray[np.bool_] = tallies[:, 0] == tallies[:, 1]
    return right
