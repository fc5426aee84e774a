"""Semantic segmentation: one class for each pixel, judged by the mean IoU of the classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compress.errors import CompressError
from compress.records import Accuracy
from compress.statistics.tallies import compute_interval
from compress.tasks._maps import lay_over
from compress.tasks._task import Labels, Logits, Metric, Tallies, Task, Weights

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

IGNORED = 255
"""Label of a pixel that counts nowhere, as in PASCAL VOC."""
KNOWS = 1.02
"""So many times the mean IoU of one class everywhere a network must have to know anything."""
TIE = 2e-4
"""Logits of the network that lie closer together, over their RMS, are a tie, which any rounding decides."""


class Segmentation(Task):
    """One of K classes for each pixel: labels uint8 [N, H, W], logits [N, K, h, w].

    A tally holds the pixels of each class that are found rightly, that are found, and that there are, [N, 3·K].
    The network's map is brought to the size of the labels before the largest logit is taken (bilinear, corners not aligned).
    Pixels with the label 255 are left out everywhere. A class that is in no label and no answer has no IoU and is left out of
    the mean.
    """

    name: ClassVar[str] = "segmentation"
    metric: ClassVar[Metric] = Metric("miou", "mIoU")
    label_dtype: ClassVar[np.dtype[Any]] = np.dtype(np.uint8)
    is_dense: ClassVar[bool] = True
    has_bundle: ClassVar[bool] = True
    draws: ClassVar[bool] = True
    logit_dims: ClassVar[int] = 4

    def check_labels(self, where: str, labels: Labels, classes: int, size: tuple[int, int]) -> None:
        """Refuse labels that are no masks of the images' size.

        Raises:
            CompressError: They are not uint8 [N, H, W], a pixel has no class, or no pixel of the split has one.
        """
        if labels.dtype != self.label_dtype or labels.shape[1:] != size:
            wanted = f"masks of the images' size, uint8 [{len(labels)}, {size[0]}, {size[1]}]"
            raise CompressError(f"{where}: labels are {labels.dtype} {list(labels.shape)}; {wanted}, are needed")
        known = False
        for row, mask in enumerate(labels):
            values = np.flatnonzero(np.bincount(mask.reshape(-1), minlength=256))
            wrong = values[(values >= classes) & (values != IGNORED)]
            if len(wrong):
                raise CompressError(
                    f"{where}, row {row}: the mask has the value {wrong[0]}, which is not in 0 .. {classes - 1} and not "
                    f"{IGNORED} (ignored); mend the mask, or name all classes"
                )
            known = known or bool((values != IGNORED).any())
        if not known:
            raise CompressError(f"{where}: every pixel of every mask is {IGNORED} (ignored); give masks with classes")

    def compute_strata(self, labels: Labels, classes: int) -> NDArray[np.int64]:
        """Return for each mask the class in it that the fewest masks have, [N]."""
        shown = _find_classes(labels, classes)  # [N, K]
        images = shown.sum(axis=0)
        return np.where(shown, images, len(labels) + 1).argmin(axis=1) if shown.shape[1] else np.zeros(len(labels), np.int64)

    def count_images(self, labels: Labels, classes: int) -> NDArray[np.int64]:
        """Return in how many masks [N, H, W] each class is, [K]."""
        found: NDArray[np.int64] = _find_classes(labels, classes).sum(axis=0)
        return found

    def make_labels(self, images: int, classes: int, size: tuple[int, int]) -> Labels:
        """Return masks [N, H, W] whose pixels show one class after the other."""
        height, width = size
        return (np.arange(images * height * width) % classes).astype(np.uint8).reshape(images, height, width)

    def compute_loss(self, logits: Tensor, labels: Tensor, *, size: tuple[int, int], smoothing: float = 0.0) -> Tensor:
        """Return the mean cross-entropy over pixels that are not ignored, [], of logits [B, K, h, w] and labels [B, H, W].

        The logits are brought to the size of the labels first; without any such pixel it is 0.
        """
        from torch.nn import functional

        del size
        wide = logits.float()
        if wide.shape[2:] != labels.shape[1:]:
            wide = functional.interpolate(wide, size=tuple(labels.shape[1:]), mode="bilinear", align_corners=False)
        whole = functional.cross_entropy(wide, labels.long(), ignore_index=IGNORED, label_smoothing=smoothing, reduction="sum")
        return whole / (labels != IGNORED).sum().clamp(min=1)

    def tally(self, logits: Logits, labels: Labels) -> Tallies:
        """Return one row for each image, [N, 3·K], of logits [N, K, h, w] and labels [N, H, W]; one image at a time."""
        classes = logits.shape[1]
        rows = np.empty((len(logits), 3 * classes), np.int64)
        for row, (maps, mask) in enumerate(zip(logits, labels, strict=True)):
            answers = resize_logits(maps, mask.shape).argmax(axis=0)
            rows[row] = _count_pixels(answers, mask, classes)
        return rows

    def score(self, tallies: Tallies, weights: Weights) -> NDArray[np.float64]:
        """Return the mean IoU in percent for each weighted set of images, [N, 3·K] with [R, N] -> [R]."""
        return _average_classes(_compute_iou(weights.astype(np.float64) @ tallies))

    def measure(self, tallies: Tallies, classes: int) -> Accuracy:
        """Return the mean IoU with its bootstrap interval, and the IoU of each class, of rows [N, 3·K].

        Raises:
            CompressError: There are no images.
        """
        if not len(tallies):
            raise CompressError("mIoU of no images is not defined; give at least one image")
        each = 100 * _compute_iou(tallies.sum(axis=0, keepdims=True).astype(np.float64))[0]
        low, high = compute_interval(lambda weights: self.score(tallies, weights), len(tallies))
        percent = float(self.score(tallies, np.ones((1, len(tallies)), np.int64))[0])
        return Accuracy(
            metric=self.metric.name, percent=percent, samples=len(tallies), ci95=(min(low, percent), max(high, percent)),
            class_percent=tuple(None if np.isnan(value) else float(value) for value in each[:classes]),
        )  # fmt: skip

    def find_guessing(self, tallies: Tallies, classes: int) -> str:
        """Return that the mean IoU is no more than that of one class everywhere, of rows [N, 3·K], or nothing."""
        true = tallies.sum(axis=0)[2 * classes :]
        pixels, known = int(true.sum()), int((true > 0).sum())
        found = float(self.score(tallies, np.ones((1, len(tallies)), np.int64))[0])
        constant = 100 * float(true.max()) / max(pixels, 1) / max(known, 1)
        if found > KNOWS * constant or known < 2:
            return ""
        return (
            f"has {found:.1f} % mIoU on {len(tallies)} images, no more than the {constant:.1f} % of one class everywhere, so "
            "it knows nothing of the others"
        )

    def measure_agreement(self, reference: Logits, candidate: Logits) -> float:
        """Return the mean IoU of the candidate's map with the reference's, 0 to 1, of logits [N, K, h, w] each.

        Not the share of pixels: most are background, on which even a useless network agrees. Where the reference ties, each of
        the tied classes counts as its own.
        """
        classes = reference.shape[1]
        whole = np.zeros(3 * classes, np.int64)
        tie = TIE * np.sqrt(np.mean([np.square(maps, dtype=np.float64).mean() for maps in reference]))
        for ours, theirs in zip(reference, candidate, strict=True):
            best, answers = ours.argmax(axis=0), theirs.argmax(axis=0)
            behind = ours.max(axis=0) - np.take_along_axis(ours, answers[None], axis=0)[0]
            whole += _count_pixels(np.where(behind <= tie, best, answers), best, classes)
        return float(_average_classes(_compute_iou(whole[None].astype(np.float64)))[0]) / 100

    def draw(self, picture: Image, labels: Labels) -> Image:
        """Return a picture with a mask [H, W] of its size over it; ignored pixels are pale."""
        return lay_over(picture, labels)

    def draw_answer(self, picture: Image, logits: Logits) -> Image:
        """Return a picture with the map of logits [K, h, w] over it, brought to its size."""
        return lay_over(picture, resize_logits(logits, picture.size[::-1]).argmax(axis=0))


def resize_logits(maps: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.float32]:
    """Return maps at another size, bilinear with corners not aligned, as torch does it: [K, h, w] -> [K, H, W]."""
    for axis, wanted in ((1, size[0]), (2, size[1])):
        given = maps.shape[axis]
        if given == wanted:
            continue
        places = np.clip((np.arange(wanted) + 0.5) * (given / wanted) - 0.5, 0, None)
        first = np.minimum(places.astype(np.int64), given - 1)
        share = (places - first).astype(np.float32).reshape(-1, *([1] * (2 - axis)))
        one, other = (np.take(maps, rows, axis=axis) for rows in (first, np.minimum(first + 1, given - 1)))
        maps = one + (other - one) * share
    return maps


def _count_pixels(answers: NDArray[np.integer[Any]], mask: NDArray[np.integer[Any]], classes: int) -> NDArray[np.int64]:
    """Return the pixels of each class that are right, that are answered, and that there are, [3·K], of two maps [H, W]."""
    known = mask != IGNORED
    found, true = answers[known], mask[known]
    counts = [np.bincount(each, minlength=classes) for each in (found[found == true], found, true)]
    return np.concatenate(counts)


def _compute_iou(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the IoU of each class, [R, 3·K] -> [R, K]; NaN for a class that is nowhere."""
    right, found, true = np.split(sums, 3, axis=1)
    union = found + true - right
    return np.divide(right, union, out=np.full_like(right, np.nan), where=union > 0)


def _average_classes(iou: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over the classes that are somewhere in percent, [R, K] -> [R]; 0 where none is."""
    known = ~np.isnan(iou)
    mean: NDArray[np.float64] = 100 * np.where(known, iou, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return mean


def _find_classes(labels: Labels, classes: int) -> NDArray[np.bool_]:
    """Return which classes are in each mask, [N, H, W] -> [N, K]; with no number of classes as many as there are."""
    shown = np.stack([np.bincount(mask.reshape(-1), minlength=256) > 0 for mask in labels])
    return shown[:, : classes or IGNORED]
