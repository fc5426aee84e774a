"""Vanilla distillation: the student matches the teacher's softened predictions.

Code bases weigh the two terms differently, so that results called KD compare only within one of them. To follow one, set
`ce_weight`, `kd_weight` and `temperature`: 1, 1, 4 (SimKD and its relatives, the defaults); 0.1, 0.9, 4 (RepDistiller);
0.9, 0.1, 5 (DIH, and attention transfer with another temperature); 0.9, 1, 4 (KD on ImageNet by the authors of DIST).

Trained: the student.
Frozen: the teachers.
Shipped: the student.
Stages: student
Source: Hinton et al., 1503.02531; DefangChen/SimKD 2b389c3 for the weights; HobbitLong/RepDistiller b84f547 for the divergence
(summed over classes, averaged over samples, times temperature²). The mean over several teachers is ours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from compress import losses
from compress.errors import CompressError
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
        if kd_weight == 0:
            raise CompressError("method.kd.kd_weight: is 0, so nobody teaches; raise it, or use method 'supervised'")
        self.temperature, self.ce_weight, self.kd_weight = temperature, ce_weight, kd_weight

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the cross-entropy and the divergence."""
        student = step.student.logits
        teachers = torch.stack([step.teacher(i).logits for i in range(len(self.teachers))])  # [M, B, K]
        return {
            "ce": self.ce_weight * F.cross_entropy(student.float(), step.batch.labels),
            "kd": self.kd_weight * losses.kd_cohort(student, teachers, temperature=self.temperature).mean(),
        }
