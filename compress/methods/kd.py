"""Vanilla distillation: the student matches the teacher's softened predictions.

Trained: the student.
Frozen: the teachers.
Shipped: the student.
Stages: student
Source: Hinton et al., 1503.02531; weights 1, 1 and temperature 4 as in the SimKD toolbox, other toolboxes use 0.1 and 0.9.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from compress import losses
from compress.methods._method import Method, Setting, Step, needs_teacher
from compress.recipe import NonNegative, Positive


class Kd(Method):
    """Cross-entropy with the labels plus the divergence from the teachers, averaged over them.

    Args:
        setting: Student, teachers, an image, the number of classes.
        temperature: Softens both predictions.
        ce_weight: Weight of the cross-entropy.
        kd_weight: Weight of the divergence, which already carries the factor temperature².
    """

    def __init__(
        self, setting: Setting, *, temperature: Positive = 4.0, ce_weight: NonNegative = 1.0, kd_weight: NonNegative = 1.0
    ) -> None:
        super().__init__(setting)
        needs_teacher(setting, "kd")
        self.temperature, self.ce_weight, self.kd_weight = temperature, ce_weight, kd_weight

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the cross-entropy and the divergence."""
        student = step.student.logits.float()
        count = len(self.teachers)
        each = [losses.kd(student, step.teacher(i).logits, temperature=self.temperature) for i in range(count)]
        return {
            "ce": self.ce_weight * F.cross_entropy(student, step.batch.labels),
            "kd": self.kd_weight * torch.stack(each).mean(),
        }
