"""Answers of detectors as methods compare them: the logits of the classes, map by map."""

from __future__ import annotations

from torch import Tensor

from compress.errors import CompressError
from compress.methods._method import Setting
from compress.methods._step import Step
from compress.models import find_shapes
from compress.tasks import find_levels
from compress.tasks.detection import Detection


def require_same_cells(setting: Setting, method: str) -> None:
    """Refuse a teacher that answers for other cells than the student, where both are detectors.

    Raises:
        CompressError: There is such a teacher.
    """
    if not setting.task.boxes:
        return
    own = find_shapes(setting.student, setting.image).logits.shape[1]
    for index, teacher in enumerate(setting.teachers):
        given = find_shapes(teacher, setting.image).logits.shape[1]
        if given != own:
            raise CompressError(
                f"method.{method}: teacher {index} answers for {given} cells and the student for {own}, and it compares answer "
                "by answer; give both the same first_stride and levels, or use pkd"
            )


def split_levels(step: Step, answers: Tensor) -> list[Tensor]:
    """Return the logits of the classes in each map, [B·h·w, K], of answers [B, A, K + 4]."""
    levels = find_levels(answers.shape[1], (step.batch.images.shape[2], step.batch.images.shape[3]))
    parts = answers[..., : -step.task.boxes].split([level.cells for level in levels], dim=1)
    return [part.flatten(0, 1) for part in parts]


def count_positives(step: Step) -> Tensor:
    """Return for how many cells of the batch the labels have a box, at least 1, [].

    Raises:
        TypeError: The task is no detection.
    """
    size = (step.batch.images.shape[2], step.batch.images.shape[3])
    if not isinstance(step.task, Detection):
        raise TypeError(f"{type(step.task).__name__} has no cells that answer for boxes")
    return step.task.assign(step.student.logits, step.batch.labels, size).positive.sum().clamp(min=1)
