"""Plain training on the labels: the reference that every distilled student must beat.

Trained: the student.
Frozen: nothing; a teacher is not used.
Shipped: the student.
Stages: student
Source: cross-entropy; no paper.
"""

from __future__ import annotations

from torch import Tensor

from compress.methods import Method, Setting, Step
from compress.recipe import Share


class Supervised(Method):
    """Cross-entropy with the labels.

    Args:
        setting: Student, teachers, an image, the number of classes.
        label_smoothing: Share of the target that is spread over all classes.
    """

    needs_labels = "they are all that it learns from"

    def __init__(self, setting: Setting, *, label_smoothing: Share = 0.0) -> None:
        super().__init__(setting)
        self.label_smoothing = label_smoothing

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the cross-entropy, []."""
        return {"ce": step.supervise(smoothing=self.label_smoothing)}
