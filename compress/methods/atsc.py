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

from compress import losses
from compress.data import Batches
from compress.errors import CompressError
from compress.methods import Method, Setting, Step, _projector, require_teacher
from compress.methods._accuracy import measure_accuracy
from compress.methods._adaptation import Adaptation, describe_adaptations
from compress.methods._projector import Projected
from compress.models import Network
from compress.recipe import Count, NonNegative, Positive, TrainSection
from compress.recipe.checks import find_drift_problem
from compress.records import Accuracy, Analysis
from compress.text import name_teacher

log = logging.getLogger(__name__)


def meet_half_way(projections: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Return the mean squared difference of maps, [B, c, h, w] each, averaged over teachers; both sides get a gradient.

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
        copies = tuple(copy.deepcopy(teacher) for teacher in setting.teachers)
        super().__init__(setting._replace(teachers=copies))
        self.originals = nn.ModuleList(setting.teachers)
        self.beta, self.drift_weight = beta, drift_weight
        self.classifier_update, self.teacher_bn = classifier_update, teacher_bn
        classifiers = [network.classifier for network in copies]
        paths = _projector.build_paths(setting, classifiers, where="atsc", factor=factor, final_relu=final_relu)
        self.teacher_pools = paths.teacher_pools
        self.adapted = _Adapted(paths.shipped, self.teachers)
        self.keeps_best = keep == "best" and len(copies) > 1
        self._refuse_what_cannot_be_updated()

    def _refuse_what_cannot_be_updated(self) -> None:
        """Refuse copies without what is to be trained.

        Raises:
            CompressError: A classifier has no bias, or a batch norm no scale and shift.
        """
        for index, network in enumerate(self._networks()):
            if self.classifier_update == "bias" and network.classifier.bias is None:
                raise CompressError(
                    f"method.atsc.classifier_update: 'bias', and the classifier of teacher {index} has none; use 'full'"
                )
            bare = [
                name for name, module in network.named_modules() if _is_batch_norm(module) and not list(module.parameters())
            ]
            if self.teacher_bn == "frozen" and bare:
                raise CompressError(
                    f"method.atsc.teacher_bn: 'frozen', and {bare[0]!r} of teacher {index} has no scale and shift to freeze it "
                    "by; use 'train'"
                )

    def phases(self) -> dict[str, list[Parameter]]:
        """Return student, projectors and copies of the teachers; then what the labels train of their classifiers."""
        moved = [weight for network in self._networks() for weight in self._find_moved(network).values()]
        fitted = [weight for network in self._networks() for weight in self._list_fitted(network)]
        return {"projection": [*_projector.list_trained(self.adapted.shipped), *moved], "classifier": fitted}

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return difference and drift, or in the second phase the cross-entropy of the adapted teachers, each []."""
        if step.phase == "classifier":
            each = [step.teacher(index).logits.float() for index in range(len(self.teachers))]  # [B, K]
            return {"ce": torch.stack([F.cross_entropy(logits, step.batch.labels) for logits in each]).mean()}
        ours = _projector.project_student(step, self.adapted.shipped)
        theirs = _projector.pool_teachers(step, self.teacher_pools)
        terms = {"mse": self.beta * meet_half_way(ours, theirs)}
        if self.drift_weight:
            terms["drift"] = self.drift_weight * torch.stack(self.compute_drifts()).mean()
        return terms

    def compute_drifts(self) -> list[Tensor]:
        """Return for each teacher the sum of squared differences of its penalised weights from where they started, []."""
        drifts = []
        for network, original in zip(self._networks(), self.originals, strict=True):
            start = dict(original.named_parameters())
            here = {name: weight for name, weight in self._find_moved(network).items() if weight.dim() > 1}
            drifts.append(losses.drift(here.values(), [start[name] for name in here]))
        return drifts

    def predictions(self, step: Step) -> dict[str, Tensor]:
        """Return the logits of what is shipped, [B, K]; where one path is to be chosen, those of every path."""
        each = self.adapted.shipped.each(step.batch.images)
        return (
            {f"path{index}": logits for index, logits in enumerate(each)}
            if self.keeps_best
            else {"student": _projector.average_logits(each)}
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
        count = len(self.teachers)
        adaptations = [
            Adaptation(
                teacher=name_teacher(index, count),
                before=measure_accuracy(original, validation).top1_percent,
                after=measure_accuracy(self.teachers[index], validation).top1_percent,
                drift=float(drift.detach()),
                student=measure_accuracy(self._take_path(index), validation).top1_percent,
            )
            for index, (drift, original) in enumerate(zip(self.compute_drifts(), self.originals, strict=True))
        ]
        which = name_teacher(int(self.adapted.chosen), count) if self.keeps_best else "mean of all"
        whole = (which, measure_accuracy(self.deployable(), validation).top1_percent) if count > 1 else None
        return (describe_adaptations(adaptations, shipped=whole),)

    def _take_path(self, index: int) -> Projected:
        """Return the path to the classifier of one teacher."""
        return Projected(self.adapted.shipped.backbone, [self.adapted.shipped.each_branch()[index]])

    def _networks(self) -> list[Network]:
        """Return the copies of the teachers."""
        return [network for network in self.teachers if isinstance(network, Network)]

    def _list_fitted(self, network: Network) -> list[Parameter]:
        """Return what the labels train of a copy."""
        classifier = network.classifier
        return [classifier.bias] if self.classifier_update == "bias" else list(classifier.parameters())

    def _find_moved(self, network: Network) -> dict[str, Parameter]:
        """Return what the difference of the maps and the drift train of a copy, by name."""
        others = {id(parameter) for parameter in self._list_fitted(network)}
        if self.teacher_bn == "frozen":  # without trained scale and shift it is held in evaluation mode
            norms = [module for module in network.modules() if _is_batch_norm(module)]
            others |= {id(parameter) for norm in norms for parameter in norm.parameters()}
        return {name: parameter for name, parameter in network.named_parameters() if id(parameter) not in others}


class _Adapted(nn.Module):
    """What training leaves behind: the paths, the copies of the teachers that share their classifiers, and the chosen path."""

    chosen: Tensor

    def __init__(self, shipped: Projected, teachers: nn.ModuleList) -> None:
        super().__init__()
        self.shipped, self.teachers = shipped, teachers
        self.register_buffer("chosen", torch.zeros((), dtype=torch.int64))


def _is_batch_norm(module: nn.Module) -> bool:
    return isinstance(getattr(module, "running_mean", None), Tensor)
