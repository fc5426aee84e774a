"""DIH: classifier heads on the teacher's intermediate layers form a cohort that co-teaches the student.

Each tap of each teacher gets a linear head, trained on the labels while the teacher stays frozen. Teacher and heads then
teach the student together, each with the same logit loss.

Trained: first the heads, then the student.
Frozen: the teachers; in the second stage the heads too.
Shipped: the student.
Stages: heads, student
Source: 2103.00497; aryanasadianuoit/Distilling-Knowledge-via-Intermediate-Classifiers 9bddcd9. Counting the cross-entropy
once per member, temperature 5, alpha 0.1 and flatten-linear heads are the released code's. Fewer epochs for heads than the
code's 200 and pooling above 32 pixels are ours; `logit_loss: dist` is our combination with DIST.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from compress import losses
from compress.errors import CompressError
from compress.methods._method import Method, Setting, Step, needs_teacher
from compress.models._network import shapes
from compress.recipe import Count, Listing, LogitLoss, Positive, Share, Text, TrainSection

FLATTEN_UP_TO_PIXELS = 32
"""Above this input size a flattened map makes heads larger than the teacher (376 M parameters for ResNet-34 at 224)."""


class Dih(Method):
    """A cohort of the teachers and their heads.

    Args:
        setting: Student, teachers, an image, the number of classes.
        logit_loss: What each member teaches with: divergence (kd) or correlations (dist).
        temperature: Softens all predictions.
        alpha: Share of a member's logit loss against the cross-entropy; one number, or one for each member in the order
            teacher, its heads from shallow to deep, next teacher. A member with 0 is left out.
        reduction: Sum over members with a cross-entropy for each (sum), the mean of that (mean), or the sum of logit
            losses with one cross-entropy (single_ce).
        taps: Which of the teacher's taps get a head; default all.
        head: Flatten the map (flatten), pool it to 4×4 (pool4) or to one value (gap) before the linear layer; auto
            flattens up to 32 pixels of input and pools to 4×4 above.
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
        reduction: Literal["sum", "mean", "single_ce"] = "sum",
        taps: Listing[Text] | None = None,
        head: Literal["auto", "flatten", "pool4", "gap"] = "auto",
        heads_epochs: Count = 20,
        heads_lr: Positive = 0.01,
    ) -> None:
        super().__init__(setting)
        needs_teacher(setting, "dih")
        self.logit_loss, self.temperature, self.reduction = logit_loss, temperature, reduction
        kind = head if head != "auto" else ("flatten" if max(setting.image.shape[2:]) <= FLATTEN_UP_TO_PIXELS else "pool4")
        self.heads_stage = _Heads(setting, taps=taps, head=kind, epochs=heads_epochs, lr=heads_lr)
        self.alpha = self._alphas(alpha)

    def _alphas(self, alpha: tuple[float, ...]) -> dict[str, float]:
        names = self.heads_stage.members()
        if len(alpha) not in (1, len(names)):
            raise CompressError(f"method.dih.alpha: has {len(alpha)} numbers; give one, or one for each of: {', '.join(names)}")
        weights = dict(zip(names, alpha if len(alpha) > 1 else alpha * len(names), strict=True))
        if not any(weights.values()):
            raise CompressError("method.dih.alpha: is 0 for every member, so nobody teaches; use method 'supervised' for that")
        return {name: weight for name, weight in weights.items() if weight > 0}

    def stages(self) -> list[Method]:
        """Return the training of the heads, then that of the student."""
        return [self.heads_stage, self]

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the cross-entropy and the logit loss of each member of the cohort."""
        student = step.student.logits
        members = {name: logits for name, logits in self.heads_stage.cohort(step).items() if name in self.alpha}
        each = 1 / len(members) if self.reduction == "mean" else 1.0
        ce_share = sum(1 - self.alpha[name] for name in members) * (1 / len(members) if self.reduction != "sum" else 1.0)
        terms = {"ce": ce_share * F.cross_entropy(student.float(), step.batch.labels)}
        for name, logits in members.items():
            terms[f"{self.logit_loss}.{name}"] = each * self.alpha[name] * self._teach(student, logits)
        return terms

    def _teach(self, student: Tensor, member: Tensor) -> Tensor:
        loss = losses.kd if self.logit_loss == "kd" else losses.dist
        return loss(student, member, temperature=self.temperature)


class _Heads(Method):
    """The first stage: a linear head on each tap of each teacher, trained on the labels."""

    stage = "heads"

    def __init__(self, setting: Setting, *, taps: tuple[str, ...] | None, head: str, epochs: int, lr: float) -> None:
        super().__init__(setting)
        self.epochs, self.lr, self.kind = epochs, lr, head
        self.heads = nn.ModuleDict()
        self.places: dict[str, tuple[int, int]] = {}
        for index, teacher in enumerate(setting.teachers):
            wanted = teacher.taps if taps is None else taps
            unknown = [tap for tap in wanted if tap not in teacher.taps]
            if unknown or not wanted:
                raise CompressError(f"method.dih.taps: teacher {index} has no tap {unknown}; it has: {', '.join(teacher.taps)}")
            features = shapes(teacher, setting.image).features
            for tap in wanted:
                place = teacher.taps.index(tap)
                name = f"{_prefix(index, setting)}head{place}"
                self.heads[name] = _head(head, features[place], setting.classes)
                self.places[name] = (index, place)

    def members(self) -> list[str]:
        """Return the names of the cohort: each teacher, then its heads from shallow to deep."""
        names = []
        for index in range(len(self.teachers)):
            names.append(self._teacher_name(index))
            names += [name for name, (owner, _) in self.places.items() if owner == index]
        return names

    def cohort(self, step: Step) -> dict[str, Tensor]:
        """Return the logits of every member, [B, K] each."""
        answers = {}
        for name in self.members():
            if name in self.places:
                index, place = self.places[name]
                answers[name] = step.on_teacher(self.heads[name], index, place)
            else:
                answers[name] = step.teacher(self._teacher_index(name)).logits
        return answers

    def phases(self) -> dict[str, list[Parameter]]:
        """Return the heads alone."""
        return {"heads": list(self.heads.parameters())}

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the cross-entropy of each head."""
        heads = self._answers(step)
        return {f"ce.{name}": F.cross_entropy(logits.float(), step.batch.labels) for name, logits in heads.items()}

    def predictions(self, step: Step) -> dict[str, Tensor]:
        """Return the logits of each head."""
        return self._answers(step)

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

    def _answers(self, step: Step) -> dict[str, Tensor]:
        return {name: logits for name, logits in self.cohort(step).items() if name in self.places}

    def _teacher_name(self, index: int) -> str:
        return "teacher" if len(self.teachers) == 1 else f"teacher{index}"

    def _teacher_index(self, name: str) -> int:
        return int(name.removeprefix("teacher") or 0)


def _prefix(index: int, setting: Setting) -> str:
    return "" if len(setting.teachers) == 1 else f"teacher{index}_"


def _head(kind: str, feature: Tensor, classes: int) -> nn.Module:
    """Return a head for a feature map of this shape, [B, c, h, w] -> [B, classes]."""
    if feature.dim() != 4:
        raise CompressError(f"method.dih: a tap gives {list(feature.shape)}; a head needs a feature map [B, c, h, w]")
    channels, height, width = feature.shape[1:]
    side = {"flatten": None, "pool4": 4, "gap": 1}[kind]
    if side is None or max(height, width) <= side:
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, classes))
    return nn.Sequential(nn.AdaptiveAvgPool2d(side), nn.Flatten(), nn.Linear(channels * side * side, classes))
