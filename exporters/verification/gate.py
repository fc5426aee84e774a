"""The gate: compare the logits of an exported file, run on its own runtime, with those of the torch network it came from.

Fed the same held-out images, file and network must agree on the top-1 class, on accuracy and on the logits themselves, and
the file with itself at any number of images in a call. The verdict gives every reason for failure, and likely causes where the
numbers show any (`causes.py`). Pure numpy: no runtime, no torch.

The drop. What must stay within the budget is the drop on these images. The paired 95 % interval
(`compress.statistics.paired_drop`) bounds the drop on all images; where so few images cannot exclude a drop beyond the budget,
a note says so and how many could. It is a note and no failure: with 99 images even a file that changed no answer cannot exclude
a drop of 3 points. A file that was made of a network which training adapted to int8 is compared with two networks: see `gate`.

Ties. Where the network's own best logits lie closer together than float32 arithmetic decides (2e-4 of their RMS, whatever
the precision of the file: each may move by the fp32 bound), its top-1 class is an accident. On such an image any of the tied
classes counts as agreement, and as the network's own answer in the accuracy. The margin is not widened for lower precisions:
a class that changes because weights were rounded is a real change, for which `min_agreement` leaves room. A network that ties
on every image has no opinion to compare with, and fails.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compress.errors import CompressError
from compress.recipe import GateSection
from compress.records import Accuracy, Gate, Precision
from compress.statistics.paired_drop import compute_drop_interval, count_images_needed
from exporters.verification.causes import find_output_causes

BOUNDS: Mapping[Precision, float] = {"fp32": 1e-4, "fp16": 5e-2, "bf16": 2e-1, "int8": 2.0}
"""Default bound of any logit's difference, as a multiple of the largest of 1, the RMS of all logits of the network, and the RMS
of those of the image at hand: some networks answer a few images with far larger logits than the others, and there rounding,
or a range that clips tails, moves them in proportion.

Measured over seven networks, as RMS of the difference over RMS of the logits: fp32 up to 3e-6 (6e-6 for a single logit), fp16
weights 2e-4 to 3e-3, bf16 3e-3 to 3e-2, int8 3e-3 to 0.19 without loss of accuracy. The largest of thousands of differences
is some five times their RMS, in int8 up to ten times: ranges that clip tails move the logits of the surest images most. fp16
has room for networks as deep as EfficientNet-Lite0, whose largest was 2e-2. fp32 has more room, for deeper networks and other
processors, and still lies thirty times below bf16, which OpenVINO chooses unasked where the processor has it.
"""
AGREEMENT: Mapping[Precision, float] = {"fp32": 0.98, "fp16": 0.98, "bf16": 0.95, "int8": 0.9}
"""Default share of images on which the top-1 class must stay.

Rounding changes a class where the two best logits are near. With logits of RMS 1, the difference of two moves by √2 r where r
is the relative difference, and so some 0.56 r f of the classes change, where f is how densely the margins lie at zero: about
0.5 for a network that is sure of itself, about 1 for a small student with many classes. With the differences above that is two
in a thousand in fp16, two in a hundred in bf16 and about one in ten in int8; most of what changes was wrong before and stays
wrong, so accuracy hardly moves, and the budget of the drop is what judges int8. A wrecked network agrees on few images at all.
"""
WORST = 10

Floats = NDArray[np.floating[Any]]


class _Comparison(NamedTuple):
    """Differences between file and network on the same N images."""

    differences: Floats
    """Largest difference of a logit on each image, [N]; infinite where the file's logits are not finite."""
    bounds: Floats
    """Largest difference that is allowed on each image, [N]."""
    agreement: float
    only_network: int
    """Images that the network classifies rightly and the file wrongly."""
    only_file: int
    correct: int
    """Images that the file classifies rightly."""
    decided: int
    """Images on which the network's best classes are not tied."""


