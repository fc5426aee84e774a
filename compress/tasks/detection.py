"""Object detection: the box and the class of each object in an image, judged by the average precision of COCO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from compress.errors import CompressError
from compress.records import Accuracy
from compress.statistics.average_precision import Matches, compute_precision, match_image
from compress.statistics.tallies import compute_interval
from compress.tasks._cells import find_levels
from compress.tasks._detections import MOST_DETECTIONS, SHOWN_SCORE, Detections, choose_detections, draw_boxes
from compress.tasks._task import Labels, Logits, Metric, Tallies, Task, Weights

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from compress.tasks._assignment import Targets

PADDED = -1
"""Class of a row of labels that is no box; a box of class c that is not judged, such as a crowd, has class -2 - c."""
MOST_SAMPLE_BOXES = 100
"""Boxes of an image that a bundle's samples have room for."""
AT_HALF = slice(0, 1)
"""The overlap of 0.5 among those that are judged."""
DRAWS = 300
"""Of a bootstrap: each is a whole evaluation. The ends of an interval then wobble by some tenth of its width."""
CHUNK = 50
"""Draws that are evaluated together, for their memory."""
KNOWS = 1.0
"""Average precision in percent, at an overlap of 0.5, that a network must have to know anything."""
_OVERLAPS = 10
_BITS = 1 << np.arange(_OVERLAPS)


