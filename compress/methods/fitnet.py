"""FitNets: a layer inside the student learns to give the map of a layer inside the teacher, its hint.

A regressor takes the student's map to the teacher's shape, and their squared difference is added to the cross-entropy. As in
later comparisons, student and regressor are trained with both from the start; the paper first trains up to the hint alone.

Trained: the student, and a regressor for each teacher.
Frozen: the teachers.
Shipped: the student.
Stages: student
Source: FitNets 1412.6550; HobbitLong/RepDistiller b84f547, whose joint training, cross-entropy 1, no divergence, middle stage
and regressor (convolution, batch-norm, ReLU) are the defaults, and whose weight 100 on the plain squared difference is `preset:
paper`. Ours: maps whose channels are standardised first, as in method `pkd`, so that the hint's gradient has one size for maps
of any size (with weight 20 about five times that of cross-entropy at the start; the plain one with 100 fifty times,
benchmarks/results/scales_maps); pooling where sizes are neither equal nor a factor of two apart, no ReLU where the teacher's
map is negative somewhere, and the mean over several teachers.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from compress import losses
from compress.methods import Method, Setting, Step, require_teacher
from compress.methods._maps.align import pool_to, resize_to
from compress.methods._maps.hints import build_regressor, find_hints, find_tap
from compress.models import find_shapes
from compress.recipe import NonNegative, Positive, Text


class _Preset(NamedTuple):
    weight: float
    standardise: bool


PRESETS = {"ours": _Preset(20.0, standardise=True), "paper": _Preset(100.0, standardise=False)}


class Fitnet(Method):
    """Cross-entropy plus the squared difference of regressed and teacher's map, averaged over the teachers.

    Args:
        setting: Student, teachers, an image, the number of classes.
        student_tap: The student's tap that is guided; default the middle one, the earlier of two: a hint at the end leaves no
            layers that could use it, one at the beginning says little.
        teacher_tap: The tap of every teacher that gives the hint; default its middle one.
        preset: How the hint is weighed: 20 times half the squared difference of maps with standardised channels, which is one
            minus their correlation (ours), or 100 times the squared difference itself (paper).
        weight: Weight of the hint; default: the preset's.
        ce_weight: Weight of the cross-entropy; 0 where another method on the same student brings it.
        kd_weight: Weight of the divergence from the teachers; 0 leaves it out.
        temperature: Softens both predictions for the divergence.
        final_relu: Whether a regressor ends in a ReLU; auto where the teacher's map of the setting's image is never negative.
    """

    needs_labels = ""

    def __init__(
        self,
        setting: Setting,
        *,
        student_tap: Text | None = None,
        teacher_tap: Text | None = None,
        preset: Literal["ours", "paper"] = "ours",
        weight: Positive | None = None,
        ce_weight: NonNegative = 1.0,
        kd_weight: NonNegative = 0.0,
        temperature: Positive = 4.0,
        final_relu: Literal["auto", "on", "off"] = "auto",
    ) -> None:
        super().__init__(setting)
        require_teacher(setting, "fitnet", reads_logits="kd_weight is above 0" if kd_weight else None)
        self.weight = weight or PRESETS[preset].weight
        self.ce_weight, self.kd_weight, self.temperature = ce_weight, kd_weight, temperature
        self.compare = losses.pkd if PRESETS[preset].standardise else losses.feature_mse
        self.student_tap = find_tap(setting.student, student_tap, owner="the student", option="student_tap")
        self.hints = find_hints(setting, self.student_tap, teacher_tap)
        channels = find_shapes(setting.student, setting.image).features[self.student_tap].shape[1]
        self.regressors = nn.ModuleList(
            build_regressor(channels, hint, final_relu=hint.never_negative if final_relu == "auto" else final_relu == "on")
            for hint in self.hints
        )

    def phases(self) -> dict[str, list[Parameter]]:
        """Return student and regressors, which one optimiser trains."""
        return {"student": [*self.student.parameters(), *self.regressors.parameters()]}

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the cross-entropy, the hint, and the divergence if it is wanted, [] each."""
        student = step.student.logits.float()
        terms = {
            "ce": self.ce_weight * step.supervise(),
            "hint": self.weight * torch.stack(self._compute_distances(step)).mean(),
        }
        if self.kd_weight > 0:
            teachers = range(len(self.teachers))
            each = [
                losses.kd(student, resize_to(step.teacher(i).logits, student), temperature=self.temperature) for i in teachers
            ]
            terms["kd"] = self.kd_weight * torch.stack(each).mean()
        return terms

    def _compute_distances(self, step: Step) -> list[Tensor]:
        """Return the difference from each teacher's map, []."""
        each = []
        for index, (hint, regressor) in enumerate(zip(self.hints, self.regressors, strict=True)):
            regressed = step.apply(regressor, pool_to(step.student.features[self.student_tap], hint.reads))
            target = pool_to(step.teacher(index).features[hint.tap], hint.gives)
            each.append(self.compare(regressed, target))
        return each