def gate(
    reference: NDArray[np.float32],
    candidate: NDArray[np.float32],
    labels: NDArray[np.integer[Any]],
    *,
    settings: GateSection,
    precision: Precision,
    alone: NDArray[np.float32] | None = None,
    original: NDArray[np.float32] | None = None,
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
    bounds = (
        _compute_bounds(reference, precision)
        if settings.max_abs_diff is None
        else np.full(len(reference), settings.max_abs_diff)
    )
    seen = _compare(reference, candidate, labels, bounds)
    before = None if original is None else _compare(original, candidate, labels, bounds)
    agreement = AGREEMENT[precision] if settings.min_agreement is None else settings.min_agreement
    budget = settings.max_top1_drop_points
    reasons = [*_find_failures(seen, candidate, agreement, budget if before is None else math.inf)]
    if reasons:
        reasons += (f"likely cause: {cause}" for cause in find_output_causes(reference, candidate, precision=precision))
    if alone is not None:
        reasons += find_batch_differences(alone, candidate[: len(alone)], precision=precision)
    if before is not None and (drop := _compute_drop(before)) > budget:
        below = f"{drop:.2f} points below the student before it was adapted to int8"
        reasons.append(f"top-1 is {below} (gate.max_top1_drop_points {budget:g})")
    dropped = seen if before is None else before
    largest, images = float(seen.differences.max()), len(reference)
    return Gate(
        status="failed" if reasons else "passed",
        reason="; ".join(reasons),
        samples=images,
        accuracy=Accuracy.from_hits(seen.correct, images),
        agreement_percent=100 * seen.agreement,
        max_abs_diff=largest if np.isfinite(largest) else None,
        top1_drop_points=_compute_drop(dropped),
        drop_ci95=compute_drop_interval(dropped.only_network, dropped.only_file, images),
        note=_explain_doubt(dropped, budget),
        worst_images=tuple(int(index) for index in np.argsort(-seen.differences, kind="stable")[:WORST]),
    )


def find_batch_differences(alone: NDArray[np.float32], together: NDArray[np.float32], *, precision: Precision) -> Iterator[str]:
    """Yield how the logits of an image depend on the other images of its call; nothing where they do not.

    Kernels for another batch size add up in another order, and in int8 a sum at the edge of a step then falls into the next
    one, so the logits may differ by a twentieth of what a precision below fp32 allows.

    Args:
        alone: Logits of a call for each image, float32 [N, K].
        together: Logits of the same file for the same images, several in a call, float32 [N, K].
        precision: Of the file.
    """
    if alone.shape != together.shape:
        yield f"it gives {list(alone.shape)} for images fed one by one and {list(together.shape)} for the same in batches"
        return
    part = 1.0 if precision == "fp32" else 0.05
    with np.errstate(invalid="ignore"):  # infinities of both sides
        differences = np.abs(alone.astype(np.float64) - together).max(axis=1)  # [N]
    differing = ~(differences <= part * _compute_bounds(np.nan_to_num(alone), precision))
    if differing.any():
        first = int(np.flatnonzero(differing)[0])
        yield (
            f"{int(differing.sum())} of {len(alone)} images are answered otherwise alone than in a batch (image {first} by "
            f"{differences[first]:.3g}), as with batch-norm in training mode or a batch size that was fixed inside"
        )


def compute_bound(logits: Floats, precision: Precision) -> float:
    """Return the default bound of a logit's difference on an image with logits as large as usual.

    Args:
        logits: Of the network, [N, K].
        precision: Of the file.
    """
    return BOUNDS[precision] * max(1.0, _compute_rms(logits))


def _compute_bounds(logits: Floats, precision: Precision) -> Floats:
    """Return the default bound on each image, [N]."""
    each: Floats = BOUNDS[precision] * np.sqrt(np.square(logits, dtype=np.float64).mean(axis=1))
    return each.clip(min=compute_bound(logits, precision))


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


def _compute_rms(logits: Floats) -> float:
    return float(np.sqrt(np.square(logits, dtype=np.float64).mean()))


def _compare(reference: Floats, candidate: Floats, labels: NDArray[np.integer[Any]], bounds: Floats) -> _Comparison:
    images = np.arange(len(reference))
    finite = np.isfinite(candidate).all(axis=1)
    differences = np.where(finite, np.abs(candidate.astype(np.float64) - reference).max(axis=1), np.inf)
    tie = 2 * BOUNDS["fp32"] * _compute_rms(reference)
    best, predicted = reference.argmax(axis=1), candidate.argmax(axis=1)
    agree = finite & (reference[images, best] - reference[images, predicted] <= tie)
    predicted = np.where(agree, best, predicted)
    second = np.partition(reference, -2, axis=1)[:, -2] if reference.shape[1] > 1 else np.full(len(reference), -np.inf)
    before, after = best == labels, finite & (predicted == labels)
    return _Comparison(
        differences=differences,
        bounds=bounds,
        agreement=float(agree.mean()),
        only_network=int((before & ~after).sum()),
        only_file=int((after & ~before).sum()),
        correct=int(after.sum()),
        decided=int((reference[images, best] - second > tie).sum()),
    )


def _compute_drop(seen: _Comparison) -> float:
    """Return the loss of top-1 in percentage points."""
    return 100 * (seen.only_network - seen.only_file) / len(seen.differences)


def _explain_doubt(seen: _Comparison, budget: float) -> str:
    """Return what the images cannot tell about the drop, or nothing."""
    images = len(seen.differences)
    low, high = compute_drop_interval(seen.only_network, seen.only_file, images)
    if _compute_drop(seen) > budget:
        interval = f"{low:.2f} to {high:.2f}".replace("-", "−")
        likely = f"{images} images cannot exclude that the drop is within the budget (95 % interval {interval})"
        return likely if low <= budget else ""
    if high <= budget:
        return ""
    needed = count_images_needed(seen.only_network, seen.only_file, images, budget)
    more = "" if needed is None else f"; {needed} images with as few changed answers would"
    return f"{images} images cannot exclude a drop of up to {high:.2f} points, beyond the budget of {budget:g}{more}"


def _find_failures(seen: _Comparison, candidate: Floats, min_agreement: float, budget: float) -> Iterator[str]:
    broken = int((~np.isfinite(candidate)).any(axis=1).sum())
    if broken:
        yield f"its logits are not finite on {broken} of {len(candidate)} images"
    if seen.decided == 0:
        yield "the network it came from ties on every image, so agreement proves nothing; was it trained?"
    if seen.agreement < min_agreement:
        yield f"agreement {100 * seen.agreement:.2f} % is below {100 * min_agreement:g} % (gate.min_agreement)"
    drop = _compute_drop(seen)
    if drop > budget:
        top1 = 100 * seen.correct / len(candidate)
        yield f"top-1 {top1:.2f} % is {drop:.2f} points below the network it came from (gate.max_top1_drop_points {budget:g})"
    finite = np.flatnonzero(np.isfinite(seen.differences))
    worst = max(finite, key=lambda image: seen.differences[image] / seen.bounds[image], default=None)
    if worst is not None and seen.differences[worst] > seen.bounds[worst]:
        yield f"a logit differs by {seen.differences[worst]:.3g}, more than {seen.bounds[worst]:.3g} (gate.max_abs_diff)"
