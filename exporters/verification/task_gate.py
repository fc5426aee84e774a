"""The gate of tasks other than classification: differences of logits by the rule, drop and agreement by the task's own numbers.

The drop is that of the task's metric, with a paired bootstrap over images; agreement is what the task says, of a segmentation
the mean IoU of the file's maps with the network's. The share of pixels is no measure: most are background, on which a file that
says background everywhere agrees, too. Of dense logits the relative RMS of all differences has a bound of its own, since it is
steady over networks where the largest of millions of differences is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.errors import CompressError
from compress.recipe import GateSection
from compress.records import Gate, Precision
from compress.statistics.tallies import compute_paired_interval
from compress.tasks import Tallies, Task
from exporters.verification.rule import (
    DENSE_RMS,
    Limits,
    find_batch_differences,
    find_difference_faults,
    get_usual_agreement,
    make_comparable,
    measure_differences,
)

WORST = 10
CLOSE_RMS = 0.3
"""Of the logits' RMS, up to which a changed layout of the network's logits explains a file's."""


def gate_by_task(
    reference: NDArray[np.float32],
    candidate: NDArray[np.float32],
    labels: NDArray[Any],
    *,
    task: Task,
    settings: GateSection,
    limits: Limits,
    alone: NDArray[np.float32] | None = None,
    original: NDArray[np.float32] | None = None,
) -> Gate:
    """Judge an exported file by its logits.

    Args:
        reference: Logits of the torch network that the file was made of, float32 [N, K, ...].
        candidate: Logits of the exported file on its own runtime, float32 [N, K, ...].
        labels: As the task has them, [N, ...].
        task: What the network is for.
        settings: Bounds of the gate.
        limits: The same, with the file's precision and what was recorded of it. Where something was, that bounds the file, and
            not the metric of so few samples.
        alone: Logits of the file for the first M images, each fed in a call of its own, float32 [M, K, ...].
        original: Logits of the network before it was adapted to int8, float32 [N, K, ...]; the drop is taken from it.

    Raises:
        CompressError: There is nothing to compare with: no images, or a reference that is not finite.
    """
    _check_reference(reference, labels)
    images = len(reference)
    if candidate.shape != reference.shape or candidate.dtype != np.float32:
        reason = f"it gives {candidate.dtype} {list(candidate.shape)}, not float32 {list(reference.shape)}"
        return Gate(status="failed", reason=reason, samples=images, metric=task.metric.name)
    seen = measure_differences(*make_comparable(reference, candidate, task.boxes))
    reasons = [*find_difference_faults(reference, candidate, limits)]
    if not np.isfinite(seen.largest).all():
        return Gate(status="failed", reason="; ".join(reasons), samples=images, metric=task.metric.name)
    agreement = task.measure_agreement(reference, candidate)
    least = get_usual_agreement(limits.precision, is_dense=task.is_dense, boxes=task.boxes)
    least = least if settings.min_agreement is None else settings.min_agreement
    before, after = (task.tally(logits, labels) for logits in (reference if original is None else original, candidate))
    drop, interval = _compute_drop(task, before, after)
    if limits.recorded is None:
        if agreement < least:
            reasons.append(f"agreement {100 * agreement:.2f} % is below {100 * least:g} % (gate.min_agreement)")
        if drop > settings.max_top1_drop_points:
            where = "the network it came from" if original is None else "the student before it was adapted to int8"
            reached = task.measure(after, task.count_classes(reference.shape)).percent
            reasons.append(
                f"{task.metric.title} {reached:.2f} % is {drop:.2f} points below {where} "
                f"(gate.max_drop_points {settings.max_top1_drop_points:g})"
            )
    if reasons:
        reasons += [f"likely cause: {cause}" for cause in find_layout_causes(reference, candidate)]
    if alone is not None:
        flat = (logits.reshape(len(logits), -1) for logits in (alone, candidate[: len(alone)]))
        reasons += find_batch_differences(*flat, limits=limits)
    return Gate(
        status="failed" if reasons else "passed",
        reason="; ".join(reasons),
        samples=images,
        accuracy=task.measure(after, task.count_classes(reference.shape)),
        agreement_percent=100 * agreement,
        max_abs_diff=float(seen.largest.max()),
        relative_rms=seen.relative_rms,
        metric=task.metric.name,
        task_drop_points=drop,
        drop_ci95=interval,
        note=_explain_doubt(drop, interval, settings.max_top1_drop_points, images),
        worst_images=tuple(int(index) for index in np.argsort(-seen.largest, kind="stable")[:WORST]),
    )


def is_near_bound(gate: Gate, precision: Precision) -> bool:
    """Return whether logits lie so far from the network's that other inputs are tried, although the file passed."""
    return gate.relative_rms is not None and gate.relative_rms > DENSE_RMS[precision] / 3


def find_layout_causes(reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> Iterator[str]:
    """Yield how dense logits [N, K, h, w] look like those of the network in another layout."""
    if reference.ndim != 4:
        return
    ours, theirs = reference[:WORST].astype(np.float64), candidate[:WORST].astype(np.float64)
    size = max(float(np.sqrt(np.square(ours).mean())), 1e-12)
    layouts = {
        "its maps are transposed (height for width)": ours.swapaxes(2, 3),
        "its maps are mirrored": ours[..., ::-1],
        "its maps are upside down": ours[:, :, ::-1],
        "its classes are shifted by one": np.roll(ours, 1, axis=1),
        "its classes are shifted by one, the first last": np.roll(ours, -1, axis=1),
    }
    for cause, other in layouts.items():
        if other.shape == theirs.shape and float(np.sqrt(np.square(other - theirs).mean())) < CLOSE_RMS * size:
            yield cause


def _check_reference(reference: NDArray[np.float32], labels: NDArray[Any]) -> None:
    if reference.ndim < 2 or 0 in reference.shape or reference.dtype != np.float32:
        raise CompressError(
            f"gate: the network's logits are {reference.dtype} {list(reference.shape)}; give float32 [images, classes, ...]"
        )
    if not all(np.isfinite(maps).all() for maps in reference):
        raise CompressError("gate: the network's own logits are not finite; it cannot be exported, only trained again")
    if len(labels) != len(reference):
        raise CompressError(f"gate: labels {list(labels.shape)}; give those of {len(reference)} images")


def _compute_drop(task: Task, before: Tallies, after: Tallies) -> tuple[float, tuple[float, float]]:
    """Return the drop of the metric in points with its paired 95 % interval, from rows [N, S] each."""
    once = np.ones((1, len(before)), np.int64)
    drop = float((task.score(before, once) - task.score(after, once))[0])
    scores = partial(task.score, before), partial(task.score, after)
    return drop, compute_paired_interval(*scores, len(before), draws=task.metric.draws)


def _explain_doubt(drop: float, interval: tuple[float, float], budget: float, images: int) -> str:
    """Return what the images cannot tell about the drop, or nothing."""
    low, high = interval
    if drop > budget:
        bounds = f"{low:.2f} to {high:.2f}".replace("-", "−")
        likely = f"{images} images cannot exclude that the drop is within the budget (95 % interval {bounds})"
        return likely if low <= budget else ""
    if high <= budget:
        return ""
    return f"{images} images cannot exclude a drop of up to {high:.2f} points, beyond the budget of {budget:g}"
