"""FEED, sequential: generations of one student, each of which learns from the one before.

The first generation learns from the given teachers as in `feed`. Every later one starts from random weights and has the
finished generation before as its only teacher. Each is kept as a stage of its own; the last is the student.

Trained: the student, and a translator of its map for each of its teachers.
Frozen: the teachers of the first generation, the generation before of every other.
Shipped: the student.
Stages: generation1 to generation{generations - 1}, student
Source: 1909.10754, known by its abstract alone: the teachers' information is fed one stage after another; no code was released.
Proposed by us, not confirmed: fresh weights for every generation, three generations, the cross-entropy in each, and that nobody
but the generation before teaches. The loss is that of `feed`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from torch import nn

from compress.data import Batches
from compress.methods import Method, Setting, require_teacher
from compress.methods._analyses.accuracy import measure_accuracy
from compress.methods.feed import Feed
from compress.models import Network
from compress.recipe import Count, Listing, NonNegative, Positive, Text, WholeNumber
from compress.records import Analysis


class FeedSequential(Method):
    """Cross-entropy with the labels plus the distance to the map of the generation before, after a translator.

    Args:
        setting: Student, teachers, an image, the number of classes, and how to build one more student.
        generations: How many students are trained one after the other; the last is shipped.
        beta: Weight of the distances, all together.
        scale_beta: Multiply beta by √(c·h·w / 4096), so that it weighs the same for maps of every size.
        teacher_reduction: For the first generation: mean over the teachers (mean), or their sum (sum).
        ce_weight: Weight of the cross-entropy.
        student_taps: Which of the student's taps are translated, and learnt from by the next generation; default the last.
        teacher_taps: The tap of every given teacher for each of `student_taps`, in that order; default the last.
        analysis_epochs: Epochs in which fresh translators are fitted to each finished generation, to report how well it gives
            its teachers' maps; 0 reports nothing.
    """

    needs_labels = ""

    def __init__(
        self,
        setting: Setting,
        *,
        generations: Count = 3,
        beta: Positive = 500.0,
        scale_beta: bool = True,
        teacher_reduction: Literal["mean", "sum"] = "mean",
        ce_weight: NonNegative = 1.0,
        student_taps: Listing[Text] | None = None,
        teacher_taps: Listing[Text] | None = None,
        analysis_epochs: WholeNumber = 0,
    ) -> None:
        super().__init__(setting)
        require_teacher(setting, "feed_sequential", reads_logits=None)
        names = [*(f"generation{number}" for number in range(1, generations)), "student"]
        students = [*(setting.another(name) for name in names[:-1]), setting.student]
        self._stages: list[_Generation] = []
        for name, student in zip(names, students, strict=True):
            first = not self._stages
            generation = _Generation(
                setting._replace(student=student, teachers=setting.teachers if first else (self._stages[-1].student,)),
                beta=beta,
                scale_beta=scale_beta,
                teacher_reduction=teacher_reduction,
                ce_weight=ce_weight,
                student_taps=student_taps,
                teacher_taps=teacher_taps if first else student_taps,
                analysis_epochs=analysis_epochs,
            )
            generation.stage = name
            self._stages.append(generation)
        self._stages[-1].line = students
        self.generations = nn.ModuleList(self._stages)

    def stages(self) -> list[Method]:
        """Return the generations, first to last."""
        return list(self._stages)


class _Generation(Feed):
    """One generation: FEED from the generation before, or from the given teachers."""

    method_name: ClassVar[str] = "feed_sequential"
    stage: str = "student"  # type: ignore[misc]  # each generation is a stage of its own
    line: Sequence[Network] = ()
    """All generations, first to last, where this is the last."""

    def identity(self) -> Mapping[str, object]:
        """Return what is compared, and with which weights."""
        return {
            "pairs": self.pairs,
            "weights": self.weights,
            "ce_weight": self.ce_weight,
            "analysis_epochs": self.analysis_epochs,
        }

    def analyse(self, train: Batches, validation: Batches) -> tuple[Analysis, ...]:
        """Return the reconstruction, and with the last generation the accuracy of all."""
        tables = super().analyse(train, validation)
        if not self.line:
            return tables
        found = [measure_accuracy(network, validation, self.task) for network in self.line]
        rows = [
            (str(number), f"{score.percent:.2f}", f"{score.ci95[0]:.1f} to {score.ci95[1]:.1f}", str(score.samples))
            for number, score in enumerate(found, 1)
        ]
        note = "Each generation learnt from the one before, the first from the teachers; the last is shipped."
        columns = ("generation", "validation top-1, %", "95 % interval", "images")
        return (Analysis(title="Generations", note=note, columns=columns, rows=tuple(rows)), *tables)
