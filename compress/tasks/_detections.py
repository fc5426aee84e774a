"""Choose detections among the answers of a detector: the sure ones, and of those that overlap the surest (NMS).

This module stands alone (numpy and Pillow, Python 3.9): it is copied byte for byte into every bundle of a detector, so that
programs on a device choose as networks and files were judged.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

LEAST_SCORE = 0.05
"""Below it an answer is no detection, however few there are."""
SHOWN_SCORE = 0.3
"""From it on a detection is shown to people, unless they ask otherwise."""
MOST_OVERLAP = 0.6
"""Intersection over union from which on two boxes of one class are the same object."""
MOST_CANDIDATES, MOST_DETECTIONS = 1000, 100
"""Of an image: how many of the surest answers are looked at, and how many are kept."""


class Detections(NamedTuple):
    """Objects that were found in an image, the surest first."""

    boxes: NDArray[np.float64]
    """Left, top, right and bottom in pixels of the network's input, [D, 4]."""
    scores: NDArray[np.float64]
    """0 to 1, [D]."""
    classes: NDArray[np.int64]
    """[D]."""


def choose_detections(answers: NDArray[Any], *, least_score: float = LEAST_SCORE) -> Detections:
    """Return the detections of an image.

    Args:
        answers: Of each cell, the logit of each class and then left, top, right and bottom, [A, K + 4].
        least_score: Of a detection.
    """
    scores = compute_scores(answers[:, :-4])  # [A, K]
    cells, classes = np.nonzero(scores >= least_score)
    found = scores[cells, classes]
    order = np.argsort(-found, kind="stable")[:MOST_CANDIDATES]
    boxes = answers[cells[order], -4:].astype(np.float64)
    kept = suppress(boxes, found[order], classes[order])[:MOST_DETECTIONS]
    return Detections(boxes[kept], found[order][kept], classes[order][kept].astype(np.int64))


def compute_scores(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return the sigmoid of logits [...], [...]."""
    wide = logits.astype(np.float64)
    scores: NDArray[np.float64] = np.exp(-np.logaddexp(0, -wide))
    return scores


def suppress(
    boxes: NDArray[np.float64], scores: NDArray[np.float64], classes: NDArray[np.integer[Any]], overlap: float = MOST_OVERLAP
) -> NDArray[np.int64]:
    """Return which boxes stay, the surest first: of those of one class that overlap more, the surest alone.

    Args:
        boxes: Left, top, right and bottom, [D, 4].
        scores: [D].
        classes: [D].
        overlap: Intersection over union.
    """
    left = np.argsort(-scores, kind="stable")
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        same = (classes[left] == classes[best]) & (_compute_overlaps(boxes[best], boxes[left]) > overlap)
        left = left[~same]
    return np.array(kept, np.int64)


def _compute_overlaps(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return intersection over union of a box [4] with others [D, 4], [D]."""
    begins, ends = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    inner = (ends - begins).clip(min=0).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - inner
    found: NDArray[np.float64] = np.divide(inner, union, out=np.zeros_like(inner), where=union > 0)
    return found


COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000", "#f032e6", "#000075")


def draw_boxes(picture: Image.Image, objects: Sequence[Mapping[str, Any]]) -> Image.Image:
    """Return a picture with boxes drawn on it, each with its name and, where there is one, its score.

    Args:
        picture: In colour; it is changed.
        objects: `name`, `box` in pixels of the picture, and perhaps `score` of each; the first is drawn on top.
    """
    pen = ImageDraw.Draw(picture)
    names = sorted({str(each["name"]) for each in objects})
    for each in reversed(objects):
        colour = COLOURS[names.index(str(each["name"])) % len(COLOURS)]
        left, top, right, bottom = (float(side) for side in each["box"])
        pen.rectangle(
            (left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=max(1, picture.width // 200)
        )
        text = f"{each['name']} {each['score']:.2f}" if "score" in each else str(each["name"])
        edges = pen.textbbox((left, top), text)
        pen.rectangle(edges, fill=colour)
        pen.text((left, top), text, fill="white")
    return picture
