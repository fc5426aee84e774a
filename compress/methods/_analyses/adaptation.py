"""Teachers that adapt to their student in ATSC: what of them is trained, how far they drift, and the table for the report."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import Parameter

from compress import losses
from compress.data import Batches
from compress.errors import CompressError
from compress.methods._analyses.accuracy import measure_accuracy
from compress.models import Network
from compress.records import Analysis
from compress.text import name_teacher

COLLAPSE_POINTS = 20.0
"""A teacher that loses so much top-1 by adapting no longer knows what it shall teach."""

log = logging.getLogger(__name__)


class AdaptingTeacher(NamedTuple):
    """A copy of a teacher that is trained, beside the teacher that it started as."""

    network: Network
    original: Network
    bias_only: bool
    """Whether the labels train the bias of its classifier alone."""
    frozen_norms: bool
    """Whether its batch norm stays as it is."""

    def refuse_missing_parameters(self, index: int) -> None:
        """Refuse a teacher without what is to be trained or held.

        Raises:
            CompressError: Its classifier has no bias, or a batch norm no scale and shift.
        """
        if self.bias_only and self.network.classifier.bias is None:
            raise CompressError(
                f"method.atsc.classifier_update: 'bias', and the classifier of teacher {index} has none; use 'full'"
            )
        bare = [name for name, module in self.network.named_modules() if _is_batch_norm(module) and not [*module.parameters()]]
        if self.frozen_norms and bare:
            raise CompressError(
                f"method.atsc.teacher_bn: 'frozen', and {bare[0]!r} of teacher {index} has no scale and shift to freeze it "
                "by; use 'train'"
            )

    def list_fitted(self) -> list[Parameter]:
        """Return what the labels train."""
        classifier = self.network.classifier
        return [classifier.bias] if self.bias_only else list(classifier.parameters())

    def find_moved(self) -> dict[str, Parameter]:
        """Return what the difference of the maps and the drift train, by name."""
        others = {id(parameter) for parameter in self.list_fitted()}
        if self.frozen_norms:  # without trained scale and shift it is held in evaluation mode
            norms = [module for module in self.network.modules() if _is_batch_norm(module)]
            others |= {id(parameter) for norm in norms for parameter in norm.parameters()}
        return {name: parameter for name, parameter in self.network.named_parameters() if id(parameter) not in others}

    def compute_drift(self) -> Tensor:
        """Return the sum of squared differences of the penalised weights from where they started, []."""
        start = dict(self.original.named_parameters())
        here = {name: weight for name, weight in self.find_moved().items() if weight.dim() > 1}
        return losses.drift(here.values(), [start[name] for name in here])


def _is_batch_norm(module: nn.Module) -> bool:
    return isinstance(getattr(module, "running_mean", None), Tensor)


class Adaptation(NamedTuple):
    """One teacher before and after; accuracies are top-1 in percent on the validation split."""

    teacher: str
    before: float
    after: float
    drift: float
    student: float
    """Of the student through the adapted classifier of this teacher."""


def analyse_adaptations(
    teachers: Sequence[AdaptingTeacher],
    paths: Sequence[nn.Module],
    shipped: nn.Module,
    validation: Batches,
    *,
    best: int | None,
) -> Analysis:
    """Return the table on adapted teachers, and warn of those that collapsed.

    Args:
        teachers: Each with the teacher that it started as.
        paths: Through the student to the classifier of each: images [B, C, H, W] to logits [B, K].
        shipped: What is shipped of them.
        validation: The held-out images.
        best: The path that was chosen, `None` where all are shipped.
    """
    count = len(teachers)
    adaptations = [
        Adaptation(
            teacher=name_teacher(index, count),
            before=measure_accuracy(teacher.original, validation).top1_percent,
            after=measure_accuracy(teacher.network, validation).top1_percent,
            drift=float(teacher.compute_drift().detach()),
            student=measure_accuracy(path, validation).top1_percent,
        )
        for index, (teacher, path) in enumerate(zip(teachers, paths, strict=True))
    ]
    which = "mean of all" if best is None else name_teacher(best, count)
    whole = (which, measure_accuracy(shipped, validation).top1_percent) if count > 1 else None
    return describe_adaptations(adaptations, shipped=whole)


def describe_adaptations(adaptations: Sequence[Adaptation], *, shipped: tuple[str, float] | None = None) -> Analysis:
    """Return the table, and warn of teachers that lost more than `COLLAPSE_POINTS`.

    Args:
        adaptations: One for each teacher.
        shipped: What is shipped of several paths, and its top-1 in percent.
    """
    rows = []
    for each in adaptations:
        if each.after < each.before - COLLAPSE_POINTS:
            log.warning(
                "method.atsc: %s fell from %.1f to %.1f %% while it adapted; raise drift_weight, lower train.lr, or set "
                "teacher_bn: frozen", each.teacher, each.before, each.after,
            )  # fmt: skip
        change = f"{each.after - each.before:+.2f}".replace("-", "−")
        figures = (f"{each.before:.2f}", f"{each.after:.2f}", change, f"{each.drift:.4g}", f"{each.student:.2f}")
        rows.append((each.teacher, *figures))
    if shipped is not None:
        rows.append((f"shipped ({shipped[0]})", "", "", "", "", f"{shipped[1]:.2f}"))
    return Analysis(
        title="Adaptation of the teachers",
        note=(
            "Top-1 in percent on the validation split, with the selected weights. Drift is the sum of squared changes "
            "of the penalised weights. The student is measured through the adapted classifier of each teacher."
        ),
        columns=("teacher", "before", "after", "change, points", "drift", "student by its classifier"),
        rows=tuple(rows),
    )
