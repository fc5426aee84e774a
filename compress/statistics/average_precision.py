"""Average precision of detections, as the COCO evaluation computes it: matched once an image, then summed for any weights.

For each class and each of ten overlaps from 0.5 to 0.95 the precision is read at 101 recalls and averaged; then over overlaps
and classes. Detections of an image and class are matched from the surest on, at most a hundred; each takes the object that it
overlaps most of those that are free. What is matched to an ignored object (a crowd) counts neither for nor against.

Since an image's matches depend on no other image, the metric of any weighted set of images is a sum over what is kept of each:
so one matching serves all draws of a bootstrap.

Source: Lin et al., arXiv:1405.0312; matching and summation follow cocoapi (pycocotools/cocoeval.py, `evaluateImg` and
`accumulate`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

OVERLAPS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MOST_DETECTIONS = 100
"""Of an image and class."""

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Matches(NamedTuple):
    """The detections of one image and which of them are right."""

    scores: Floats
    """[D]."""
    classes: NDArray[np.int64]
    """[D]."""
    right: Flags
    """Whether it has found an object, at each overlap, [D, 10]."""
    ignored: Flags
    """Whether it counts neither way, at each overlap, [D, 10]."""
    objects: NDArray[np.int64]
    """How many objects of each class there are to find, [K]."""


def compute_overlaps(boxes: Floats, others: Floats, crowds: Flags | None = None) -> Floats:
    """Return intersection over union of boxes [A, 4] with others [B, 4], left, top, right and bottom each, [A, B].

    Args:
        boxes: What was detected.
        others: What is there.
        crowds: Which of the others are crowds, [B]: over the area of the box alone.
    """
    begins, ends = (function(boxes[:, None, part], others[None, :, part]) for function, part in _CORNERS)
    inner = (ends - begins).clip(min=0).prod(axis=2)
    areas, other_areas = ((each[:, 2:4] - each[:, :2]).prod(axis=1) for each in (boxes, others))
    union = areas[:, None] + other_areas[None] - inner
    if crowds is not None:
        union = np.where(crowds[None], areas[:, None], union)
    found: Floats = np.divide(inner, union, out=np.zeros_like(inner), where=union > 0)
    return found


_CORNERS = ((np.maximum, slice(0, 2)), (np.minimum, slice(2, 4)))


def match_image(
    boxes: Floats, scores: Floats, classes: NDArray[np.int64], truths: Floats, *, ignored: Flags, count: int
) -> Matches:
    """Return which detections of an image are right.

    Args:
        boxes: Left, top, right and bottom of each detection, [D, 4].
        scores: Of each, [D].
        classes: Of each, [D].
        truths: Left, top, right, bottom and class of each object, [T, 5].
        ignored: Which of the objects are crowds, or are not judged for another reason, [T].
        count: How many classes there are.
    """
    kept, right, unjudged = [np.zeros(0, np.int64)], [], []
    for label in np.unique(classes):
        rows = np.flatnonzero(classes == label)
        rows = rows[np.argsort(-scores[rows], kind="stable")][:MOST_DETECTIONS]
        mine = np.flatnonzero(truths[:, 4] == label)
        mine = mine[np.argsort(ignored[mine], kind="stable")]
        found = _match_class(compute_overlaps(boxes[rows], truths[mine, :4], ignored[mine]), ignored[mine])
        kept.append(rows)
        right.append(found[0])
        unjudged.append(found[1])
    order = np.concatenate(kept)
    none = np.zeros((0, len(OVERLAPS)), np.bool_)
    objects = np.bincount(truths[~ignored, 4].astype(np.int64), minlength=count)
    return Matches(scores[order], classes[order], np.concatenate([none, *right]), np.concatenate([none, *unjudged]), objects)


def _match_class(overlaps: Floats, ignored: Flags) -> tuple[Flags, Flags]:
    """Return which detections [D], the surest first, are right, and which are not judged, [D, 10] each.

    Args:
        overlaps: With each object of the class, those to be judged first, [D, T].
        ignored: Which objects are not judged, [T].
    """
    right = np.zeros((len(overlaps), len(OVERLAPS)), np.bool_)
    unjudged = np.zeros_like(right)
    if not overlaps.shape[1]:
        return right, unjudged
    for place, least in enumerate(OVERLAPS):
        free = np.ones(overlaps.shape[1], np.bool_)
        for detection, overlap in enumerate(overlaps):
            fits = (overlap >= min(least, 1 - 1e-10)) & (free | ignored)
            judged = fits & ~ignored
            candidates = np.flatnonzero(judged if judged.any() else fits)
            if len(candidates):
                best = candidates[len(candidates) - 1 - int(overlap[candidates][::-1].argmax())]  # of equal ones the last
                free[best] = False
                right[detection, place], unjudged[detection, place] = not ignored[best], ignored[best]
    return right, unjudged


def compute_precision(
    images: Sequence[Matches], weights: NDArray[np.int64] | None = None, *, overlaps: slice = slice(None)
) -> Floats:
    """Return the average precision in percent of R weighted sets of images, [R]; NaN where there is nothing to find.

    Args:
        images: Of each of N images what was matched.
        weights: How often each image counts, [R, N]; default: each once.
        overlaps: Which of the ten overlaps are averaged; `slice(0, 1)` is the one of 0.5.
    """
    weights = np.ones((1, len(images)), np.int64) if weights is None else weights
    objects = weights @ np.stack([each.objects for each in images])  # [R, K]
    rows = np.repeat(np.arange(len(images)), [len(each.scores) for each in images])
    scores, classes, right, ignored = (np.concatenate([each[field] for each in images]) for field in range(4))
    each_class = [
        _average_class(scores[mine], right[mine, overlaps], ignored[mine, overlaps], weights[:, rows[mine]], objects[:, label])
        for label in range(objects.shape[1])
        for mine in [classes == label]
    ]
    found = np.stack(each_class, axis=1)  # [R, K]
    known = ~np.isnan(found)
    sums = np.where(known, found, 0).sum(axis=1)
    percent: Floats = np.divide(100 * sums, known.sum(axis=1), out=np.full(len(found), np.nan), where=known.any(axis=1))
    return percent


def _average_class(
    scores: Floats, right: Flags, ignored: Flags, weights: NDArray[np.int64], objects: NDArray[np.int64]
) -> Floats:
    """Return the average precision of a class, 0 to 1, [R], of detections [D] with weights [R, D]; NaN without objects.

    Recall grows, and precision peaks, only where a detection is right, so both are looked at there alone.
    """
    order = np.argsort(-scores, kind="stable")
    right, ignored, counts = right[order], ignored[order], weights[:, order]  # [D, T], [D, T], [R, D]
    everything = np.cumsum(counts, axis=1)
    drawn = np.flatnonzero(objects)
    averages = np.full(len(weights), np.nan)
    averages[drawn] = 0
    for overlap in range(right.shape[1]):
        places = np.flatnonzero(right[:, overlap])  # [P]
        judged = everything if not ignored[:, overlap].any() else np.cumsum(counts * ~ignored[:, overlap], axis=1)
        hits = np.cumsum(counts[:, places], axis=1).astype(np.float64)  # [R, P]
        precision = hits / (judged[:, places] + np.spacing(1))
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        precision = np.concatenate([precision, np.zeros((len(precision), 1))], axis=1)  # what is never reached
        for draw in drawn:
            reached = np.searchsorted(hits[draw] / objects[draw], RECALLS, side="left")
            averages[draw] += precision[draw, reached].mean() / right.shape[1]
    return averages
