"""PKD: the student's feature map varies as the teacher's does, whatever its size and offset.

Both maps are standardised, channel by channel over the batch, and the squared difference is halved, which is one minus
Pearson's correlation. So maps of another scale, from another kind of network, teach as well.

Trained: the student, and a 1×1 convolution where the maps have different numbers of channels.
Frozen: the teachers.
Shipped: the student.
Stages: student
Source: 2207.02039; open-mmlab/mmrazor 90c7af1, whose weight 10 and floor 1e-6 under the deviation are the defaults. Ours: the
1×1 convolution, pooling the larger map to the smaller, and the mean over several teachers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from compress import losses
from compress.methods import Method, Setting, Step, require_teacher
from compress.methods._maps.align import pool_to
from compress.methods._maps.translators import pair_taps
from compress.recipe import Listing, NonNegative, Positive, Text


class Pkd(Method):
    """The task's loss plus one minus the correlation of feature maps, averaged over teachers.

    Args:
        setting: Student, teachers, an image, the number of classes.
        student_taps: Which of the student's taps are taught; default the last.
        teacher_taps: The tap of every teacher for each of `student_taps`, in that order; default the last.
        weight: Weight of each pair of maps.
        ce_weight: Weight of the cross-entropy; 0 where another method on the same student brings it.
    """

    needs_labels = ""

    def __init__(
        self,
        setting: Setting,
        *,
        student_taps: Listing[Text] | None = None,
        teacher_taps: Listing[Text] | None = None,
        weight: Positive = 10.0,
        ce_weight: NonNegative = 1.0,
    ) -> None:
        super().__init__(setting)
        require_teacher(setting, "pkd", reads_logits=None)
        self.weight, self.ce_weight = weight, ce_weight
        self.pairs = pair_taps(setting, student_taps, teacher_taps, where="method.pkd")
        self.adapters = nn.ModuleList(
            nn.Identity()
            if pair.student_channels == pair.teacher_channels
            else nn.Conv2d(pair.student_channels, pair.teacher_channels, 1)
            for pair in self.pairs
        )

    def phases(self) -> dict[str, list[Parameter]]:
        """Return student and adapters, which one optimiser trains."""
        return {"student": [*self.student.parameters(), *self.adapters.parameters()]}

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the cross-entropy and the mean distance of the maps, [] each."""
        each = []
        for pair, adapter in zip(self.pairs, self.adapters, strict=True):
            student = step.apply(adapter, pool_to(step.student.features[pair.student_tap], pair.size))
            teacher = pool_to(step.teacher(pair.teacher).features[pair.teacher_tap], pair.size)
            each.append(losses.pkd(student, teacher))
        return {"ce": self.ce_weight * step.supervise(), "pkd": self.weight * torch.stack(each).mean()}