class Detection(Task):
    """Boxes of K classes: labels float32 [N, M, 5], answers [N, A, K + 4], one for each of A cells.

    A label is left, top, right and bottom in pixels of the image, and the class; rows of class -1 are none, and a box of class
    -2 - c is one of class c that counts neither for nor against. An answer is the logit of each class, each of which a sigmoid
    makes a score of its own, and a box in the same pixels. In files the two are outputs of their own, `logits` [B, A, K] and
    `boxes` [B, A, 4]: in one tensor, int8 would give the scores the coarse steps of the boxes.

    A tally holds how many objects of each class there are, and of each detection its score, its class, and at which overlaps it
    is right, and is not judged, [N, K + 200]: the score as the bits of float32, and the rest as one number.
    """

    name: ClassVar[str] = "detection"
    metric: ClassVar[Metric] = Metric("map", "AP", DRAWS)
    label_dtype: ClassVar[np.dtype[np.float32]] = np.dtype(np.float32)
    is_dense: ClassVar[bool] = True
    has_bundle: ClassVar[bool] = True
    logit_dims: ClassVar[int] = 3
    boxes: ClassVar[int] = 4
    draws: ClassVar[bool] = True

    def count_classes(self, shape: Sequence[int]) -> int:
        """Return K of the shape [N, A, K + 4] of answers."""
        return shape[-1] - self.boxes

    def get_label_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Return the shape of the labels of one image in a bundle's samples."""
        del size
        return (MOST_SAMPLE_BOXES, 5)

    def pack_labels(self, labels: Labels) -> Labels:
        """Return labels [N, M, 5] with as many rows as a bundle's samples have; what is beyond is left out."""
        packed = np.zeros((len(labels), MOST_SAMPLE_BOXES, 5), np.float32)
        packed[..., 4] = PADDED
        kept = min(labels.shape[1], MOST_SAMPLE_BOXES)
        packed[:, :kept] = labels[:, :kept]
        return packed

    def check_labels(self, where: str, labels: Labels, classes: int, size: tuple[int, int]) -> None:
        """Refuse labels that are no boxes in their images.

        Raises:
            CompressError: They are not float32 [N, M, 5], a box has no class, no area or lies outside, or there is none at all.
        """
        if labels.dtype != self.label_dtype or labels.ndim != 3 or labels.shape[2] != 5:
            raise CompressError(
                f"{where}: labels are {labels.dtype} {list(labels.shape)}; boxes, float32 [{len(labels)}, M, 5], are needed"
            )
        if not np.isfinite(labels).all():
            row = int(np.flatnonzero(~np.isfinite(labels).all(axis=(1, 2)))[0])
            raise CompressError(f"{where}, row {row}: a box is not finite; mend the annotation")
        kinds = labels[..., 4]
        real = kinds != PADDED
        numbers = np.where(kinds < PADDED, -2 - kinds, kinds)
        limits = np.array([size[1], size[0]], np.float32)
        faults = {
            f"has a class that is not in 0 .. {classes - 1}": (numbers != np.round(numbers))
            | (numbers < 0)
            | (numbers >= classes),
            "has no area": (labels[..., 2:4] <= labels[..., :2]).any(axis=2),
            f"reaches beyond its image of {size[1]} × {size[0]} pixels": (labels[..., :2] < 0).any(axis=2)
            | (labels[..., 2:4] > limits + 1e-3).any(axis=2),
        }
        for fault, wrong in faults.items():
            rows, boxes = np.nonzero(wrong & real)
            if len(rows):
                shown = ", ".join(f"{value:g}" for value in labels[rows[0], boxes[0]])
                raise CompressError(
                    f"{where}, row {rows[0]}: box {boxes[0]} ({shown}) {fault}, as in {len(np.unique(rows))} rows; mend the "
                    "annotation"
                )
        if not (kinds >= 0).any():
            raise CompressError(f"{where}: has no box at all; give annotations")

    def compute_strata(self, labels: Labels, classes: int) -> NDArray[np.int64]:
        """Return for each image the class in it that the fewest images show, [N]; one more class for images without boxes."""
        shown = _find_classes(labels, classes)  # [N, K]
        images = shown.sum(axis=0)
        rarest = np.where(shown, images, len(labels) + 1).argmin(axis=1) if shown.shape[1] else np.zeros(len(labels), np.int64)
        return np.where(shown.any(axis=1), rarest, shown.shape[1])

    def count_images(self, labels: Labels, classes: int) -> NDArray[np.int64]:
        """Return in how many images with labels [N, M, 5] each class is, [K]."""
        found: NDArray[np.int64] = _find_classes(labels, classes).sum(axis=0)
        return found

    def make_labels(self, images: int, classes: int, size: tuple[int, int]) -> Labels:
        """Return labels [N, 1, 5]: a box in the middle of each image, of one class after the other."""
        labels = np.empty((images, 1, 5), np.float32)
        labels[..., :4] = np.array([size[1], size[0], 3 * size[1], 3 * size[0]], np.float32) / 4
        labels[:, 0, 4] = np.arange(images) % classes
        return labels

    def assign(self, answers: Tensor, labels: Tensor, size: tuple[int, int]) -> Targets:
        """Return what each cell of answers [B, A, K + 4] should say by labels [B, M, 5], of images of a height and width."""
        from compress.tasks._assignment import assign

        return assign(find_levels(answers.shape[1], size), labels)

    def compute_loss(self, logits: Tensor, labels: Tensor, *, size: tuple[int, int], smoothing: float = 0.0) -> Tensor:
        """Return the focal loss of classes plus the generalized IoU loss of boxes, [], of answers [B, A, K + 4].

        Raises:
            CompressError: Labels are smoothed, which the focal loss does in its own way, or the answers are of no known maps.
        """
        from compress.tasks._assignment import compute_detection_loss

        if smoothing:
            raise CompressError(
                f"label smoothing {smoothing:g}: boxes are trained by the focal loss, which already spares what is nearly "
                "right; leave it out"
            )
        return compute_detection_loss(logits, self.assign(logits, labels, size))

    def tally(self, logits: Logits, labels: Labels) -> Tallies:
        """Return one row for each image, [N, K + 200], of answers [N, A, K + 4] and labels [N, M, 5]; one image at a time."""
        classes = self.count_classes(logits.shape)
        rows = np.empty((len(logits), classes + 2 * MOST_DETECTIONS), np.int64)
        for row, (answers, truths) in enumerate(zip(logits, labels, strict=True)):
            rows[row] = pack_matches(_match(choose_detections(answers), truths, classes))
        return rows

    def score(self, tallies: Tallies, weights: Weights) -> NDArray[np.float64]:
        """Return the average precision in percent for each weighted set of images, [N, S] with [R, N] -> [R]."""
        return self._score(unpack_matches(tallies), weights)

    def _score(self, images: list[Matches], weights: Weights, overlaps: slice = slice(None)) -> NDArray[np.float64]:
        each = [
            compute_precision(images, weights[begin : begin + CHUNK].astype(np.int64), overlaps=overlaps)
            for begin in range(0, len(weights), CHUNK)
        ]
        return np.nan_to_num(np.concatenate(each))

    def measure(self, tallies: Tallies, classes: int) -> Accuracy:
        """Return the average precision with its bootstrap interval, that at an overlap of 0.5, and each class, of rows [N, S].

        Raises:
            CompressError: There are no images.
        """
        if not len(tallies):
            raise CompressError("the average precision of no images is not defined; give at least one image")
        images, once = unpack_matches(tallies), np.ones((1, len(tallies)), np.int64)
        percent = float(self._score(images, once)[0])
        low, high = compute_interval(lambda weights: self._score(images, weights), len(tallies), draws=self.metric.draws)
        each = [float(compute_precision(_keep_class(images, label))[0]) for label in range(classes)]
        return Accuracy(
            metric=self.metric.name, percent=percent, samples=len(tallies), ci95=(min(low, percent), max(high, percent)),
            class_percent=tuple(None if np.isnan(value) else value for value in each),
            percent_at_half=float(self._score(images, once, AT_HALF)[0]),
        )  # fmt: skip

    def find_guessing(self, tallies: Tallies, classes: int) -> str:
        """Return that hardly any object is found, of rows [N, S], or nothing."""
        found = float(self._score(unpack_matches(tallies), np.ones((1, len(tallies)), np.int64), AT_HALF)[0])
        if found >= KNOWS:
            return ""
        objects = int(tallies[:, :classes].sum())
        return f"has {found:.1f} % AP at an overlap of 0.5 for {objects} objects on {len(tallies)} images, so it finds nothing"

    def measure_agreement(self, reference: Logits, candidate: Logits) -> float:
        """Return how far two networks find the same, 0 to 1, of answers [N, A, K + 4] each.

        What one finds with a score of 0.3 is the truth by which the other is judged, by average precision at an overlap of 0.5;
        the mean of both directions. Two that find nothing agree.
        """
        classes = self.count_classes(reference.shape)
        ours, theirs = ([choose_detections(answers) for answers in logits] for logits in (reference, candidate))
        directions = [_agree(ours, theirs, classes), _agree(theirs, ours, classes)]
        known = [value for value in directions if value is not None]
        if not known:
            return 1.0
        return sum(known) / len(directions)

    def draw(self, picture: Image, labels: Labels) -> Image:
        """Return a picture with the boxes of its labels [M, 5] on it, each with the number of its class."""
        objects = [{"name": int(kind), "box": sides} for *sides, kind in labels.tolist() if kind >= 0]
        return draw_boxes(picture.copy(), objects)

    def draw_answer(self, picture: Image, logits: Logits) -> Image:
        """Return a picture with what is found in it, of answers [A, K + 4], each with the number of its class and its score."""
        found = choose_detections(logits, least_score=SHOWN_SCORE)
        rows = zip(found.boxes.tolist(), found.scores, found.classes, strict=True)
        objects = [{"name": int(label), "score": float(score), "box": box} for box, score, label in rows]
        return draw_boxes(picture.copy(), objects)

    def describe(self, accuracy: Accuracy) -> str:
        """Return an average precision as people read it in one line."""
        half = "" if accuracy.percent_at_half is None else f" (AP50 {accuracy.percent_at_half:.2f} %)"
        return f"{accuracy.percent:.2f} %{half}"


