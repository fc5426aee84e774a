"""A budget against the teacher is about the file, in the gate's metric, and says what few images cannot."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compress.events import Events
from compress.recipe import ExportSection, GateSection, Metric
from compress.records import Accuracy, Gate, Variant
from compress.run.export import ExportedFile
from compress.run.teacher_budget import hold_to_teacher
from compress.run.verify import SplitLogits
from compress.tasks import CLASSIFICATION

LABELS = np.repeat([0, 1], [180, 20])
"""Of 200 validation images, nine in ten are of class 0."""


def _answer(wrong_of_0: int, wrong_of_1: int) -> SplitLogits:
    """Return logits that are wrong on so many images of each class, the first ones."""
    right = np.ones(len(LABELS), dtype=bool)
    right[:wrong_of_0] = right[180 : 180 + wrong_of_1] = False
    logits = np.eye(2, dtype=np.float32)[np.where(right, LABELS, 1 - LABELS)]
    return SplitLogits(logits, logits)


def _hold(student: SplitLogits, teachers: dict[str, SplitLogits], *, budget: float | None, metric: Metric = "top1") -> Gate:
    gate = GateSection(max_drop_from_teacher_points=budget, metric=metric)
    data = SimpleNamespace(task=CLASSIFICATION)
    run: Any = SimpleNamespace(recipe=SimpleNamespace(gate=gate), validation_labels=LABELS, events=Events(), data=data)
    predicted: NDArray[np.int64] = student.validation.argmax(axis=1)
    validation = Accuracy.from_predictions(predicted.tolist(), LABELS.tolist(), 2)
    variant = Variant(
        name="student-onnx-fp32", network="student", method="kd", format="onnx", runtime="onnxruntime", precision="fp32",
        device="local", parameters=1, validation=validation, status="passed",
    )  # fmt: skip
    verdict = Gate(status="passed", reason="", samples=len(LABELS), note="its own note")
    item = ExportedFile(variant, verdict, Path(), Path(), ExportSection(format="onnx"), 0.0, student, ())
    held = hold_to_teacher(run, item, student, teachers)
    assert held.variant.status == held.gate.status
    return held.gate


def test_without_a_budget_nothing_is_held_against_the_teacher() -> None:
    """By default a file is judged against its own network alone."""
    assert _hold(_answer(90, 20), {"teacher": _answer(0, 0)}, budget=None).note == "its own note"


@pytest.mark.parametrize(("budget", "status"), [(4.9, "failed"), (5.0, "passed"), (100.0, "passed")])
def test_a_drop_beyond_the_budget_fails(budget: float, status: str) -> None:
    """Ten of 200 images are five points; the reason has both accuracies and the field."""
    gate = _hold(_answer(10, 0), {"teacher": _answer(0, 0)}, budget=budget)
    assert gate.status == status
    if status == "failed":
        assert gate.reason == (
            "top-1 95.00 % is 5.00 points below the 100.00 % of teacher on the validation split "
            "(gate.max_drop_from_teacher_points 4.9)"
        )


def test_of_several_teachers_the_best_counts() -> None:
    """A weak teacher beside a good one excuses nothing."""
    gate = _hold(_answer(10, 0), {"teacher0": _answer(30, 0), "teacher1": _answer(2, 0)}, budget=2.0)
    assert "4.00 points below the 99.00 % of teacher1" in gate.reason


def test_the_rare_class_counts_where_the_metric_says_so() -> None:
    """Half of a rare class is five points of top-1 and 25 of balanced accuracy."""
    student, teachers = _answer(0, 10), {"teacher": _answer(0, 0)}
    assert _hold(student, teachers, budget=6.0).status == "passed"
    gate = _hold(student, teachers, budget=6.0, metric="balanced_accuracy")
    assert gate.reason.startswith("balanced accuracy 75.00 % is 25.00 points below the 100.00 % of teacher")


def test_few_images_are_a_note() -> None:
    """Where the drop is within the budget and its interval is not, the note says how far it may be."""
    note = _hold(_answer(4, 0), {"teacher": _answer(1, 0)}, budget=2.0).note
    assert note.startswith("its own note; 200 images cannot exclude that the student lies up to ")
    assert "points below teacher, beyond the budget of 2" in note
