"""FEED, parallel: from its own feature map the student must be able to give the map of every teacher of an ensemble.

Each teacher has a small convolutional translator of the student's map, because equally good teachers lay out their features
differently. Translated map and teacher's map are compared by direction: each scaled to unit length, then L1.

Trained: the student, and a translator of its map for each teacher.
Frozen: the teachers, and their paraphrasers where there are any.
Shipped: the student.
Stages: paraphrasers if paraphrase, student
Source: 1909.10754, known by its abstract alone: several teachers, one non-linear transformation for each, in parallel; no code
was released. It extends Factor Transfer (1802.04977; Jangho-Kim/Factor-Transfer-pytorch e8d6ac6), whose code gives translator,
distance, beta 500, the last map before pooling, cross-entropy with weight 1, and the paraphraser trained by L1. Proposed by us,
not confirmed: the mean over teachers and over taps, beta that grows with the map, pooling the larger map to the smaller, no
paraphraser by default, 20 epochs of AdamW for it (the code's SGD hardly moves it on small data), and the whole analysis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import Parameter

from compress import losses
from compress.data import Batch, Batches
from compress.methods import Method, Setting, Step, require_teacher
from compress.methods._analyses.reconstruction import Maps, measure_reconstruction
from compress.methods._maps.align import pool_to
from compress.methods._maps.paraphrasers import Paraphrasers, count_factors
from compress.methods._maps.translators import Pair, build_translator, pair_taps
from compress.recipe import Count, Listing, NonNegative, Positive, Text, WholeNumber
from compress.records import Analysis

REFERENCE_ELEMENTS = 64 * 8 * 8
"""Elements of the map for which Factor Transfer chose beta 500; its distance shrinks with the square root of their number."""


class Feed(Method):
    """Cross-entropy with the labels plus the distance to every teacher's map, after a translator for each.

    Args:
        setting: Student, teachers, an image, the number of classes.
        beta: Weight of the distances, all together.
        scale_beta: Multiply beta by √(c·h·w / 4096), so that it weighs the same for maps of every size.
        teacher_reduction: Mean over the teachers (mean), or their sum (sum).
        ce_weight: Weight of the cross-entropy. Several methods on one student each add theirs; 0 leaves it to the others.
        student_taps: Which of the student's taps are translated; default the last.
        teacher_taps: The tap of every teacher for each of `student_taps`, in that order; default the last.
        paraphrase: Translate to factors of a teacher's map, this many for each of its channels, which an autoencoder learns
            before; Factor Transfer has 0.5. Default: to the map itself.
        paraphrasers_epochs: Epochs for training the autoencoders.
        paraphrasers_lr: Learning rate for training the autoencoders.
        analysis_epochs: Epochs in which fresh translators are fitted to the finished student, to report how well it gives the
            teachers' maps; 0 reports nothing.
    """

    needs_labels = ""

    method_name: ClassVar[str] = "feed"

    def __init__(
        self,
        setting: Setting,
        *,
        beta: Positive = 500.0,
        scale_beta: bool = True,
        teacher_reduction: Literal["mean", "sum"] = "mean",
        ce_weight: NonNegative = 1.0,
        student_taps: Listing[Text] | None = None,
        teacher_taps: Listing[Text] | None = None,
        paraphrase: Positive | None = None,
        paraphrasers_epochs: Count = 20,
        paraphrasers_lr: Positive = 1e-3,
        analysis_epochs: WholeNumber = 3,
    ) -> None:
        super().__init__(setting)
        require_teacher(setting, self.method_name, reads_logits="paraphrase is validated by them" if paraphrase else None)
        self.ce_weight, self.analysis_epochs = ce_weight, analysis_epochs
        self.pairs = pair_taps(setting, student_taps, teacher_taps, where=f"method.{self.method_name}")
        self.paraphrasers_stage = (
            None
            if paraphrase is None
            else Paraphrasers(setting, self.pairs, rate=paraphrase, epochs=paraphrasers_epochs, lr=paraphrasers_lr)
        )
        self.translators = nn.ModuleList(build_translator(pair.student_channels, self._channels(pair)) for pair in self.pairs)
        share = 1 / len(self.pairs) * (len(setting.teachers) if teacher_reduction == "sum" else 1)
        self.weights = [beta * share * (self._scale(pair) if scale_beta else 1) for pair in self.pairs]

    def _channels(self, pair: Pair) -> int:
        """Return the channels of what the student's map is translated to."""
        stage = self.paraphrasers_stage
        return pair.teacher_channels if stage is None else count_factors(pair, stage.rate)

    def _scale(self, pair: Pair) -> float:
        return math.sqrt(self._channels(pair) * math.prod(pair.size) / REFERENCE_ELEMENTS)

    def stages(self) -> list[Method]:
        """Return the training of the paraphrasers, where there are any, then that of the student."""
        return [self] if self.paraphrasers_stage is None else [self.paraphrasers_stage, self]

    def phases(self) -> dict[str, list[Parameter]]:
        """Return student and translators, which one optimiser trains."""
        return {"student": [*self.student.parameters(), *self.translators.parameters()]}

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the cross-entropy and the distance to each teacher's map, each []."""
        terms = {"ce": self.ce_weight * step.supervise()}
        for pair, translate, weight in zip(self.pairs, self.translators, self.weights, strict=True):
            maps = self._maps(step, pair)
            terms[f"l1.{pair.name}"] = weight * losses.factor_l1(step.apply(translate, maps.student), maps.teacher)
        return terms

    def analyse(self, train: Batches, validation: Batches) -> tuple[Analysis, ...]:
        """Return how well fresh translators of the student's maps give the teachers'."""
        if not self.analysis_epochs:
            return ()

        def maps(batch: Batch) -> Mapping[str, Maps]:
            step = self.step(batch)
            return {pair.name: self._maps(step, pair) for pair in self.pairs}

        return (measure_reconstruction(maps, train, validation, epochs=self.analysis_epochs),)

    def _maps(self, step: Step, pair: Pair) -> Maps:
        """Return the student's map, and the teacher's or its factors, at one height and width, [B, c, h, w] each."""
        student = pool_to(step.student.features[pair.student_tap], pair.size)
        stage = self.paraphrasers_stage
        if stage is None:
            teacher = step.teacher(pair.teacher).features[pair.teacher_tap]
        else:
            teacher = step.apply_to_teacher(stage.encoder(pair), pair.teacher, pair.teacher_tap)
        return Maps(student, pool_to(teacher, pair.size))
