"""Relational distillation: the student keeps distances between the images of a batch and angles among them.

What is compared are the maps at one tap of each network, averaged over their pixels, so that student and teacher may differ in
shape and no adapter is needed.

Trained: the student.
Frozen: the teachers.
Shipped: the student.
Stages: student
Source: 1904.05068; HobbitLong/RepDistiller b84f547, distiller_zoo/RKD.py, whose weights 25 and 50 beside a cross-entropy of 1
are the defaults. Its embedding is what the classifier reads, which is the average of the last map in its networks. Ours: the
mean over several teachers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compress import losses
from compress.errors import CompressError
from compress.methods import Method, Setting, Step, refuse_dense, refuse_ignored_teacher, require_teacher
from compress.models import Network
from compress.recipe import NonNegative, Text


class Rkd(Method):
    """Cross-entropy plus the losses of distances and angles, averaged over teachers.

    Args:
        setting: Student, teachers, an image, the number of classes.
        student_tap: Tap of the student; default its last.
        teacher_tap: Tap of every teacher; default its last.
        ce_weight: Weight of the cross-entropy; 0 where another method on the same student brings it.
        distance_weight: Weight of the distances.
        angle_weight: Weight of the angles.
    """

    needs_labels = ""

    def __init__(
        self,
        setting: Setting,
        *,
        student_tap: Text | None = None,
        teacher_tap: Text | None = None,
        ce_weight: NonNegative = 1.0,
        distance_weight: NonNegative = 25.0,
        angle_weight: NonNegative = 50.0,
    ) -> None:
        super().__init__(setting)
        require_teacher(setting, "rkd")
        refuse_dense(setting, "rkd", "compares one embedding an image, and dense networks pool to none; use dist, cwd or pkd")
        refuse_ignored_teacher("method.rkd", distance_weight=distance_weight, angle_weight=angle_weight)
        self.ce_weight, self.distance_weight, self.angle_weight = ce_weight, distance_weight, angle_weight
        self.embedding = _Embedding()
        self.student_tap = _find_tap("student", setting.student, student_tap)
        self.teacher_taps = [
            _find_tap(f"teacher {index}", teacher, teacher_tap) for index, teacher in enumerate(setting.teachers)
        ]

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the cross-entropy and the differences of distances and of angles, [] each."""
        student = step.apply(self.embedding, step.student.features[self.student_tap])
        pairs = [
            losses.rkd(student, step.apply_to_teacher(self.embedding, index, tap))
            for index, tap in enumerate(self.teacher_taps)
        ]
        return {
            "ce": self.ce_weight * step.supervise(),
            "distance": self.distance_weight * torch.stack([distance for distance, _ in pairs]).mean(),
            "angle": self.angle_weight * torch.stack([angle for _, angle in pairs]).mean(),
        }


def _find_tap(who: str, network: Network, tap: str | None) -> int:
    """Return the place of a tap, the last if none is named.

    Raises:
        CompressError: There is no such tap, or none at all.
    """
    taps = list(network.taps)
    if not taps:
        raise CompressError(f"method.rkd: {who} has no tap to read a map from; name some of its layers as taps")
    if tap is not None and tap not in taps:
        raise CompressError(f"method.rkd: {who} has no tap {tap!r}; there are: {', '.join(taps)}")
    return len(taps) - 1 if tap is None else taps.index(tap)


class _Embedding(nn.Module):
    """One vector for each image: maps [B, c, h, w] and tokens [B, t, c] averaged to [B, c], vectors as they are."""

    def forward(self, features: Tensor) -> Tensor:
        wide = features.float()
        return wide.mean(dim=(2, 3)) if wide.dim() == 4 else wide.mean(dim=1) if wide.dim() == 3 else wide
