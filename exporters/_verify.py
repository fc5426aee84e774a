"""The gate: an exported file, run on its own runtime, must answer like the torch network it came from.

Fed the same held-out images, file and network must agree on the top-1 class, on accuracy and on the logits themselves.
Every reason for failure is given, and where the numbers show a likely cause, that too. Pure numpy: no runtime, no torch.

Ties. Where the network's own best logits lie closer together than float32 arithmetic decides (2e-4 of their RMS, whatever
the precision of the file: each may move by the fp32 bound), its top-1 class is an accident. On such an image any of the tied
classes counts as agreement, and as the network's own answer in the accuracy. The margin is not widened for lower precisions:
a class that changes because weights were rounded is a real change, for which `min_agreement` leaves room. A network that ties
on every image has no opinion to compare with, and fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compress.errors import CompressError
from compress.recipe import GateSection
from compress.records import Gate, Precision

BOUNDS: Mapping[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 2e-1, "int8": 1.0}
"""Default bound of any logit's difference, as a multiple of max(1, RMS of the network's logits).

Measured over seven networks, as RMS of the difference over RMS of the logits: fp32 up to
3e-6 (6e-6 for a single logit), fp16 weights 2e-4 to 3e-3, bf16 3e-3 to 3e-2, int8 3e-3 to 0.19 without loss of accuracy. The
largest of thousands of differences is some five times their RMS. fp32 has more room, for deeper networks and other
processors, and still lies thirty times below bf16, which OpenVINO chooses unasked where the processor has it.
"""
WORST = 10

Floats = NDArray[np.floating[Any]]


class _Comparison(NamedTuple):
    """What file and network say about the same images."""

    differences: Floats
    """[N], the largest of each image; infinite where the file's logits are not finite."""
    bound: float
    agreement: float
    correct: tuple[int, int]
    """Images that the network and the file classify rightly."""
    decided: int
    """Images on which the network's best classes are not tied."""


def gate(
    reference: NDArray[np.float32],
    candidate: NDArray[np.float32],
    labels: NDArray[np.integer[Any]],
    *,
    settings: GateSection,
    precision: Precision,
) -> Gate:
    """Judge an exported file by its logits.

    Args:
        reference: Logits of the torch network, float32 [N, K].
        candidate: Logits of the exported file on its own runtime for the same images.
        labels: True classes, [N], each in 0 .. K - 1.
        settings: What is accepted.
        precision: Precision of the file; it sets the default bound of the difference.

    Returns:
        The verdict with every reason for failure.

    Raises:
        CompressError: There is nothing to compare with: no images, a reference that is not finite, labels out of range.
    """
    _check_reference(reference, labels)
    if candidate.shape != reference.shape or candidate.dtype != np.float32:
        reason = f"it gives {candidate.dtype} {list(candidate.shape)}, not float32 {list(reference.shape)}"
        return Gate(status="failed", reason=reason, samples=len(reference))
    seen = _compare(reference, candidate, labels, settings.max_abs_diff or BOUNDS[precision] * max(1.0, _rms(reference)))
    reasons = [*_reasons(seen, candidate, settings)]
    if reasons and np.isfinite(candidate).all():
        reasons += (f"likely cause: {cause}" for cause in likely_causes(reference, candidate))
    largest = float(seen.differences.max())
    return Gate(
        status="failed" if reasons else "passed",
        reason="; ".join(reasons),
        samples=len(reference),
        agreement_percent=100 * seen.agreement,
        max_abs_diff=largest if np.isfinite(largest) else None,
        top1_drop_points=_drop(seen),
        worst_images=tuple(int(index) for index in np.argsort(-seen.differences, kind="stable")[:WORST]),
    )


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


def _rms(logits: Floats) -> float:
    return float(np.sqrt(np.square(logits, dtype=np.float64).mean()))


def _compare(reference: Floats, candidate: Floats, labels: NDArray[np.integer[Any]], bound: float) -> _Comparison:
    images = np.arange(len(reference))
    finite = np.isfinite(candidate).all(axis=1)
    differences = np.where(finite, np.abs(candidate.astype(np.float64) - reference).max(axis=1), np.inf)
    tie = 2 * BOUNDS["fp32"] * _rms(reference)
    best, answer = reference.argmax(axis=1), candidate.argmax(axis=1)
    agree = finite & (reference[images, best] - reference[images, answer] <= tie)
    answer = np.where(agree, best, answer)
    second = np.partition(reference, -2, axis=1)[:, -2] if reference.shape[1] > 1 else np.full(len(reference), -np.inf)
    return _Comparison(
        differences=differences,
        bound=bound,
        agreement=float(agree.mean()),
        correct=(int((best == labels).sum()), int((finite & (answer == labels)).sum())),
        decided=int((reference[images, best] - second > tie).sum()),
    )


