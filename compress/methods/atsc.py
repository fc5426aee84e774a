"""ATSC: teacher and student meet half-way, and the student ships with the teacher's adapted classifier.

As in SimKD a projector takes the student's last map to the shape of the teacher's, and their mean squared difference is
minimised; but a copy of the teacher moves too, held near where it started by a penalty on the drift of its weights. After each
such update a second one fits the copy's classifier to the labels. The teachers that are given are never changed.

Trained: first the student up to its last map, a projector and a copy of each teacher; then the classifiers of the copies.
Frozen: the given teachers; the student's own classifier is not used.
Shipped: the student up to its last map, the projectors, and the adapted classifiers.
Stages: student
Source: 2406.08528; random2314235/ATSC 8bde1b2. For one teacher the code gives: the two updates, the gradient into the teacher,
the drift as a sum of squares of weights that are not vectors, batch norm in training mode; and for CIFAR-100 both weights 1 and
factor 2 (for ImageNet drift_weight 10 at a learning rate of 0.01). `classifier_update: full` is ours: the code (`bias`) trains
only the bias on the labels, though its names speak of the layer. Several teachers are announced by the paper's abstract, but
their equations were not found: the means over losses and logits, and `keep`, are proposed by us, not confirmed.

Batch norm's scale and shift are not held by the drift. An optimiser whose step does not depend on the size of the gradient
moves them so far within an epoch that teacher and student agree on maps that say nothing (docs/LOG.md): train with SGD, or with
`teacher_bn: frozen`.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from compress.data import Batches
from compress.methods import Method, Setting, Step, refuse_dense, require_teacher
from compress.methods._analyses.adaptation import AdaptingTeacher, analyse_adaptations
from compress.methods._maps import projector
from compress.methods._maps.projector import Projected
from compress.recipe import Count, NonNegative, Positive, TrainSection
from compress.recipe.checks import find_drift_problem
from compress.records import Accuracy, Analysis

log = logging.getLogger(__name__)


def meet_half_way(projections: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Return the mean squared difference of maps, [B, c, h, w] each, averaged over teachers; both get a gradient.

    Args:
        projections: The student's map in the shape of each teacher's.
        targets: The map of each teacher.
    """
    return torch.stack([F.mse_loss(mine.float(), goal.float()) for mine, goal in zip(projections, targets, strict=True)]).mean()


