"""The budget of a file against its teacher: `gate.max_drop_from_teacher_points`, judged on the validation split.

The gate compares a file with the network that it came from; that the network itself is far below its teacher, it cannot see.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from compress.recipe import METRICS, Metric
from compress.records import Accuracy
from compress.run.context import Run
from compress.run.export import ExportedFile
from compress.run.verify import SplitLogits
from compress.statistics.paired_drop import compute_balanced_drop, compute_drop_interval
from compress.statistics.tallies import compute_paired_interval
from compress.tasks import CLASSIFICATION
from compress.text import quantify
from compress.training.evaluate import measure_accuracy

ROUNDING = 1e-9
"""Points by which sums of shares may differ by rounding alone."""


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
    metric, labels = run.recipe.gate.metric, run.validation_labels
    task = run.data.task
    known = {name: measure_accuracy(logits.validation, labels, task) for name, logits in teachers.items()}
    name = max(known, key=lambda each: _get_value(known[each], metric))
    best, reached = _get_value(known[name], metric), _get_value(own, metric)
    drop = best - reached
    if drop > budget + ROUNDING:
        title = METRICS[metric] if task.name == CLASSIFICATION.name else task.metric.title
        reason = (
            f"{title} {reached:.2f} % is {drop:.2f} points below the {best:.2f} % of {name} on the validation split "
            f"(gate.max_drop_from_teacher_points {budget:g})"
        )
        return fail_file(run, item, reason)
    high = _find_largest_drop(run, student, teachers[name])
    if high <= budget:
        return item
    note = (
        f"{quantify(own.samples, 'image')} cannot exclude that the student lies up to {high:.2f} points below {name}, beyond "
        f"the budget of {budget:g} (gate.max_drop_from_teacher_points)"
    )
    return item._replace(gate=item.gate.model_copy(update={"note": "; ".join(filter(None, [item.gate.note, note]))}))


def _get_value(accuracy: Accuracy, metric: Metric) -> float:
    """Return an accuracy by the gate's metric, in percent."""
    balanced = accuracy.balanced_percent if metric == "balanced_accuracy" else None
    return accuracy.percent if balanced is None else balanced


def _find_largest_drop(run: Run, student: SplitLogits, teacher: SplitLogits) -> float:
    """Return the upper end of the 95 % interval of what a student loses against a teacher, paired, in points."""
    metric, labels, task = run.recipe.gate.metric, run.validation_labels, run.data.task
    if task.name != CLASSIFICATION.name:
        rows = [task.tally(logits.validation, labels) for logits in (teacher, student)]
        scores = partial(task.score, rows[0]), partial(task.score, rows[1])
        return compute_paired_interval(*scores, len(labels), draws=task.metric.draws)[1]
    own, other = (logits.validation.argmax(axis=1) == labels for logits in (student, teacher))
    lost, won = other & ~own, own & ~other
    if metric == "balanced_accuracy":
        counts = (np.bincount(labels[which], minlength=int(labels.max()) + 1).tolist() for which in (lost, won, slice(None)))
        return compute_balanced_drop(*counts)[2]
    return compute_drop_interval(int(lost.sum()), int(won.sum()), len(labels))[1]


def fail_file(run: Run, item: ExportedFile, reason: str) -> ExportedFile:
    """Return a file that failed, with one more reason."""
    reasons = "; ".join(filter(None, [item.gate.reason, reason]))
    gate = item.gate.model_copy(update={"status": "failed", "reason": reasons})
    run.events.say(f"{item.variant.name}: gate FAILED: {reason}")
    run.events.emit("gate", file=item.variant.name, **gate.model_dump())
    return item._replace(gate=gate, variant=item.variant.model_copy(update={"status": "failed", "reason": reasons}))
