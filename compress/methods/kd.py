"""Vanilla distillation: the student matches the teacher's softened predictions.

Code bases weigh the two terms differently, so that results called KD compare only within one of them. `preset` follows one;
what is given beside it, replaces its number.

Trained: the student.
Frozen: the teachers.
Shipped: the student.
Stages: student
Source: Hinton et al., 1503.02531; DefangChen/SimKD 2b389c3 for the weights; HobbitLong/RepDistiller b84f547 for the divergence
(summed over classes, averaged over samples, times temperature²; of a detector with a sigmoid for each class, summed over all
cells and divided by how many have a box). Standardised logits:
2403.01427, sunshangquan/logit-standardization-KD f6e5aa5. The mean over several teachers is ours.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from compress import losses
from compress.methods import Method, Setting, Step, refuse_boxes, refuse_ignored_teacher, require_teacher
from compress.methods._cells import count_positives, require_same_cells, split_levels
from compress.methods._maps.align import resize_to
from compress.recipe import NonNegative, Positive

PRESETS = {
    "simkd": (1.0, 1.0, 4.0),
    "repdistiller": (0.1, 0.9, 4.0),
    "dih": (0.9, 0.1, 5.0),
    "dist_imagenet": (0.9, 1.0, 4.0),
    "standardised": (0.1, 9.0, 2.0),
}
"""Weights of cross-entropy and divergence, and the temperature."""


class Kd(Method):
    """Cross-entropy with the labels plus the divergence from the teachers, averaged over them.

    Args:
        setting: Student, teachers, an image, the number of classes.
        preset: Whose numbers: cross-entropy 1, divergence 1, temperature 4 (simkd, and its relatives); 0.1, 0.9, 4
            (repdistiller); 0.9, 0.1, 5 (dih); 0.9, 1, 4 (dist_imagenet: the reference of the authors of DIST); 0.1, 9, 2 on
            standardised logits (standardised: 2403.01427).
        temperature: Softens both predictions; default: the preset's, and 1 for dense logits in the preset simkd.
        ce_weight: Weight of the cross-entropy; default: the preset's.
        kd_weight: Weight of the divergence, which already carries the factor temperature²; default: the preset's.
        standardise: Give the logits of each image mean 0 and standard deviation 1 first, so that the student need not reach the
            size of the teacher's logits; default: only in the preset of that name.
    """

    needs_labels = ""

    def __init__(
        self,
        setting: Setting,
        *,
        preset: Literal["simkd", "repdistiller", "dih", "dist_imagenet", "standardised"] = "simkd",
        temperature: Positive | None = None,
        ce_weight: NonNegative | None = None,
        kd_weight: NonNegative | None = None,
        standardise: bool | None = None,
    ) -> None:
        super().__init__(setting)
        require_teacher(setting, "kd")
        given = (ce_weight, kd_weight, temperature)
        self.ce_weight, self.kd_weight, self.temperature = (
            preset_value if value is None else value for value, preset_value in zip(given, PRESETS[preset], strict=True)
        )
        if temperature is None and preset == "simkd" and setting.task.is_dense:
            self.temperature = 1.0
        self.standardise = preset == "standardised" if standardise is None else standardise
        if self.standardise:
            refuse_boxes(
                setting, "kd", "a detector's classes are independent, so its logits cannot be standardised; leave it out"
            )
        require_same_cells(setting, "kd")
        refuse_ignored_teacher("method.kd", kd_weight=self.kd_weight)

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the cross-entropy and the divergence, [] each."""
        student = step.student.logits
        if self.task.boxes:
            return {"ce": self.ce_weight * step.supervise(), "kd": self.kd_weight * self._compare_cells(step)}
        teachers = torch.stack(
            [resize_to(step.teacher(i).logits, student) for i in range(len(self.teachers))]
        )  # [M, B, K, ...]
        compared = (
            (losses.standardise(student), losses.standardise(teachers, axis=2)) if self.standardise else (student, teachers)
        )
        return {
            "ce": self.ce_weight * step.supervise(),
            "kd": self.kd_weight * losses.kd_cohort(*compared, temperature=self.temperature).mean(),
        }

    def _compare_cells(self, step: Step) -> Tensor:
        """Return the divergence of a detector's classes for each cell that has a box, averaged over the teachers, []."""
        student = torch.cat(split_levels(step, step.student.logits))
        each = [
            losses.binary_kd(student, torch.cat(split_levels(step, step.teacher(place).logits)), temperature=self.temperature)
            for place in range(len(self.teachers))
        ]
        return torch.stack(each).mean() / count_positives(step)