class Atsc(Method):
    """Difference of the maps plus drift, then cross-entropy of the adapted teachers; each is the mean over teachers.

    Args:
        setting: Student, teachers, an image, the number of classes.
        beta: Weight of the difference between the projected map and the teacher's.
        drift_weight: Weight of the sum of squared differences of the teacher's weights from where they started.
        factor: How many times narrower than the teacher's map the projector is inside.
        final_relu: Whether the projector ends in a ReLU; auto where the teacher's map is never negative.
        classifier_update: What the labels train: weight and bias of the classifier, whose drift is free (full), or its bias
            alone, while its weight drifts like all others (bias).
        teacher_bn: Whether the copy's batch norm adapts, normalises by the batch and moves its statistics (train), or stays as
            it is with its scale and shift (frozen).
        keep: With several teachers, ship the paths to all and give the mean of their logits (all), or ship the one that is best
            on the validation split (best).
    """

    needs_labels = ""

    moves_teacher: ClassVar[bool] = True

    def __init__(
        self,
        setting: Setting,
        *,
        beta: Positive = 1.0,
        drift_weight: NonNegative = 1.0,
        factor: Count = 2,
        final_relu: Literal["auto", "on", "off"] = "auto",
        classifier_update: Literal["full", "bias"] = "full",
        teacher_bn: Literal["train", "frozen"] = "train",
        keep: Literal["all", "best"] = "all",
    ) -> None:
        require_teacher(setting, "atsc")
        refuse_dense(
            setting,
            "atsc",
            "ships the teacher's linear classifier, and a network of dense logits has none; use dist, cwd or fitnet",
        )
        copies = tuple(copy.deepcopy(teacher) for teacher in setting.teachers)
        super().__init__(setting._replace(teachers=copies))
        self.originals = nn.ModuleList(setting.teachers)
        self.beta, self.drift_weight = beta, drift_weight
        self.teacher_bn = teacher_bn
        self.adapting = [
            AdaptingTeacher(network, original, classifier_update == "bias", teacher_bn == "frozen")
            for network, original in zip(copies, setting.teachers, strict=True)
        ]
        for index, teacher in enumerate(self.adapting):
            teacher.refuse_missing_parameters(index)
        classifiers = [network.classifier for network in copies]
        paths = projector.build_paths(setting, classifiers, where="atsc", factor=factor, final_relu=final_relu)
        self.teacher_pools = paths.teacher_pools
        self.adapted = _Adapted(paths.shipped, self.teachers)
        self.keeps_best = keep == "best" and len(copies) > 1

    def phases(self) -> dict[str, list[Parameter]]:
        """Return student, projectors and copies of the teachers; then what the labels train of their classifiers."""
        moved = [weight for teacher in self.adapting for weight in teacher.find_moved().values()]
        fitted = [weight for teacher in self.adapting for weight in teacher.list_fitted()]
        return {"projection": [*projector.list_trained(self.adapted.shipped), *moved], "classifier": fitted}

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return difference and drift, or in the second phase the cross-entropy of the adapted teachers, each []."""
        if step.phase == "classifier":
            each = [step.teacher(index).logits.float() for index in range(len(self.teachers))]  # [B, K]
            return {"ce": torch.stack([step.supervise(logits) for logits in each]).mean()}
        ours = projector.project_student(step, self.adapted.shipped)
        theirs = projector.pool_teachers(step, self.teacher_pools)
        terms = {"mse": self.beta * meet_half_way(ours, theirs)}
        if self.drift_weight:
            drifts = [teacher.compute_drift() for teacher in self.adapting]
            terms["drift"] = self.drift_weight * torch.stack(drifts).mean()
        return terms

    def predictions(self, step: Step) -> dict[str, Tensor]:
        """Return the logits of what is shipped, [B, K]; where one path is to be chosen, those of every path."""
        each = self.adapted.shipped.each(step.batch.images)
        return (
            {f"path{index}": logits for index, logits in enumerate(each)}
            if self.keeps_best
            else {"student": projector.average_logits(each)}
        )

    def choose(self, scores: Mapping[str, Accuracy]) -> dict[str, Accuracy]:
        """Ship the path that is best on the validation split, where one is to be chosen."""
        if not self.keeps_best:
            return dict(scores)
        best = max(range(len(self.teachers)), key=lambda index: scores[f"path{index}"].top1_percent)
        self.adapted.chosen.fill_(best)
        return {"student": scores[f"path{best}"]}

    def deployable(self) -> nn.Module:
        """Return the path through the projectors and the adapted classifiers, or the chosen one of them."""
        return self._take_path(int(self.adapted.chosen)) if self.keeps_best else self.adapted.shipped

    def product(self) -> nn.Module:
        """Return all paths and the adapted teachers: of the teachers the classifiers are shipped, the rest is for analysis."""
        return self.adapted

    def schedule(self, settings: TrainSection) -> TrainSection:
        """Return the settings as they are, if the drift cannot diverge with them.

        Raises:
            CompressError: The learning rate is too large for the weight of the drift.
        """
        problem = find_drift_problem("method.atsc", self.drift_weight, teachers=len(self.teachers), train=settings)
        if problem is not None:
            raise problem
        if settings.optimizer == "adamw" and self.teacher_bn == "train":
            log.warning(
                "method.atsc: with adamw the teachers' batch norm, which the drift does not hold, may collapse their maps; set "
                "teacher_bn: frozen, or train.optimizer: sgd"
            )
        return settings

    def analyse(self, train: Batches, validation: Batches) -> tuple[Analysis, ...]:
        """Return what adaptation did to the teachers, and how the student does with the classifier of each."""
        del train
        paths = [self._take_path(index) for index in range(len(self.adapting))]
        best = int(self.adapted.chosen) if self.keeps_best else None
        return (analyse_adaptations(self.adapting, paths, self.deployable(), validation, best=best),)

    def _take_path(self, index: int) -> Projected:
        """Return the path to the classifier of one teacher."""
        return Projected(self.adapted.shipped.backbone, [self.adapted.shipped.each_branch()[index]])


class _Adapted(nn.Module):
    """What training leaves behind: the paths, the copies of the teachers that share their classifiers, and the chosen path."""

    chosen: Tensor

    def __init__(self, shipped: Projected, teachers: nn.ModuleList) -> None:
        super().__init__()
        self.shipped, self.teachers = shipped, teachers
        self.register_buffer("chosen", torch.zeros((), dtype=torch.int64))
