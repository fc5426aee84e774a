"""The budget of a file against its teacher: `gate.max_drop_from_teacher_points`, judged on the validation split.

The gate compares a file with the network that it came from; that the network itself is far below its teacher, it cannot see.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from compress.run.context import Run
from compress.run.export import ExportedFile
from compress.run.verify import SplitLogits
from compress.statistics.paired_drop import compute_drop_interval
from compress.text import quantify


def hold_to_teacher(run: Run, item: ExportedFile, student: SplitLogits, teachers: Mapping[str, SplitLogits]) -> ExportedFile:
    """Return a file, failed where it lies further below the best teacher than the recipe allows.

    Args:
        run: Run context.
        item: A file of the student.
        student: Logits of the student as torch runs it.
        teachers: Logits of each teacher, by its name.
    """
    budget, own = run.recipe.gate.max_drop_from_teacher_points, item.variant.validation
    if budget is None or own is None or not teachers:
        return item
    right = {name: _find_right(run, logits.validation) for name, logits in teachers.items()}
    name = max(right, key=lambda each: int(right[each].sum()))
    top1 = 100 * float(right[name].mean())
    drop = top1 - own.top1_percent
    if drop > budget:
        reason = (
            f"top-1 {own.top1_percent:.2f} % is {drop:.2f} points below the {top1:.2f} % of {name} on the validation split "
            f"(gate.max_drop_from_teacher_points {budget:g})"
        )
        return _fail(run, item, reason)
    student_right = _find_right(run, student.validation)
    high = compute_drop_interval(
        int((right[name] & ~student_right).sum()), int((student_right & ~right[name]).sum()), len(student_right)
    )[1]
    if high <= budget:
        return item
    note = (
        f"{quantify(own.samples, 'image')} cannot exclude that the student lies up to {high:.2f} points below {name}, beyond "
        f"the budget of {budget:g} (gate.max_drop_from_teacher_points)"
    )
    return item._replace(gate=item.gate.model_copy(update={"note": "; ".join(filter(None, [item.gate.note, note]))}))


def _find_right(run: Run, logits: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which validation images logits [N, K] put into the right class, [N]."""
    right: NDArray[np.bool_] = logits.argmax(axis=1) == run.validation_labels
    return right


def _fail(run: Run, item: ExportedFile, reason: str) -> ExportedFile:
    """Return a file that failed, with one more reason."""
    reasons = "; ".join(filter(None, [item.gate.reason, reason]))
    gate = item.gate.model_copy(update={"status": "failed", "reason": reasons})
    run.events.say(f"{item.variant.name}: gate FAILED: {reason}")
    run.events.emit("gate", file=item.variant.name, **gate.model_dump())
    return item._replace(gate=gate, variant=item.variant.model_copy(update={"status": "failed", "reason": reasons}))