def _match(found: Detections, truths: NDArray[np.float32], classes: int) -> Matches:
    """Return which detections of an image are right by its labels [M, 5]."""
    real = truths[truths[:, 4] != PADDED].astype(np.float64)
    ignored = real[:, 4] < PADDED
    real[:, 4] = np.where(ignored, -2 - real[:, 4], real[:, 4])
    return match_image(
        found.boxes, found.scores.astype(np.float32).astype(np.float64), found.classes, real, ignored=ignored, count=classes
    )


def _agree(truth: Sequence[Detections], found: Sequence[Detections], classes: int) -> float | None:
    """Return the average precision at an overlap of 0.5, 0 to 1, by what is sure in the other; nothing where nothing is."""
    images = []
    for sure, each in zip(truth, found, strict=True):
        shown = sure.scores >= SHOWN_SCORE
        labels = np.concatenate([sure.boxes[shown], sure.classes[shown, None]], axis=1).astype(np.float32)
        images.append(_match(each, labels, classes))
    value = float(compute_precision(images, overlaps=AT_HALF)[0])
    return None if np.isnan(value) else value / 100


def pack_matches(found: Matches) -> NDArray[np.int64]:
    """Return the matches of an image as a row of whole numbers below 2³¹, [K + 200]; what is left empty is -1."""
    order = np.argsort(-found.scores, kind="stable")[:MOST_DETECTIONS]
    numbers = np.full((2, MOST_DETECTIONS), -1, np.int64)
    numbers[0, : len(order)] = found.scores[order].astype(np.float32).view(np.int32)
    hits = [(flags[order] * _BITS).sum(axis=1) for flags in (found.right, found.ignored)]
    numbers[1, : len(order)] = (found.classes[order] << 2 * _OVERLAPS) | (hits[0] << _OVERLAPS) | hits[1]
    return np.concatenate([found.objects, numbers.reshape(-1)])


def unpack_matches(tallies: Tallies) -> list[Matches]:
    """Return the matches of each image from rows [N, K + 200]."""
    classes = tallies.shape[1] - 2 * MOST_DETECTIONS
    images = []
    for row in tallies:
        scores, numbers = row[classes:].reshape(2, -1)
        real = scores >= 0
        kept = numbers[real, None]
        images.append(
            Matches(
                scores[real].astype(np.int32).view(np.float32).astype(np.float64), numbers[real] >> 2 * _OVERLAPS,
                (kept >> _OVERLAPS) & _BITS > 0, kept & _BITS > 0, row[:classes],
            )
        )  # fmt: skip
    return images


def _keep_class(images: Sequence[Matches], label: int) -> list[Matches]:
    """Return the matches of one class alone."""
    kept = []
    for each in images:
        mine = each.classes == label
        objects = np.where(np.arange(len(each.objects)) == label, each.objects, 0)
        kept.append(Matches(each.scores[mine], each.classes[mine], each.right[mine], each.ignored[mine], objects))
    return kept


def _find_classes(labels: Labels, classes: int) -> NDArray[np.bool_]:
    """Return which classes are in each image, [N, M, 5] -> [N, K]; with no number of classes as many as there are."""
    kinds = labels[..., 4].astype(np.int64)
    count = classes or int(kinds.max(initial=-1)) + 1
    shown = np.zeros((len(labels), count), np.bool_)
    rows, boxes = np.nonzero((kinds >= 0) & (kinds < count))
    shown[rows, kinds[rows, boxes]] = True
    return shown
