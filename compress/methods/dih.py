"""DIH: classifier heads on the teacher's intermediate layers form a cohort that co-teaches the student.

Each tap of each teacher gets a linear head, trained on the labels while the teacher stays frozen. Teacher and heads then
teach the student together, each with the same logit loss.

Trained: first the heads, then the student.
Frozen: the teachers; in the second stage the heads too.
Shipped: the student.
Stages: heads, student
Source: 2103.00497; aryanasadianuoit/Distilling-Knowledge-via-Intermediate-Classifiers 9bddcd9, whose numbers are `preset:
paper`: a divergence at temperature 5 with share 0.1, a cross-entropy for each member (`reduction: sum`; the paper's drawing has
the labels once, `single_ce`), and heads of one linear layer on the flattened map, trained at 0.1 in steps, there for 200
epochs (`heads_epochs`). The defaults are ours: correlations instead of divergences; their mean, so that the size of
the loss does not grow with the cohort; pooled maps with standardised channels, since the loss on flattened raw maps explodes in
the first epoch and heads then learn their training images by heart; a weight decay that is not the student's; one temperature
for each head, fitted on validation. Ours too are heads but flatten and cohorts over several teachers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from compress import losses
from compress.methods import Method, Setting, Step, refuse_boxes, require_teacher
from compress.methods._heads.members import weigh_members
from compress.methods._heads.stage import Heads, HeadsTraining
from compress.methods._maps.align import resize_to
from compress.recipe import Count, Listing, LogitLoss, NonNegative, Positive, Share, Text
from compress.tasks import CLASSIFICATION

Reduction = Literal["sum", "mean", "single_ce"]
Kind = Literal["flatten", "pool4", "gap", "conv"]


class _Preset(NamedTuple):
    """Numbers of the method; fields are options of `Dih`."""

    logit_loss: LogitLoss = "dist"
    reduction: Reduction = "mean"
    head: Kind = "pool4"
    standardise: bool = True
    calibrate: bool = True
    heads_lr: float = 0.01
    heads_schedule: Mapping[str, object] = {}
    """Fields of `train` that only a preset changes for the heads."""


PRESETS = {
    "ours": _Preset(),
    "paper": _Preset(
        logit_loss="kd", reduction="sum", head="flatten", standardise=False, calibrate=False, heads_lr=0.1,
        heads_schedule={"schedule": "step", "milestones": (0.3, 0.6, 0.9), "decay": 0.2, "nesterov": True},
    ),
}  # fmt: skip


def cohort_losses(
    student: Tensor, cohort: Tensor, supervised: Tensor, alphas: Sequence[float], *, logit_loss: LogitLoss, temperature: float,
    ce_weight: float, reduction: Reduction,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """Return the weighted cross-entropy, and the weighted logit loss of each of M members.

    Args:
        student: Logits, [B, K, ...].
        cohort: Logits of the members, [M, B, K, ...].
        supervised: The loss of the student against the labels, [].
        alphas: Share of each member's logit loss against the cross-entropy.
        logit_loss: Divergence (kd) or correlations (dist).
        temperature: Divides all logits.
        ce_weight: Factor of the cross-entropy.
        reduction: See `Dih`.
    """
    count = len(alphas)
    ce_share = sum(1 - alpha for alpha in alphas) / (1 if reduction == "sum" else count)
    each = 1 / count if reduction == "mean" else 1.0
    ce = ce_weight * ce_share * supervised
    loss = losses.kd_cohort if logit_loss == "kd" else losses.dist_cohort
    values = loss(student, cohort, temperature=temperature)  # [M]
    return ce, [each * alpha * value for alpha, value in zip(alphas, values, strict=True)]


class Dih(Method):
    """A cohort of the teachers and their heads.

    Args:
        setting: Student, teachers, an image, the number of classes.
        preset: Whose numbers the options that are not given have: ours, or those of the released code (paper).
        logit_loss: Logit loss of each member: correlations (dist, the default of ours) or divergence (kd, paper).
        temperature: Softens all predictions; default 5, and 1 for dense logits.
        alpha: Share of a member's logit loss against the cross-entropy; one number, or one for each member in the order of
            `members`. 0 is refused: leave a member out by its name.
        ce_weight: Factor of all cross-entropies; 0 leaves the labels to a method that stands beside this one.
        reduction: Sum over members with a cross-entropy for each (sum, paper), the mean of that (mean, ours), or the sum of
            logit losses with one cross-entropy (single_ce).
        members: The cohort, such as teacher, head0, head2; with several teachers teacher0, teacher0_head0, teacher1. Default
            all: teacher, its heads from shallow to deep, next teacher. The number of a head is the place of its tap.
        taps: Which taps get a head, of every teacher that has one so called, or of one teacher as in teacher1.layer2; default
            all. Every head is trained and its accuracy reported, whether it teaches or not.
        head: Pool the map to 4×4 (pool4, ours) or to one value (gap) before the linear layer, flatten it (flatten, paper), or
            put a 3×3 convolution with as many channels and a ReLU before that one value (conv). Of tokens [B, t, c], pool4
            makes 16 groups of neighbours. For dense logits every head is a 1×1 convolution on the map, whatever is said here.
        standardise: Standardise the channels of a map before its head; then the learning rate fits features of any size.
            Default true; false in paper.
        calibrate: Divide the logits of each head by the temperature at which it fits the validation images best. Default true;
            false in paper, and for dense logits, whose heads are not calibrated.
        heads_epochs: Epochs for training the heads; the released code has 200, which no preset sets.
        heads_lr: Learning rate for training the heads; default 0.01, and 0.1 in paper.
        heads_weight_decay: Weight decay of the heads.
    """

    needs_labels = ""

    def __init__(
        self,
        setting: Setting,
        *,
        preset: Literal["ours", "paper"] = "ours",
        logit_loss: LogitLoss | None = None,
        temperature: Positive | None = None,
        alpha: Listing[Share] = (0.1,),
        ce_weight: NonNegative = 1.0,
        reduction: Literal["sum", "mean", "single_ce"] | None = None,
        members: Listing[Text] | None = None,
        taps: Listing[Text] | None = None,
        head: Literal["flatten", "pool4", "gap", "conv"] | None = None,
        standardise: bool | None = None,
        calibrate: bool | None = None,
        heads_epochs: Count = 20,
        heads_lr: Positive | None = None,
        heads_weight_decay: NonNegative = 5e-4,
    ) -> None:
        super().__init__(setting)
        require_teacher(setting, "dih")
        refuse_boxes(
            setting,
            "dih",
            "trains heads on inner layers, and of a detector each would be a whole detector; use dist, kd, pkd or fitnet",
        )
        given: dict[str, Any] = {
            "logit_loss": logit_loss, "reduction": reduction, "head": head, "standardise": standardise, "calibrate": calibrate,
            "heads_lr": heads_lr,
        }  # fmt: skip
        chosen = PRESETS[preset]._replace(**{name: value for name, value in given.items() if value is not None})
        self.logit_loss, self.reduction = chosen.logit_loss, chosen.reduction
        self.temperature = temperature or (1.0 if setting.task.is_dense else 5.0)
        self.ce_weight = ce_weight
        training = {"epochs": heads_epochs, "lr": chosen.heads_lr, "weight_decay": heads_weight_decay}
        heads = HeadsTraining(
            chosen.head,
            standardise=chosen.standardise,
            calibrate=chosen.calibrate and setting.task.name == CLASSIFICATION.name,
            changes=training | dict(chosen.heads_schedule),
        )
        self.heads_stage = Heads(setting, taps=taps, training=heads)
        self.alpha = weigh_members(self.heads_stage.choose_members(members), alpha)

    def stages(self) -> list[Method]:
        """Return the training of the heads, then that of the student."""
        return [self.heads_stage, self]

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the cross-entropy and the logit loss of each member of the cohort, [] each."""
        student = step.student.logits
        cohort = self.heads_stage.compute_cohort(step, self.alpha)
        ce, taught = cohort_losses(
            student, torch.stack([resize_to(each, student) for each in cohort.values()]), step.supervise(),
            tuple(self.alpha.values()),
            logit_loss=self.logit_loss, temperature=self.temperature, ce_weight=self.ce_weight, reduction=self.reduction,
        )  # fmt: skip
        return {"ce": ce} | {f"{self.logit_loss}.{name}": value for name, value in zip(self.alpha, taught, strict=True)}
