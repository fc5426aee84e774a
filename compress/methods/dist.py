"""DIST: the student keeps the teacher's relations between classes and between samples, not its exact probabilities.

The paper's and the code's beta, gamma and outer weight are one product here: `inter_weight` and `intra_weight` multiply once.

Trained: the student.
Frozen: the teachers.
Shipped: the student.
Stages: student
Source: 2205.10536; equations, temperature 4 (CIFAR-100; 1 on ImageNet) and weights 1, 2, 2 from the released code
(hunto/image_classification_sota 6f7a70a). That code multiplies by temperature² (`preset: paper`), the paper's listing does not,
and nor do we: a divergence needs that factor, as its gradient falls with temperature², but a correlation does not depend on
the size of what it compares, so that at temperature 4 the factor makes the gradient 16 times as large, and the student depends
on how its optimizer bears it (benchmarks/results/scales). Sigmoid is that of its one-stage detection (hunto/MasKD b5af34f). The
guard and the mean over several teachers are ours.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from compress import losses
from compress.methods import Method, Setting, Step, refuse_ignored_teacher, require_teacher
from compress.methods._cells import require_same_cells, split_levels
from compress.methods._maps.align import resize_to
from compress.methods._step import AUXILIARY_WEIGHT
from compress.recipe import NonNegative, Positive

FEW_SAMPLES = 8
"""With fewer, a correlation over the samples of a batch says little; with one, nothing."""

MANY_CLASSES = 200
"""From so many classes on predictions are left as they are: softened, all of them are nearly uniform."""

log = logging.getLogger(__name__)


class Dist(Method):
    """Cross-entropy with the labels plus inter-class and intra-class correlation losses, averaged over teachers.

    Where a segmentation's student and teacher have an auxiliary classifier each, the teacher's teaches the student's, too, with
    0.4 of the weights.

    Args:
        setting: Student, teachers, an image, the number of classes.
        preset: Ours, or as in the released code, with the factor temperature² (paper).
        temperature: Softens both predictions; default 4, and 1 from 200 classes on and for dense logits, as the authors use 4
            on CIFAR-100 and 1 on ImageNet and Cityscapes.
        ce_weight: Weight of the cross-entropy.
        inter_weight: Weight of the inter-class relation (rows: one sample, or pixel, over all classes); default 2, and 1 for
            dense logits, as released.
        intra_weight: Weight of the intra-class relation (columns: one class over all samples or pixels); default as that.
        tau2: Multiply both relations by temperature²; default: only in paper.
        activation: What makes logits probabilities: softmax, or sigmoid for networks whose classes do not exclude each other;
            default softmax, and sigmoid for detectors, whose maps are compared one by one and summed, as released.
        guard: Let constant rows and columns pass no gradient; without it they pass one of up to 1e6, as in the released code.
        denominator: Keep correlations finite by a constant added to the product of the norms, as the authors, or by a floor
            under each (norms), as torchdistill; they part where classes are many.
    """

    needs_labels = ""

    def __init__(
        self,
        setting: Setting,
        *,
        preset: Literal["ours", "paper"] = "ours",
        temperature: Positive | None = None,
        ce_weight: NonNegative = 1.0,
        inter_weight: NonNegative | None = None,
        intra_weight: NonNegative | None = None,
        tau2: bool | None = None,
        activation: Literal["softmax", "sigmoid"] | None = None,
        guard: bool = True,
        denominator: Literal["product", "norms"] = "product",
    ) -> None:
        super().__init__(setting)
        require_teacher(setting, "dist")
        require_same_cells(setting, "dist")
        usual = 1.0 if setting.task.is_dense else 2.0
        inter_weight = usual if inter_weight is None else inter_weight
        intra_weight = usual if intra_weight is None else intra_weight
        refuse_ignored_teacher("method.dist", inter_weight=inter_weight, intra_weight=intra_weight)
        self.temperature = temperature or (4.0 if setting.classes < MANY_CLASSES and not setting.task.is_dense else 1.0)
        self.ce_weight = ce_weight
        self.activation: losses.Activation = activation or ("sigmoid" if setting.task.boxes else "softmax")
        self.guard, self.denominator = guard, denominator
        scale = self.temperature**2 if (preset == "paper" if tau2 is None else tau2) else 1.0
        self.inter_scale, self.intra_scale = scale * inter_weight, scale * intra_weight
        self._warned = False

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the cross-entropy and the two relations, [] each."""
        inter, intra = self._average(self._compare(step, place) for place in range(len(self.teachers)))
        if further := [pair for place in range(len(self.teachers)) if (pair := self._compare_auxiliary(step, place))]:
            first, second = self._average(further)
            inter, intra = inter + AUXILIARY_WEIGHT * first, intra + AUXILIARY_WEIGHT * second
        return {
            "ce": self.ce_weight * step.supervise(),
            "inter": self.inter_scale * inter,
            "intra": self.intra_scale * intra,
        }

    @staticmethod
    def _average(pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Return the mean of each relation over teachers, [] each."""
        inter, intra = zip(*pairs, strict=True)
        return torch.stack(inter).mean(), torch.stack(intra).mean()

    def _compare(self, step: Step, place: int) -> tuple[Tensor, Tensor]:
        """Return both relations with one teacher, of a detector summed over its maps, [] each."""
        student, teacher = step.student.logits, step.teacher(place).logits
        if not self.task.boxes:
            self._warn_of_few(student)
            return self._relations(student, resize_to(teacher, student))
        maps = zip(split_levels(step, student), split_levels(step, teacher), strict=True)
        inter, intra = zip(*(self._relations(ours, theirs) for ours, theirs in maps), strict=True)
        return torch.stack(inter).sum(), torch.stack(intra).sum()

    def _compare_auxiliary(self, step: Step, place: int) -> tuple[Tensor, Tensor] | None:
        """Return both relations of the auxiliary classifiers, [] each, where student and teacher have one."""
        if step.auxiliary is None or (teacher := step.teacher_auxiliary(place)) is None:
            return None
        return self._relations(step.auxiliary, resize_to(teacher, step.auxiliary))

    def _relations(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        return losses.dist_relations(
            student, teacher, temperature=self.temperature, activation=self.activation, guard=self.guard,
            denominator=self.denominator,
        )  # fmt: skip

    def _warn_of_few(self, logits: Tensor) -> None:
        samples = logits.numel() // logits.shape[1]
        if samples < FEW_SAMPLES and not self._warned and self.intra_scale > 0:
            self._warned = True
            log.warning(
                "method.dist: a batch has %d samples, too few for relations between samples; raise train.batch_size", samples
            )
