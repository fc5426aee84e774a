"""DSKD: the teacher's predictions and its last feature map supervise the student's shallow layers.

An adapter takes the map of each shallow tap to the shape of the teacher's last map, and an auxiliary classifier on the adapted
map gives logits. Both answer for the layer: the logits to the teacher's, the map to the teacher's. In each batch the layer
that lags most gets the most weight, separately among the predictions and among the maps.

Trained: the student, and an adapter and an auxiliary classifier for each shallow tap and teacher.
Frozen: the teachers.
Shipped: the student.
Stages: student
Source: 2202.07846, known by its abstract alone: which signals, shallow layers, weights from losses; no code was released.
Everything else is proposed by us, not confirmed: equations, direction and detachment of the weights (as in leahphw/babylm
9d4ddee by readers of the paper), one step without momentum, alpha 1, the last layer left out, the classifier, and the mean
over several teachers. Cross-entropy and divergence with weight 1, temperature 4 and the adapter are those of the same group's
toolbox, DefangChen/SimKD 2b389c3, whose beta 100 on the plain squared difference of maps is `preset: simkd`. Ours are maps
whose channels are standardised first, as in method `pkd`, and correlations (`logit_loss: dist`) without temperature², as in
method `dist`: the gradient is then a few times that of cross-entropy for maps and temperatures of any size
(benchmarks/results/scales_maps).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from compress import losses
from compress.errors import CompressError
from compress.methods import Method, Setting, Step, refuse_boxes, require_teacher
from compress.methods._maps.align import pool_to, resize_to
from compress.methods._maps.shallow import average_by_tap, build_adapter, build_classifier, choose_taps, find_places
from compress.recipe import Count, Listing, LogitLoss, NonNegative, Positive, Text

Weighting = Literal["softmax", "uniform", "softmax_neg"]


def weigh_layers(values: Tensor, *, weighting: Weighting, temperature: float) -> Tensor:
    """Return the weights of a group's losses, [L] -> [L]; they sum to one and carry no gradient.

    Args:
        values: A loss for each of L layers.
        weighting: More for a larger loss (softmax), less for a larger loss (softmax_neg), or even (uniform).
        temperature: Divides the losses before the softmax.
    """
    if weighting == "uniform":
        return torch.full_like(values, 1 / len(values))
    return losses.softmax_weights(values if weighting == "softmax" else -values, temperature=temperature)


class _Preset(NamedTuple):
    beta: float
    standardise: bool
    """Whether the channels of maps are standardised before they are compared."""
    tau2: bool
    """Whether correlations are multiplied by temperature²."""


PRESETS = {"ours": _Preset(20.0, standardise=True, tau2=False), "simkd": _Preset(100.0, standardise=False, tau2=True)}


class Dskd(Method):
    """Cross-entropy, the logit loss of the final logits, and the two groups of weighted losses of the shallow taps.

    A layer's loss is the mean over the teachers, each with an adapter and a classifier of its own, so that their maps may
    differ in width and size; the weights are those of the means.

    Args:
        setting: Student, teachers, an image, the number of classes.
        taps: Which of the student's taps are shallow; default all but the last, which may be named too.
        preset: How maps and correlations are weighed: half the squared difference of maps with standardised channels with beta
            20, and no temperature² (ours); or the squared difference itself with beta 100, and temperature² (simkd).
        logit_loss: What final and shallow logits are taught with: divergence (kd) or correlations (dist).
        temperature: Softens all predictions; default 4, and 1 for dense logits.
        ce_weight: Weight of the cross-entropy; 0 where another method on the same student brings it.
        kd_weight: Weight of the logit loss of the final logits; 0 leaves it out.
        alpha: Weight of the logit losses of the shallow taps, all together; 0 leaves them and the classifiers out.
        beta: Weight of the feature losses of the shallow taps, all together; default: the preset's. 0 leaves them out.
        weighting: How a group's weight is shared among the taps: more for a larger loss (softmax), less for a larger loss
            (softmax_neg), or evenly (uniform).
        weight_temperature: Divides the losses before that softmax; larger is more even.
        adapter_channels: Channels inside an adapter; default twice the teacher's. Its weights, which are not shipped, grow
            with the square.
    """

    needs_labels = ""

    def __init__(
        self,
        setting: Setting,
        *,
        taps: Listing[Text] | None = None,
        preset: Literal["ours", "simkd"] = "ours",
        logit_loss: LogitLoss = "kd",
        temperature: Positive | None = None,
        ce_weight: NonNegative = 1.0,
        kd_weight: NonNegative = 1.0,
        alpha: NonNegative = 1.0,
        beta: NonNegative | None = None,
        weighting: Literal["softmax", "uniform", "softmax_neg"] = "softmax",
        weight_temperature: Positive = 1.0,
        adapter_channels: Count | None = None,
    ) -> None:
        super().__init__(setting)
        require_teacher(setting, "dskd", reads_logits="kd_weight or alpha is above 0" if kd_weight or alpha else None)
        refuse_boxes(
            setting,
            "dskd",
            "trains heads on inner layers, and of a detector each would be a whole detector; use dist, kd, pkd or fitnet",
        )
        self.numbers = PRESETS[preset]
        beta = self.numbers.beta if beta is None else beta
        if alpha == 0 and beta == 0:
            raise CompressError("method.dskd: alpha and beta are 0, so nothing supervises shallow layers; use method 'kd'")
        self.logit_loss = logit_loss
        self.temperature = temperature or (1.0 if setting.task.is_dense else 4.0)
        self.ce_weight, self.kd_weight, self.alpha, self.beta = ce_weight, kd_weight, alpha, beta
        self.weighting, self.weight_temperature = weighting, weight_temperature
        self.places = find_places(setting, choose_taps(setting.student, taps))
        self.adapters = nn.ModuleList(
            build_adapter(place.student_channels, adapter_channels or 2 * place.teacher_channels, place.teacher_channels)
            for place in self.places
        )
        self.classifiers = nn.ModuleList(
            build_classifier(place.teacher_channels, setting.classes, is_dense=setting.task.is_dense)
            for place in self.places
            if alpha > 0
        )

    def phases(self) -> dict[str, list[Parameter]]:
        """Return student, adapters and classifiers, which one optimiser trains."""
        own = [*self.adapters.parameters(), *self.classifiers.parameters()]
        return {"student": [*self.student.parameters(), *own]}

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the cross-entropy, the logit loss, and for each shallow tap its two weighted losses, each []."""
        student = step.student.logits.float()
        terms = {"ce": self.ce_weight * step.supervise()}
        if self.kd_weight > 0:
            each = [self._teach(student, step.teacher(i).logits) for i in range(len(self.teachers))]
            terms[self.logit_loss] = self.kd_weight * torch.stack(each).mean()
        adapted = self._adapt(step)
        if self.alpha > 0:
            shares = self._weigh(step, "class", self._compute_class_losses(step, adapted))
            terms |= {f"{self.logit_loss}.{tap}": self.alpha * value for tap, value in shares.items()}
        if self.beta > 0:
            shares = self._weigh(step, "feature", self._compute_feature_losses(step, adapted))
            terms |= {f"mse.{tap}": self.beta * value for tap, value in shares.items()}
        return terms

    def _adapt(self, step: Step) -> list[Tensor]:
        """Return the student's map in the shape of the teacher's for each place, [B, c, h, w]."""
        maps = [pool_to(step.student.features[place.student_tap], place.size) for place in self.places]
        return [step.apply(adapter, features) for adapter, features in zip(self.adapters, maps, strict=True)]

    def _compute_class_losses(self, step: Step, adapted: Sequence[Tensor]) -> dict[str, Tensor]:
        each = []
        for place, classifier, features in zip(self.places, self.classifiers, adapted, strict=True):
            each.append(self._teach(step.apply(classifier, features), step.teacher(place.teacher).logits))
        return average_by_tap(self.places, each)

    def _compute_feature_losses(self, step: Step, adapted: Sequence[Tensor]) -> dict[str, Tensor]:
        compare = losses.pkd if self.numbers.standardise else losses.feature_mse
        each = []
        for place, features in zip(self.places, adapted, strict=True):
            each.append(compare(features, pool_to(step.teacher(place.teacher).features[-1], place.size)))
        return average_by_tap(self.places, each)

    def _weigh(self, step: Step, group: str, by_tap: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return each tap's loss times its weight within the group, []; the weights are logged and carry no gradient."""
        values = torch.stack(list(by_tap.values()))  # [L]
        weights = weigh_layers(values, weighting=self.weighting, temperature=self.weight_temperature)
        for tap, weight in zip(by_tap, weights, strict=True):
            step.observe(f"{group}_weight.{tap}", weight)
        return {tap: weight * value for (tap, value), weight in zip(by_tap.items(), weights, strict=True)}

    def _teach(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the logit loss, [B, K, ...] with [B, K, ...] -> []."""
        target = resize_to(teacher, student)
        if self.logit_loss == "kd":
            return losses.kd(student, target, temperature=self.temperature)
        return losses.dist(student, target, temperature=self.temperature, tau2=self.numbers.tau2)
