"""CWD: in each class the student answers where the teacher answers.

Each map of logits is made a distribution over its positions by a softmax, one class at a time, and the divergence from the
teacher's is minimised. So a class with few pixels weighs as much as the background.

Trained: the student.
Frozen: the teachers.
Shipped: the student.
Stages: student
Source: 2011.13256; irfanICMLL/TorchDistiller 78bac7c, SemSeg-distill, whose temperature 4 and weight 3 on logits are the
defaults. Ours: the mean over several teachers, and that a teacher's map of another size is brought to the student's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compress import losses
from compress.errors import CompressError
from compress.methods import Method, Setting, Step, refuse_boxes, require_teacher
from compress.methods._maps.align import resize_to
from compress.recipe import NonNegative, Positive


class Cwd(Method):
    """The task's loss plus the divergence of positions, class by class, averaged over the teachers.

    Args:
        setting: Student, teachers, an image, the number of classes.
        temperature: Divides all logits before the softmax over positions.
        weight: Weight of the divergence, which already carries the factor temperature².
        ce_weight: Weight of the cross-entropy; 0 where another method on the same student brings it.
    """

    needs_labels = ""

    def __init__(
        self, setting: Setting, *, temperature: Positive = 4.0, weight: Positive = 3.0, ce_weight: NonNegative = 1.0
    ) -> None:
        super().__init__(setting)
        require_teacher(setting, "cwd")
        refuse_boxes(setting, "cwd", "compares maps of logits, and of a detector it was not tried; use dist, kd or pkd")
        if not setting.task.is_dense:
            raise CompressError(
                "method.cwd: compares where a class is seen, and one class an image has no place; use kd or dist"
            )
        self.temperature, self.weight, self.ce_weight = temperature, weight, ce_weight

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the cross-entropy and the divergence, [] each."""
        student = step.student.logits
        each = [
            losses.cwd(student, resize_to(step.teacher(i).logits, student), temperature=self.temperature)
            for i in range(len(self.teachers))
        ]
        return {"ce": self.ce_weight * step.supervise(), "cwd": self.weight * torch.stack(each).mean()}
