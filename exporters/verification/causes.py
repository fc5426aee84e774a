"""Find likely causes why the logits of a file differ from its network's: from the logits, and by altering the input.

Every cause is a guess that the numbers support, and is looked for only after a file has failed. The alterations are those of
`compress.input_probes`, which teachers are tried with, too. Pure numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.input_probes import Images, alter_normalised, alter_pixels
from compress.records import Precision, Preprocess

Floats = NDArray[np.floating[Any]]

CLOSE: Mapping[Precision, float] = {"fp32": 0.01, "fp16": 0.03, "bf16": 0.1, "int8": 0.3}
"""RMS of the difference over that of the logits, up to which two networks count as the same but for their precision."""
PROBED = 32
"""Number of images on which the input is altered; so few tell one network from another."""
WIDE = 0.2
"""Step between logits over their standard deviation; rounding to a wider one can turn decisions."""


def find_output_causes(reference: Floats, candidate: Floats, *, precision: Precision = "fp32") -> Iterator[str]:
    """Yield each likely cause that the logits themselves show.

    Args:
        reference: Logits of the network, [N, K].
        candidate: Logits of the file, [N, K].
        precision: Of the file; it sets how near two networks must be to count as the same.
    """
    if not np.isfinite(candidate).all():
        if precision == "fp16":
            yield "a weight or an activation is beyond 65504, the largest number of fp16"
        return
    wide, close = reference.astype(np.float64), candidate.astype(np.float64)
    tolerance = max(0.05, CLOSE[precision]) * max(float(wide.std()), 1e-12)
    steady = np.ptp(close, axis=0) <= 1e-6 * float(np.abs(close).max())  # [K]
    if steady.all():
        yield "the output does not depend on the image"
        return
    left = 0.3 if precision == "int8" else 0.1
    causes = [
        *_find_value_causes(wide, close, steady, precision),
        *_find_orders(wide, close, tolerance),
        *_find_affine_causes(wide, close, left),
    ]
    yield from causes
    kinship = _correlate(wide, close)
    if not causes and kinship < 0.3:
        yield f"the logits have little in common with the network's (correlation {kinship:.2f}): other weights or another input"


def _find_value_causes(reference: Floats, candidate: Floats, steady: NDArray[np.bool_], precision: Precision) -> Iterator[str]:
    """Yield each cause that the candidate's own values show.

    Some formats round the logits of int8 files to 256 values, which does no harm unless the steps are wide.
    """
    if steady.any():
        yield f"the logit of class {int(np.flatnonzero(steady)[0])} does not depend on the image"
    if _is_near(candidate.sum(axis=1), 1.0, 1e-3) and candidate.min() >= 0 and not _is_near(reference.sum(axis=1), 1.0, 1e-3):
        yield "a softmax was exported with the network"
    values, counts = np.unique(candidate, return_counts=True)
    wide = len(values) < 2 or float(np.median(np.diff(values))) > WIDE * float(reference.std())
    if len(values) <= 256 and len(np.unique(reference)) > 4 * len(values) and (precision != "int8" or wide):
        yield f"the logits take only {len(values)} different values, as if they were quantized themselves"
    ends = float(counts[[0, -1]].max()) / candidate.size
    if len(values) > 2 and ends > max(0.05, 4 / candidate.size) and ends > 4 * float(np.median(counts)) / candidate.size:
        yield f"{100 * ends:.0f} % of the logits stand at the same end of their range: saturation"


def _correlate(reference: Floats, candidate: Floats) -> float:
    """Return the correlation of two sets of logits, each class's mean taken off."""
    one, other = reference - reference.mean(axis=0), candidate - candidate.mean(axis=0)
    norm = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float((one * other).sum()) / norm if norm else 0.0


def _is_near(values: Floats, target: Floats | float, tolerance: float) -> bool:
    return bool(np.sqrt(np.square(values - target).mean()) <= tolerance)


def _find_orders(reference: Floats, candidate: Floats, tolerance: float) -> Iterator[str]:
    for what, one, other in (("classes", reference.T, candidate.T), ("images", reference, candidate)):
        order = _match_rows(one, other, tolerance)
        if order is not None:
            moved = np.flatnonzero(order != np.arange(len(order)))
            yield f"the {what} come in another order ({len(moved)} moved: {moved[0]} is found at {order[moved[0]]})"


def _match_rows(reference: Floats, candidate: Floats, tolerance: float) -> NDArray[np.intp] | None:
    """Return where each row of the reference is found in the candidate, if all are found once and some have moved."""
    if len(reference) > 2000:
        return None
    squares = np.square(reference).sum(axis=1)[:, None] + np.square(candidate).sum(axis=1)[None, :]
    order = (squares - 2 * reference @ candidate.T).argmin(axis=1)
    moved = bool((order != np.arange(len(order))).any())
    complete = len(np.unique(order)) == len(order)
    return order if moved and complete and _is_near(candidate[order], reference, tolerance) else None


def _find_affine_causes(reference: Floats, candidate: Floats, left: float) -> Iterator[str]:
    """Yield the scale or shift, of every class or of every image, that explains all but a share `left` of the difference."""
    difference = candidate - reference
    tolerance = left * float(np.sqrt(np.square(difference).mean()))
    slope = float((reference * candidate).sum() / max(float(np.square(reference).sum()), 1e-12))
    if _is_near(candidate, slope * reference, tolerance) and abs(slope) > 0.01:
        yield "the sign is swapped" if abs(slope + 1) < 0.05 else f"the logits are scaled by {slope:.3g}"
    elif _is_near(difference, difference.mean(axis=0), tolerance):
        shift = difference.mean(axis=0)
        worst = int(np.abs(shift).argmax())
        yield f"each class is shifted by a constant (class {worst} by {shift[worst]:.3g}), as by a lost bias"
    elif _is_near(difference, difference.mean(axis=1, keepdims=True), tolerance):
        yield "each image's logits are shifted by a constant, as by a log-softmax"


def find_input_causes(
    run: Callable[[Any], NDArray[np.float32]],
    reference: NDArray[np.float32],
    images: Images,
    preprocess: Preprocess,
    *,
    precision: Precision,
) -> list[str]:
    """Find the altered inputs with which the file agrees with the network.

    Args:
        run: Feeds any number of images to the file and returns its logits, float32 [M, K]; called once.
        reference: Logits of the network for the images as they are, float32 [N, K].
        images: What the file is fed: normalised float32 [N, C, H, W], or uint8 [N, H, W, C].
        preprocess: How they were normalised.
        precision: Of the file.

    Returns:
        One sentence for each, the best first; none where no alteration helps.
    """
    images, reference = images[:PROBED], reference[:PROBED].astype(np.float64)
    probes = alter_pixels(images) if images.dtype == np.uint8 else alter_normalised(images, preprocess)
    altered = {probe.what: probe.images for probe in probes}
    fed = {"": images, **altered}
    outputs = run(np.ascontiguousarray(np.concatenate(list(fed.values()))))
    if outputs.shape != (len(fed) * len(images), reference.shape[1]):
        return []
    spread = max(float(np.sqrt(np.square(reference).mean())), 1e-12)
    wrong = {
        how: float(np.sqrt(np.square(logits - reference).mean())) / spread
        for how, logits in zip(fed, np.split(outputs.astype(np.float64), len(fed)), strict=True)
    }
    helping = [how for how in altered if wrong[how] <= min(CLOSE[precision], wrong[""] / 2)]
    return [f"it agrees with the network when {how}" for how in sorted(helping, key=wrong.__getitem__)]
