"""Attention transfer: the student looks where the teacher looks.

Where a network looks is the mean square of a feature map over its channels, scaled to unit length: one number for each pixel,
so that student and teacher may differ in width and no adapter is needed. The squared differences at all pairs of taps are
added to the cross-entropy.

Trained: the student.
Frozen: the teachers.
Shipped: the student.
Stages: student
Source: 1612.03928, the activation-based form; HobbitLong/RepDistiller b84f547, whose beta 1000 on a sum over stages of means
over pixels is `preset: paper`; its cross-entropy 1, no divergence, and pooling of the larger map before squaring are the
defaults. The paper writes
beta / 2 times a norm; that code and the authors' own, szagoruyko/attention-transfer 893df54, do not. Ours: the mean over
several teachers; beta 100, since 1000 left the student far below plain training in short runs (benchmarks/results/scales,
cifar10_screening); and a beta that is as strong for maps of other sizes as it is for those of that code (`scale_beta`).
"""

from __future__ import annotations

import logging
from typing import Literal

import torch
from torch import Tensor, nn

from compress import losses
from compress.methods import Method, Setting, Step, require_teacher
from compress.methods._maps.align import Size, pool_to, resize_to
from compress.methods._maps.attention_pairs import AttentionPair, average_pixel_share, pair_attention
from compress.recipe import Listing, NonNegative, Positive, Text, TrainSection

PRESETS = {"ours": 100.0, "paper": 1000.0}
"""Beta."""
HARMFUL_BETA = 500.0
"""From here on a training with AdamW is warned of."""
REFERENCE_SHARE = (1 / 32**2 + 1 / 16**2 + 1 / 8**2) / 3
"""Mean share of a pixel in the maps for which these were chosen; a term is proportional to that of its maps."""

log = logging.getLogger(__name__)


class AttentionTransfer(Method):
    """Cross-entropy plus, for each pair of taps, the squared difference of attention, averaged over the teachers.

    Args:
        setting: Student, teachers, an image, the number of classes.
        student_taps: Taps of the student, in the order of `teacher_taps`; default all.
        teacher_taps: The tap of every teacher for each of `student_taps`; default all.
        preset: Beta 100 (ours) or 1000 (paper).
        beta: Weight of the sum over the pairs, for maps of 32, 16 and 8 pixels a side; default: the preset's.
        scale_beta: Multiply beta by a factor for maps of other sizes, which is 1 for those: a term grows as the pixels of its
            maps become fewer, so maps half as wide and high get a quarter of it.
        ce_weight: Weight of the cross-entropy; 0 where another method on the same student brings it.
        kd_weight: Weight of the divergence from the teachers; 0 leaves it out.
        temperature: Softens both predictions for the divergence.
    """

    needs_labels = ""

    def __init__(
        self,
        setting: Setting,
        *,
        student_taps: Listing[Text] | None = None,
        teacher_taps: Listing[Text] | None = None,
        preset: Literal["ours", "paper"] = "ours",
        beta: Positive | None = None,
        scale_beta: bool = True,
        ce_weight: NonNegative = 1.0,
        kd_weight: NonNegative = 0.0,
        temperature: Positive = 4.0,
    ) -> None:
        super().__init__(setting)
        require_teacher(setting, "attention_transfer", reads_logits="kd_weight is above 0" if kd_weight else None)
        self.beta_of_reference = PRESETS[preset] if beta is None else beta
        self.ce_weight, self.kd_weight, self.temperature = ce_weight, kd_weight, temperature
        self.pairs = pair_attention(setting, student_taps, teacher_taps)
        self.beta = self.beta_of_reference * (REFERENCE_SHARE / average_pixel_share(self.pairs) if scale_beta else 1.0)
        self.attentions = nn.ModuleDict({_name_size(pair.size): _Attention(pair.size) for pair in self.pairs})

    def schedule(self, settings: TrainSection) -> TrainSection:
        """Return the settings as they are, and warn of a beta that did harm with AdamW."""
        if settings.optimizer == "adamw" and self.beta_of_reference >= HARMFUL_BETA:
            log.warning(
                "method.attention_transfer: with adamw, beta 1000 cost 12 points against plain training in a short run and 100 "
                "nothing (benchmarks/results/cifar10_screening); take beta 100, the default, or train.optimizer: sgd"
            )
        return settings

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the cross-entropy, the difference of attention at each tap, and the divergence if it is wanted, [] each."""
        student, teachers = step.student.logits.float(), range(len(self.teachers))
        terms = {"ce": self.ce_weight * step.supervise()}
        by_tap: dict[str, list[Tensor]] = {}
        for pair in self.pairs:
            by_tap.setdefault(pair.name, []).append(self._difference(step, pair))
        terms |= {f"attention.{tap}": self.beta * torch.stack(each).mean() for tap, each in by_tap.items()}
        if self.kd_weight > 0:
            each = [
                losses.kd(student, resize_to(step.teacher(i).logits, student), temperature=self.temperature) for i in teachers
            ]
            terms["kd"] = self.kd_weight * torch.stack(each).mean()
        return terms

    def _difference(self, step: Step, pair: AttentionPair) -> Tensor:
        """Return `losses.attention_transfer` of the pooled maps, from the teacher's attention alone, which may be stored."""
        attention = self.attentions[_name_size(pair.size)]
        of_student = step.apply(attention, step.student.features[pair.student_tap])  # [B, h·w]
        return losses.feature_mse(of_student, step.apply_to_teacher(attention, pair.teacher, pair.teacher_tap))


class _Attention(nn.Module):
    """Where a map is active, at one size: [B, c, h, w] -> [B, size[0]·size[1]]; it has no parameters."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size

    def forward(self, features: Tensor) -> Tensor:
        return losses.attention_map(pool_to(features, self.size))

    def extra_repr(self) -> str:  # by this the store of teacher outputs distinguishes two sizes
        return f"size={self.size}"


def _name_size(size: Size) -> str:
    return f"attention{size[0]}x{size[1]}"
