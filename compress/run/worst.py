"""The test images that the student answers worst, as small pictures for the report: image, truth and answer side by side."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from compress.records import WorstImage
from compress.run.context import Run
from compress.tasks import Logits

COUNT = 6
LARGEST = 192
"""Pixels of the longer side; larger pictures are made smaller, for all of them lie in the report's file."""


def draw_worst_images(run: Run, logits: Logits) -> tuple[WorstImage, ...]:
    """Return the test images with the lowest metric of their own, the worst first; none where the task draws nothing.

    Args:
        run: Run context.
        logits: Of the student that is shipped, of the test images, [N, K, ...].
    """
    task, test = run.data.task, run.data.test
    if not task.draws:
        return ()
    tallies = task.tally(logits, test.labels)
    once = np.ones((1, 1), np.int64)
    percents = np.array([float(task.score(tallies[row : row + 1], once)[0]) for row in range(len(tallies))])
    worst = np.argsort(percents, kind="stable")[:COUNT]
    found = []
    for row in worst.tolist():
        pixels = np.asarray(test.images[row : row + 1])[0]
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")
        truth, answer = task.draw(picture, test.labels[row]), task.draw_answer(picture, logits[row])
        drawn = {"picture": picture, "truth": truth, "answer": answer}
        found.append(
            WorstImage(image=row, percent=percents[row], **{name: _encode(each) for name, each in drawn.items()})
        )  # fmt: skip
    return tuple(found)


def _encode(picture: Image.Image) -> str:
    """Return a PNG in base64, no larger than `LARGEST`."""
    small, kept = picture.copy(), io.BytesIO()
    small.thumbnail((LARGEST, LARGEST))
    small.save(kept, "PNG", optimize=True)
    return base64.b64encode(kept.getvalue()).decode("ascii")