def _drop(seen: _Comparison) -> float:
    """Return the loss of top-1 in percentage points."""
    return 100 * (seen.correct[0] - seen.correct[1]) / len(seen.differences)


def _reasons(seen: _Comparison, candidate: Floats, settings: GateSection) -> Iterator[str]:
    broken = int((~np.isfinite(candidate)).any(axis=1).sum())
    if broken:
        yield f"its logits are not finite on {broken} of {len(candidate)} images"
    if seen.decided == 0:
        yield "the network it came from ties on every image, so agreement proves nothing; was it trained?"
    if seen.agreement < settings.min_agreement:
        yield f"agreement {100 * seen.agreement:.2f} % is below {100 * settings.min_agreement:g} % (gate.min_agreement)"
    drop = _drop(seen)
    if drop > settings.max_top1_drop_points:
        top1, limit = 100 * seen.correct[1] / len(candidate), f"gate.max_top1_drop_points {settings.max_top1_drop_points:g}"
        yield f"top-1 {top1:.2f} % is {drop:.2f} points below the network it came from ({limit})"
    largest = float(seen.differences.max())
    if np.isfinite(largest) and largest > seen.bound:
        yield f"a logit differs by {largest:.3g}, more than {seen.bound:.3g} (gate.max_abs_diff)"


def likely_causes(reference: Floats, candidate: Floats) -> Iterator[str]:
    """Yield what the numbers show of why two sets of finite logits differ.

    Args:
        reference: Logits of the network, [N, K].
        candidate: Logits of the file, [N, K].
    """
    wide, close = reference.astype(np.float64), candidate.astype(np.float64)
    tolerance = 0.05 * max(float(wide.std()), 1e-12)
    if float(np.ptp(close, axis=0).max()) <= 1e-6 * float(np.abs(close).max()):
        yield "the output does not depend on the image"
        return
    if _near(close.sum(axis=1), 1.0, 1e-3) and close.min() >= 0 and not _near(wide.sum(axis=1), 1.0, 1e-3):
        yield "a softmax was exported with the network"
    for what, one, other in (("classes", wide.T, close.T), ("images", wide, close)):
        order = _order(one, other, tolerance)
        if order is not None:
            moved = np.flatnonzero(order != np.arange(len(order)))
            yield f"the {what} come in another order ({len(moved)} moved: {moved[0]} is found at {order[moved[0]]})"
    yield from _affine(wide, close, tolerance)


def _near(values: Floats, target: Floats | float, tolerance: float) -> bool:
    return bool(np.abs(values - target).max() <= tolerance)


def _order(reference: Floats, candidate: Floats, tolerance: float) -> NDArray[np.intp] | None:
    """Return where each row of the reference is found in the candidate, if all are found once and some have moved."""
    if len(reference) > 2000:
        return None
    squares = np.square(reference).sum(axis=1)[:, None] + np.square(candidate).sum(axis=1)[None, :]
    order = (squares - 2 * reference @ candidate.T).argmin(axis=1)
    moved = bool((order != np.arange(len(order))).any())
    complete = len(np.unique(order)) == len(order)
    return order if moved and complete and _near(candidate[order], reference, tolerance) else None


def _affine(reference: Floats, candidate: Floats, tolerance: float) -> Iterator[str]:
    """Yield what a scale, or a shift of every class or of every image, explains."""
    difference = candidate - reference
    if _near(candidate, reference, tolerance):
        return
    slope = float((reference * candidate).sum() / max(float(np.square(reference).sum()), 1e-12))
    if _near(candidate, slope * reference, tolerance):
        yield "the sign is swapped" if abs(slope + 1) < 0.01 else f"the logits are scaled by {slope:.3g}"
    elif _near(difference, difference.mean(axis=0), tolerance):
        shift = difference.mean(axis=0)
        worst = int(np.abs(shift).argmax())
        yield f"each class is shifted by a constant (class {worst} by {shift[worst]:.3g}), as by a lost bias"
    elif _near(difference, difference.mean(axis=1, keepdims=True), tolerance):
        yield "each image's logits are shifted by a constant, as by a log-softmax"
