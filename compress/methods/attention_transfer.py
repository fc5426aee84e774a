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

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from compress import losses
from compress.errors import CompressError
from compress.methods import Method, Setting, Step, require_teacher
from compress.methods._maps.align import Size, find_common_size, pool_to, resize_to
from compress.models import Network, find_shapes
from compress.recipe import Listing, NonNegative, Positive, Text
from compress.text import quantify

PRESETS = {"ours": 100.0, "paper": 1000.0}
"""Beta."""
REFERENCE_SHARE = (1 / 32**2 + 1 / 16**2 + 1 / 8**2) / 3
"""Mean share of a pixel in the maps for which these were chosen; a term is proportional to that of its maps."""


class _Pair(NamedTuple):
    """A tap of the student and the tap of a teacher with which it is compared."""

    name: str
    """The student's tap."""
    student_tap: int
    teacher: int
    teacher_tap: int
    size: Size
    """Height and width at which the two maps meet."""


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
        self.beta = PRESETS[preset] if beta is None else beta
        self.ce_weight, self.kd_weight, self.temperature = ce_weight, kd_weight, temperature
        self.pairs = _pair_taps(setting, student_taps, teacher_taps)
        self.beta *= REFERENCE_SHARE / _average_share(self.pairs) if scale_beta else 1.0
        self.attentions = nn.ModuleDict({_name_size(pair.size): _Attention(pair.size) for pair in self.pairs})

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

    def _difference(self, step: Step, pair: _Pair) -> Tensor:
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


def _average_share(pairs: Sequence[_Pair]) -> float:
    """Return the mean over pairs of the share of one pixel in their maps."""
    return sum(1 / (pair.size[0] * pair.size[1]) for pair in pairs) / len(pairs)


def _name_size(size: Size) -> str:
    return f"attention{size[0]}x{size[1]}"


def _pair_taps(setting: Setting, student_taps: Sequence[str] | None, teacher_taps: Sequence[str] | None) -> list[_Pair]:
    """Return every pair of taps with every teacher.

    Raises:
        CompressError: Taps are unknown or do not pair up, are no feature maps, or have a single pixel.
    """
    own = _choose_taps(setting.student, student_taps, owner="the student", option="student_taps")
    if len(set(own)) < len(own):
        raise CompressError(f"method.attention_transfer.student_taps: {', '.join(own)} names a tap twice; name each once")
    guided = find_shapes(setting.student, setting.image).features
    pairs = []
    for index, teacher in enumerate(setting.teachers):
        theirs = _choose_taps(teacher, teacher_taps, owner=f"teacher {index}", option="teacher_taps")
        if len(own) != len(theirs):
            raise CompressError(
                f"method.attention_transfer: {quantify(len(own), 'tap')} of the student ({', '.join(own)}) stand against "
                f"{len(theirs)} of teacher {index} ({', '.join(theirs)}); name equally many in student_taps and "
                "teacher_taps, in one order"
            )
        shown = find_shapes(teacher, setting.image).features
        for tap, other in zip(own, theirs, strict=True):
            at, there = setting.student.taps.index(tap), teacher.taps.index(other)
            size = _find_size(
                guided[at], shown[there], where=f"method.attention_transfer: {tap!r} with {other!r} of teacher {index}"
            )
            pairs.append(_Pair(tap, at, index, there, size))
    return pairs


def _choose_taps(network: Network, taps: Sequence[str] | None, *, owner: str, option: str) -> tuple[str, ...]:
    listed = ", ".join(network.taps) or "none"
    chosen = tuple(network.taps if taps is None else taps)
    unknown = [tap for tap in chosen if tap not in network.taps]
    if unknown or not chosen:
        wrong = ", ".join(map(repr, unknown)) or "to choose from"
        raise CompressError(f"method.attention_transfer.{option}: {owner} has no tap {wrong}; it has: {listed}")
    return chosen


def _find_size(student: Tensor, teacher: Tensor, *, where: str) -> Size:
    size = find_common_size(student, teacher, where=where)
    if size == (1, 1):
        raise CompressError(f"{where} meet at a single pixel, whose attention is always 1; name taps with larger maps")
    return size
