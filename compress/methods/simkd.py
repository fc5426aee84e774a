"""SimKD: the student learns to feed the teacher's own classifier, and ships with it.

A projector takes the student's last map to the shape of the teacher's, and the mean squared difference of the two is all that
is minimised: no labels, no softened predictions. At test time the teacher's classifier reads the pooled projection.

Trained: the student up to its last map, and a projector for each teacher.
Frozen: the teachers and their classifiers; the student's own classifier is not used.
Shipped: the student up to its last map, the projector, and the teacher's classifier.
Stages: student
Source: DefangChen/SimKD 2b389c3. The loss, the projector, factor 2 and which map is pooled are the released code's. Leaving
out the last ReLU where the teacher's map has negative values is ours, and so are several teachers: a projector for each, the
mean of the losses, and the mean of the logits.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from compress import losses
from compress.methods import Method, Setting, Step, refuse_dense, require_teacher
from compress.methods._maps import projector
from compress.recipe import Count


class Simkd(Method):
    """Mean squared error between the projected map of the student and the last map of the teacher.

    Args:
        setting: Student, teachers, an image, the number of classes.
        factor: How many times narrower than the teacher's map the projector is inside.
        final_relu: Whether the projector ends in a ReLU; auto where the teacher's map is never negative.
    """

    needs_labels = ""

    def __init__(self, setting: Setting, *, factor: Count = 2, final_relu: Literal["auto", "on", "off"] = "auto") -> None:
        super().__init__(setting)
        require_teacher(setting, "simkd")
        refuse_dense(
            setting,
            "simkd",
            "ships the teacher's linear classifier, and a network of dense logits has none; use dist, cwd or fitnet",
        )
        classifiers = [copy.deepcopy(teacher.classifier) for teacher in setting.teachers]
        paths = projector.build_paths(setting, classifiers, where="simkd", factor=factor, final_relu=final_relu)
        self.shipped, self.teacher_pools = paths.shipped, paths.teacher_pools

    def phases(self) -> dict[str, list[Parameter]]:
        """Return the student without its classifier, and the projectors."""
        return {"student": projector.list_trained(self.shipped)}

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the squared difference, averaged over teachers, []."""
        ours = projector.project_student(step, self.shipped)
        theirs = projector.pool_teachers(step, self.teacher_pools)
        return {"mse": torch.stack([losses.feature_mse(mine, goal) for mine, goal in zip(ours, theirs, strict=True)]).mean()}

    def deployable(self) -> nn.Module:
        """Return the path through the projectors and the teachers' classifiers."""
        return self.shipped
