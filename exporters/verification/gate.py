"""The gate: compare the logits of an exported file, run on its own runtime, with those of the torch network it came from.

`rule.py` says what a file is held to; here its findings become a record, with likely causes where the numbers show any
(`causes.py`). Pure numpy: no runtime, no torch.

The drop. What must stay within the budget is the drop on these images. The paired 95 % interval
(`compress.statistics.paired_drop`) bounds the drop on all images; where so few images cannot exclude a drop beyond the budget,
a note says so and how many could. It is a note and no failure: with 99 images even a file that changed no answer cannot exclude
a drop of 3 points. A file that was made of a network which training adapted to int8 is compared with two networks: see `gate`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.errors import CompressError
from compress.recipe import METRICS, GateSection, Metric
from compress.records import Accuracy, Gate, Precision
from compress.statistics.paired_drop import compute_balanced_drop, compute_drop_interval, count_images_needed
from compress.tasks import CLASSIFICATION, Task
from exporters.verification.causes import find_output_causes
from exporters.verification.rule import (
    Comparison,
    Limits,
    Recorded,
    compare,
    exceeds_budget,
    find_batch_differences,
    find_logit_faults,
)
from exporters.verification.task_gate import gate_by_task

WORST = 10


def gate(
    reference: NDArray[np.float32],
    candidate: NDArray[np.float32],
    labels: NDArray[Any],
    *,
    settings: GateSection,
    precision: Precision,
    alone: NDArray[np.float32] | None = None,
    original: NDArray[np.float32] | None = None,
    recorded: Recorded | None = None,
    task: Task = CLASSIFICATION,
) -> Gate:
    """Judge an exported file by its logits.

    A file must agree with the network that it was made of, and its accuracy may drop by the budget against the network that was
    trained. The two are one unless training adapted the network to int8: then give the logits before that as `original`, or
    else an adaptation that cost five points would pass by comparing its file with itself.

    Args:
        reference: Logits of the torch network that the file was made of, float32 [N, K]; agreement and differences are taken
            from it.
        candidate: Logits of the exported file on its own runtime for the same images, float32 [N, K].
        labels: True classes, [N], each in 0 .. K - 1.
        settings: Bounds of the gate.
        precision: Precision of the file; it sets the default bounds of difference and agreement.
        alone: Logits of the file for the first M images, each fed in a call of its own, float32 [M, K].
        original: Logits of the torch network before it was adapted to int8, float32 [N, K]; the drop of top-1 is taken from
            it. `None` takes it from `reference`.
        recorded: Differences of the file on these images when it was proved, which bound it from then on.
        task: What the network is for; of another task than classification logits are [N, K, ...] and labels [N, ...].

    Returns:
        The verdict with every reason for failure.

    Raises:
        CompressError: There is nothing to compare with: no images, a reference that is not finite, labels out of range.

    Example:
        >>> import numpy as np
        >>> from compress.recipe import GateSection
        >>> from exporters import gate
        >>> network = np.eye(4, dtype=np.float32)
        >>> gate(network, network + 9, np.arange(4), settings=GateSection(), precision="fp32").status
        'failed'
    """
    if task.name != CLASSIFICATION.name:
        return gate_by_task(
            reference, candidate, labels, task=task, settings=settings, alone=alone, original=original,
            limits=make_limits(settings, precision, recorded, is_dense=task.is_dense, boxes=task.boxes),
        )  # fmt: skip
    for network in (reference,) if original is None else (reference, original):
        _check_reference(network, labels)
    if original is not None and original.shape != reference.shape:
        shapes = f"{list(original.shape)}, not {list(reference.shape)}"
        raise CompressError(
            f"gate: the original's logits have another shape than the reference's: {shapes}; give the same images"
        )
    if candidate.shape != reference.shape or candidate.dtype != np.float32:
        reason = f"it gives {candidate.dtype} {list(candidate.shape)}, not float32 {list(reference.shape)}"
        return Gate(status="failed", reason=reason, samples=len(reference))
    limits = make_limits(settings, precision, recorded)
    seen = compare(reference, candidate, labels)
    before = None if original is None else compare(original, candidate, labels)
    reasons = [*find_logit_faults(reference, candidate, labels, limits, budgeted=before is None)]
    if reasons:
        reasons += (f"likely cause: {cause}" for cause in find_output_causes(reference, candidate, precision=precision))
    if alone is not None:
        reasons += find_batch_differences(alone, candidate[: len(alone)], limits=limits)
    budget, metric, dropped = settings.max_top1_drop_points, settings.metric, seen if before is None else before
    if before is not None and exceeds_budget(before, limits):
        below = f"{before.get_drop(metric):.2f} points below the student before it was adapted to int8"
        reasons.append(f"{METRICS[metric]} is {below} (gate.max_top1_drop_points {budget:g})")
    largest, images = float(seen.differences.max()), len(reference)
    return Gate(
        status="failed" if reasons else "passed",
        reason="; ".join(reasons),
        samples=images,
        accuracy=Accuracy.from_hits(seen.correct, images),
        agreement_percent=100 * seen.agreement,
        max_abs_diff=largest if np.isfinite(largest) else None,
        top1_drop_points=dropped.drop_points,
        metric=metric,
        balanced_drop_points=dropped.balanced_drop_points if metric == "balanced_accuracy" else None,
        drop_ci95=_compute_interval(dropped, metric),
        note=_explain_doubt(dropped, budget, metric),
        worst_images=tuple(int(index) for index in np.argsort(-seen.differences, kind="stable")[:WORST]),
    )


def make_limits(
    settings: GateSection, precision: Precision, recorded: Recorded | None = None, *, is_dense: bool = False, boxes: int = 0
) -> Limits:
    """Return the limits of a file from the bounds of the gate."""
    return Limits(
        precision, settings.max_top1_drop_points, settings.min_agreement, settings.max_abs_diff, recorded, settings.metric,
        is_dense, boxes,
    )  # fmt: skip


def _check_reference(reference: NDArray[np.float32], labels: NDArray[np.integer[Any]]) -> None:
    if reference.ndim != 2 or 0 in reference.shape or reference.dtype != np.float32:
        raise CompressError(
            f"gate: the network's logits are {reference.dtype} {list(reference.shape)}; give float32 [images, classes]"
        )
    if not np.isfinite(reference).all():
        raise CompressError("gate: the network's own logits are not finite; it cannot be exported, only trained again")
    if labels.shape != reference.shape[:1] or labels.min() < 0 or labels.max() >= reference.shape[1]:
        wanted = f"one label in 0 .. {reference.shape[1] - 1} for each of {len(reference)} images"
        raise CompressError(f"gate: labels {list(labels.shape)} from {labels.min()} to {labels.max()}; give {wanted}")


def _compute_interval(seen: Comparison, metric: Metric) -> tuple[float, float]:
    """Return the 95 % interval of the drop of a metric, in points."""
    if metric == "balanced_accuracy":
        _, low, high = compute_balanced_drop(*seen.by_class[[0, 1, 3]].tolist())
        return low, high
    return compute_drop_interval(seen.only_network, seen.only_file, len(seen.differences))


def _explain_doubt(seen: Comparison, budget: float, metric: Metric) -> str:
    """Return what the images cannot tell about the drop, or nothing."""
    images = len(seen.differences)
    low, high = _compute_interval(seen, metric)
    if seen.get_drop(metric) > budget:
        interval = f"{low:.2f} to {high:.2f}".replace("-", "−")
        likely = f"{images} images cannot exclude that the drop is within the budget (95 % interval {interval})"
        return likely if low <= budget else ""
    if high <= budget:
        return ""
    needed = count_images_needed(seen.only_network, seen.only_file, images, budget) if metric == "top1" else None
    more = "" if needed is None else f"; {needed} images with as few changed answers would"
    return f"{images} images cannot exclude a drop of up to {high:.2f} points, beyond the budget of {budget:g}{more}"
