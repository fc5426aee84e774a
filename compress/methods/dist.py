"""DIST: the student keeps the teacher's relations between classes and between samples, not its exact probabilities.

Trained: the student.
Frozen: the teachers.
Shipped: the student.
Stages: student
Source: 2205.10536; equations and weights from the released code (hunto/image_classification_sota 6f7a70a).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from compress import losses
from compress.methods._method import Method, Setting, Step, needs_teacher
from compress.recipe import NonNegative, Positive


class Dist(Method):
    """Cross-entropy with the labels plus inter-class and intra-class correlation losses, averaged over teachers.

    Args:
        setting: Student, teachers, an image, the number of classes.
        temperature: Softens both predictions; the authors use 4 on CIFAR-100 and 1 on ImageNet.
        ce_weight: Weight of the cross-entropy.
        inter_weight: Weight of the inter-class relation (rows: one sample over all classes).
        intra_weight: Weight of the intra-class relation (columns: one class over all samples).
        tau2: Multiply by temperature², as the released code does and the paper's listing does not.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        temperature: Positive = 4.0,
        ce_weight: NonNegative = 1.0,
        inter_weight: NonNegative = 2.0,
        intra_weight: NonNegative = 2.0,
        tau2: bool = True,
    ) -> None:
        super().__init__(setting)
        needs_teacher(setting, "dist")
        self.temperature, self.ce_weight = temperature, ce_weight
        scale = temperature**2 if tau2 else 1.0
        self.inter_scale, self.intra_scale = scale * inter_weight, scale * intra_weight

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the cross-entropy and the two relations."""
        student = step.student.logits
        count = len(self.teachers)
        pairs = [losses.dist_relations(student, step.teacher(i).logits, temperature=self.temperature) for i in range(count)]
        return {
            "ce": self.ce_weight * F.cross_entropy(student.float(), step.batch.labels),
            "inter": self.inter_scale * torch.stack([inter for inter, _ in pairs]).mean(),
            "intra": self.intra_scale * torch.stack([intra for _, intra in pairs]).mean(),
        }
