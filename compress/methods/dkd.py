"""Decoupled distillation: the labelled class against the rest and the order among the rest are two terms with own weights.

In the plain divergence what is said about the other classes is weighed by how unsure the teacher is of the label, so a sure
teacher says next to nothing; here it counts the same for every image.

Trained: the student.
Frozen: the teachers.
Shipped: the student.
Stages: student
Source: 2203.08679; megvii-research/mdistiller a08d46f, distillers/DKD.py, whose weights 1, 1, 8 and temperature 4 are the
defaults. Its warm-up of the term over 20 of 240 epochs is left out: `train.warmup_epochs` begins with small steps instead. The
mean over several teachers is ours, as is `standardise`, which 2403.01427 adds to it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compress import losses
from compress.errors import CompressError
from compress.methods import Method, Setting, Step, refuse_dense, refuse_ignored_teacher, require_teacher
from compress.recipe import NonNegative, Positive


class Dkd(Method):
    """Cross-entropy plus the two parts of the divergence, averaged over teachers.

    Args:
        setting: Student, teachers, an image, the number of classes.
        temperature: Softens both predictions.
        ce_weight: Weight of the cross-entropy.
        target_weight: Weight of the part on the labelled class against the rest (alpha of the source).
        rest_weight: Weight of the part among the other classes (beta of the source).
        standardise: Give the logits of each image mean 0 and standard deviation 1 first.
    """

    needs_labels = "it splits its loss at the class of each image"

    def __init__(
        self,
        setting: Setting,
        *,
        temperature: Positive = 4.0,
        ce_weight: NonNegative = 1.0,
        target_weight: NonNegative = 1.0,
        rest_weight: NonNegative = 8.0,
        standardise: bool = False,
    ) -> None:
        super().__init__(setting)
        if setting.classes < 3:
            raise CompressError("method.dkd: with two classes nothing is left beside the labelled one; use method 'kd'")
        require_teacher(setting, "dkd")
        refuse_dense(
            setting, "dkd", "parts the labelled class of an image from the rest, and dense labels are maps; use kd, dist or cwd"
        )
        refuse_ignored_teacher("method.dkd", target_weight=target_weight, rest_weight=rest_weight)
        self.temperature, self.ce_weight, self.standardise = temperature, ce_weight, standardise
        self.target_weight, self.rest_weight = target_weight, rest_weight

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the cross-entropy and the two parts of the divergence, [] each."""
        student, labels = step.student.logits, step.batch.labels
        pairs = [self._compute_parts(student, step.teacher(i).logits, labels) for i in range(len(self.teachers))]
        return {
            "ce": self.ce_weight * step.supervise(),
            "target": self.target_weight * torch.stack([target for target, _ in pairs]).mean(),
            "rest": self.rest_weight * torch.stack([rest for _, rest in pairs]).mean(),
        }

    def _compute_parts(self, student: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if self.standardise:
            student, teacher = losses.standardise(student), losses.standardise(teacher)
        return losses.dkd(student, teacher, labels, temperature=self.temperature)
