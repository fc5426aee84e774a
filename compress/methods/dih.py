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

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from compress import losses
from compress.errors import CompressError
from compress.methods import Method, Setting, Step, require_teacher
from compress.models import find_shapes
from compress.recipe import Count, Listing, LogitLoss, NonNegative, Positive, Share, Text, TrainSection
from compress.text import name_teacher

FLATTEN_UP_TO_PIXELS = 32
"""Above this input size a flattened map makes heads larger than the teacher (376 M parameters for ResNet-34 at 224)."""


class Dih(Method):
    """A cohort of the teachers and their heads.

    Args:
        setting: Student, teachers, an image, the number of classes.
        logit_loss: What each member teaches with: divergence (kd) or correlations (dist).
        temperature: Softens all predictions.
        alpha: Share of a member's logit loss against the cross-entropy; one number, or one for each member in the order of
            `members`. 0 is refused: leave a member out by its name.
        ce_weight: Factor of all cross-entropies; 0 leaves the labels to a method that stands beside this one.
        reduction: Sum over members with a cross-entropy for each (sum), the mean of that (mean), or the sum of logit
            losses with one cross-entropy (single_ce).
        members: Who teaches, such as teacher, head0, head2; with several teachers teacher0, teacher0_head0, teacher1. Default
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
        self.heads_stage = _Heads(setting, taps=taps, head=kind, epochs=heads_epochs, lr=heads_lr)
        self.alpha = _weigh_members(self.heads_stage.chosen(members), alpha)

    def stages(self) -> list[Method]:
        """Return the training of the heads, then that of the student."""
        return [self.heads_stage, self]

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the cross-entropy and the logit loss of each member of the cohort."""
        student = step.student.logits
        count = len(self.alpha)
        ce_share = sum(1 - alpha for alpha in self.alpha.values()) / (1 if self.reduction == "sum" else count)
        each = 1 / count if self.reduction == "mean" else 1.0
        terms = {"ce": self.ce_weight * ce_share * F.cross_entropy(student.float(), step.batch.labels)}
        taught = self._teach(student, self.heads_stage.compute_cohort(step, self.alpha))  # [M]
        for (name, alpha), value in zip(self.alpha.items(), taught, strict=True):
            terms[f"{self.logit_loss}.{name}"] = each * alpha * value
        return terms

    def _teach(self, student: Tensor, cohort: Mapping[str, Tensor]) -> Tensor:
        loss = losses.kd_cohort if self.logit_loss == "kd" else losses.dist_cohort
        return loss(student, torch.stack(list(cohort.values())), temperature=self.temperature)


def _weigh_members(members: list[str], alpha: tuple[float, ...]) -> dict[str, float]:
    """Return the weight of each member of the cohort."""
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


