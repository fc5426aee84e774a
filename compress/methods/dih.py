"""DIH: classifier heads on the teacher's intermediate layers form a cohort that co-teaches the student.

Each tap of each teacher gets a linear head, trained on the labels while the teacher stays frozen. Teacher and heads then
teach the student together, each with the same logit loss.

Trained: first the heads, then the student.
Frozen: the teachers; in the second stage the heads too.
Shipped: the student.
Stages: heads, student
Source: 2103.00497; aryanasadianuoit/Distilling-Knowledge-via-Intermediate-Classifiers 9bddcd9. Counting the cross-entropy
once per member (`reduction: sum`), temperature 5, alpha 0.1 and flatten-linear heads are the released code's; the paper's
drawing has the labels once (`single_ce`). Fewer epochs for heads than the code's 200, pooling above 32 pixels and cohorts over
several teachers are ours, as are all heads but flatten. So is `logit_loss: dist`; with it, as with several teachers,
`reduction: mean` keeps the size of the loss apart from the size of the cohort, but like every default of this method `sum`
stays until you say otherwise. Mind that alpha 0.1 at temperature 5 weighs correlations a twelfth of what method `dist` does
against the labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from compress import losses
from compress.errors import CompressError
from compress.methods import Method, Setting, Step, require_teacher
from compress.methods._heads import Heads
from compress.recipe import Count, Listing, LogitLoss, NonNegative, Positive, Share, Text

FLATTEN_UP_TO_PIXELS = 32
"""Above this input size a flattened map makes heads larger than the teacher (376 M parameters for ResNet-34 at 224)."""

Reduction = Literal["sum", "mean", "single_ce"]


def cohort_losses(
    student: Tensor, cohort: Tensor, labels: Tensor, alphas: Sequence[float], *, logit_loss: LogitLoss, temperature: float,
    ce_weight: float, reduction: Reduction,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """Return the weighted cross-entropy, and the weighted logit loss of each of M members.

    Args:
        student: Logits, [B, K].
        cohort: Logits of the members, [M, B, K].
        labels: [B].
        alphas: Share of each member's logit loss against the cross-entropy.
        logit_loss: Divergence (kd) or correlations (dist).
        temperature: Divides all logits.
        ce_weight: Factor of the cross-entropy.
        reduction: See `Dih`.
    """
    count = len(alphas)
    ce_share = sum(1 - alpha for alpha in alphas) / (1 if reduction == "sum" else count)
    each = 1 / count if reduction == "mean" else 1.0
    ce = ce_weight * ce_share * F.cross_entropy(student.float(), labels)
    loss = losses.kd_cohort if logit_loss == "kd" else losses.dist_cohort
    values = loss(student, cohort, temperature=temperature)  # [M]
    return ce, [each * alpha * value for alpha, value in zip(alphas, values, strict=True)]


class Dih(Method):
    """A cohort of the teachers and their heads.

    Args:
        setting: Student, teachers, an image, the number of classes.
        logit_loss: Logit loss of each member: divergence (kd) or correlations (dist).
        temperature: Softens all predictions.
        alpha: Share of a member's logit loss against the cross-entropy; one number, or one for each member in the order of
            `members`. 0 is refused: leave a member out by its name.
        ce_weight: Factor of all cross-entropies; 0 leaves the labels to a method that stands beside this one.
        reduction: Sum over members with a cross-entropy for each (sum), the mean of that (mean), or the sum of logit
            losses with one cross-entropy (single_ce).
        members: The cohort, such as teacher, head0, head2; with several teachers teacher0, teacher0_head0, teacher1. Default
            all: teacher, its heads from shallow to deep, next teacher. The number of a head is the place of its tap.
        taps: Which taps get a head, of every teacher that has one so called, or of one teacher as in teacher1.layer2; default
            all. Every head is trained and its accuracy reported, whether it teaches or not.
        head: Flatten the map (flatten), pool it to 4×4 (pool4) or to one value (gap) before the linear layer, or put a 3×3
            convolution with as many channels and a ReLU before that one value (conv); auto flattens up to 32 pixels of input
            and pools to 4×4 above. Of tokens [B, t, c], pool4 makes 16 groups of neighbours.
        heads_epochs: Epochs for training the heads.
        heads_lr: Learning rate for training the heads.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        logit_loss: LogitLoss = "kd",
        temperature: Positive = 5.0,
        alpha: Listing[Share] = (0.1,),
        ce_weight: NonNegative = 1.0,
        reduction: Literal["sum", "mean", "single_ce"] = "sum",
        members: Listing[Text] | None = None,
        taps: Listing[Text] | None = None,
        head: Literal["auto", "flatten", "pool4", "gap", "conv"] = "auto",
        heads_epochs: Count = 20,
        heads_lr: Positive = 0.01,
    ) -> None:
        super().__init__(setting)
        require_teacher(setting, "dih")
        self.logit_loss, self.temperature, self.reduction, self.ce_weight = logit_loss, temperature, reduction, ce_weight
        kind = head if head != "auto" else ("flatten" if max(setting.image.shape[2:]) <= FLATTEN_UP_TO_PIXELS else "pool4")
        self.heads_stage = Heads(setting, taps=taps, head=kind, epochs=heads_epochs, lr=heads_lr)
        self.alpha = _weigh_members(self.heads_stage.choose_members(members), alpha)

    def stages(self) -> list[Method]:
        """Return the training of the heads, then that of the student."""
        return [self.heads_stage, self]

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the cross-entropy and the logit loss of each member of the cohort, [] each."""
        student = step.student.logits
        cohort = self.heads_stage.compute_cohort(step, self.alpha)
        ce, taught = cohort_losses(
            student, torch.stack(list(cohort.values())), step.batch.labels, tuple(self.alpha.values()),
            logit_loss=self.logit_loss, temperature=self.temperature, ce_weight=self.ce_weight, reduction=self.reduction,
        )  # fmt: skip
        return {"ce": ce} | {f"{self.logit_loss}.{name}": value for name, value in zip(self.alpha, taught, strict=True)}


def _weigh_members(members: list[str], alpha: tuple[float, ...]) -> dict[str, float]:
    """Return the alpha of each member of the cohort.

    Raises:
        CompressError: There are neither one nor as many as members, or one is 0.
    """
    where = "method.dih.alpha"
    if len(alpha) not in (1, len(members)):
        raise CompressError(f"{where}: has {len(alpha)} numbers; give one, or one for each of: {', '.join(members)}")
    weights = dict(zip(members, alpha if len(alpha) > 1 else alpha * len(members), strict=True))
    teaching = [name for name, weight in weights.items() if weight > 0]
    if not teaching:
        raise CompressError(f"{where}: is 0 for every member, so the teachers are ignored; use method 'supervised' for that")
    if len(teaching) < len(members):
        silent = ", ".join(name for name in members if name not in teaching)
        raise CompressError(
            f"{where}: is 0 for {silent}, which is then ignored; leave it out by name: `members: [{', '.join(teaching)}]`, "
            "with alpha for these alone"
        )
    return weights