class _Heads(Method):
    """The first stage: a linear head on each tap of each teacher, trained on the labels."""

    stage = "heads"

    def __init__(self, setting: Setting, *, taps: tuple[str, ...] | None, head: str, epochs: int, lr: float) -> None:
        super().__init__(setting)
        self.epochs, self.lr, self.kind = epochs, lr, head
        self.heads = nn.ModuleDict()
        self.places: dict[str, tuple[int, int]] = {}
        self.owners: dict[str, int] = {}
        wanted = _find_head_taps(setting, taps)
        for index, teacher in enumerate(setting.teachers):
            self.owners[name_teacher(index, len(setting.teachers))] = index
            features = find_shapes(teacher, setting.image).features
            for place in wanted[index]:
                name = f"head{place}" if len(setting.teachers) == 1 else f"teacher{index}_head{place}"
                self.heads[name] = _build_head(head, features[place], setting.classes, teacher.taps[place])
                self.places[name] = (index, place)

    def members(self) -> list[str]:
        """Return the names of everybody who can teach: each teacher, then its heads from shallow to deep."""
        names = []
        for teacher, index in self.owners.items():
            names += [teacher, *(name for name, (owner, _) in self.places.items() if owner == index)]
        return names

    def chosen(self, members: tuple[str, ...] | None) -> list[str]:
        """Return the names of the cohort, refusing one that has nobody, somebody unknown or twice, or no head."""
        where, known = "method.dih.members", self.members()
        wanted = known if members is None else list(members)
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise CompressError(f"{where}: there is no {unknown[0]!r}; there are: {', '.join(known)}")
        if len(set(wanted)) < len(wanted):
            raise CompressError(f"{where}: {', '.join(wanted)} names somebody twice; name each once, with a larger alpha")
        if not any(name in self.places for name in wanted):
            raise CompressError(
                f"{where}: {', '.join(wanted) or 'nobody'} is no head; add one of: {', '.join(self.places)}, or use method 'kd'"
            )
        return wanted

    def compute_cohort(self, step: Step, names: Iterable[str]) -> dict[str, Tensor]:
        """Return the logits of members, [B, K] each."""
        answers = {}
        for name in names:
            if name in self.places:
                index, place = self.places[name]
                answers[name] = step.apply_to_teacher(self.heads[name], index, place)
            else:
                answers[name] = step.teacher(self.owners[name]).logits
        return answers

    def phases(self) -> dict[str, list[Parameter]]:
        """Return the heads alone."""
        return {"heads": list(self.heads.parameters())}

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the cross-entropy of each head."""
        heads = self.compute_cohort(step, self.places)
        return {f"ce.{name}": F.cross_entropy(logits.float(), step.batch.labels) for name, logits in heads.items()}

    def predictions(self, step: Step) -> dict[str, Tensor]:
        """Return the logits of each head."""
        return self.compute_cohort(step, self.places)

    def product(self) -> nn.Module:
        """Return the heads."""
        return self.heads

    def schedule(self, settings: TrainSection) -> TrainSection:
        """Return a short cosine schedule: heads are linear probes."""
        plain = {"schedule": "cosine", "optimizer": "sgd", "warmup_epochs": 0.0, "ema_decay": None}
        return settings.model_copy(update={"epochs": self.epochs, "lr": self.lr, **plain})

    def identity(self) -> Mapping[str, object]:
        """Return the taps and the kind of head."""
        return {"heads": sorted(self.places.items()), "kind": self.kind}


def _find_head_taps(setting: Setting, taps: tuple[str, ...] | None) -> list[list[int]]:
    """Return for each teacher the places of the taps that get a head."""
    names = [name_teacher(index, len(setting.teachers)) for index in range(len(setting.teachers))]
    owned = [
        {tap: (tap, f"{name}.{tap}") for tap in teacher.taps} for name, teacher in zip(names, setting.teachers, strict=True)
    ]
    known = {called for taps_of in owned for both in taps_of.values() for called in both}
    unknown = [tap for tap in taps or () if tap not in known]
    if unknown or taps == () or not known:
        there = "; ".join(f"{name}: {', '.join(taps_of) or 'none'}" for name, taps_of in zip(names, owned, strict=True))
        what = f"there is no tap {unknown[0]!r}" if unknown else "there is no tap to put a head on"
        raise CompressError(f"method.dih.taps: {what}; name some of the taps that there are: {there}")
    return [
        [place for place, both in enumerate(taps_of.values()) if taps is None or not set(both).isdisjoint(taps)]
        for taps_of in owned
    ]


def _build_head(kind: str, feature: Tensor, classes: int, tap: str) -> nn.Module:
    """Return a head for maps [B, c, h, w], tokens [B, t, c] or vectors [B, c], that gives logits [B, classes]."""
    side = {"flatten": None, "pool4": 4, "gap": 1, "conv": 1}[kind]
    if feature.dim() not in (2, 3, 4):
        raise CompressError(
            f"method.dih.taps: {tap!r} gives {list(feature.shape)}; name taps with maps [B, c, h, w], tokens [B, t, c] or "
            "vectors [B, c]"
        )
    if kind == "conv" and feature.dim() != 4:
        raise CompressError(
            f"method.dih.head: 'conv' needs maps [B, c, h, w], and {tap!r} gives {list(feature.shape)}; use gap"
        )
    if side is None or feature.dim() == 2:
        return nn.Sequential(nn.Flatten(), nn.Linear(feature[0].numel(), classes))
    if feature.dim() == 3:
        cells = min(side**2, feature.shape[1])
        return nn.Sequential(
            _ChannelsFirst(), nn.AdaptiveAvgPool1d(cells), nn.Flatten(), nn.Linear(feature.shape[2] * cells, classes)
        )
    height, width = (min(side, size) for size in feature.shape[2:])
    channels = feature.shape[1]
    before = [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()] if kind == "conv" else []
    return nn.Sequential(
        *before, nn.AdaptiveAvgPool2d((height, width)), nn.Flatten(), nn.Linear(feature.shape[1] * height * width, classes)
    )


class _ChannelsFirst(nn.Module):
    """Tokens [B, t, c] as [B, c, t], which is what pools read."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.transpose(1, 2)
