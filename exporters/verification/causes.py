"""Find likely causes why the logits of a file differ from its network's: from the logits, and by altering the input.

Every cause is a guess that the numbers support, and is looked for only after a file has failed. Pure numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.records import Precision, Preprocess

Floats = NDArray[np.floating[Any]]
Images = NDArray[np.float32] | NDArray[np.uint8]

CLOSE: Mapping[Precision, float] = {"fp32": 0.01, "fp16": 0.03, "bf16": 0.1, "int8": 0.3}
"""RMS of the difference over that of the logits, up to which two networks count as the same but for their precision."""
PROBED = 32
"""Number of images on which the input is altered; so few tell one network from another."""
WIDE = 0.2
"""Step between logits over their standard deviation; rounding to a wider one can turn decisions."""
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


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
    altered = alter_pixels(images) if images.dtype == np.uint8 else alter_normalised(images, preprocess)
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


def alter_normalised(images: Images, preprocess: Preprocess) -> dict[str, NDArray[np.float32]]:
    """Alter images as files with another preprocessing would expect them.

    Args:
        images: Normalised, float32 [N, C, H, W].
        preprocess: How they were normalised.

    Returns:
        Images of the same shape by a sentence that says what differs.
    """
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (preprocess.mean, preprocess.std))
    shares = images * std + mean  # 0 to 1
    made = {
        "it is fed values from 0 to 1, so it normalises by itself": shares,
        "it is fed values from 0 to 255, so it divides and normalises by itself": 255 * shares,
        "it is fed values from -1 to 1": 2 * shares - 1,
        "the mean is not taken off": shares / std,
        "it is not divided by std": shares - mean,
        "the values are not divided by 255 before mean and std": (255 * shares - mean) / std,
        "the input is normalised twice": (images - mean) / std,
        "the images are inverted": (1 - shares - mean) / std,
        **_turn_and_mirror(images, (2, 3)),
    }
    if images.shape[1] == 3:
        usual = [np.array(values, np.float32)[:, None, None] for values in _IMAGENET]
        made |= {
            "the channels are fed in BGR order": images[:, ::-1],
            "the channels are fed in BGR order with mean and std of RGB": (shares[:, ::-1] - mean) / std,
            "mean and std are those of ImageNet": (shares - usual[0]) / usual[1],
            "the image is gray": np.broadcast_to(shares.mean(axis=1, keepdims=True), shares.shape) * (1 / std) - mean / std,
            "the memory is read as channels last": images.transpose(0, 2, 3, 1).reshape(images.shape),
        }
    return {how: np.ascontiguousarray(values, np.float32) for how, values in made.items()}


def alter_pixels(images: Images) -> dict[str, NDArray[np.uint8]]:
    """Alter pictures as files that preprocess otherwise would expect them.

    Args:
        images: As decoded, uint8 [N, H, W, C].

    Returns:
        Pictures of the same shape by a sentence that says what differs.
    """
    made = {"the images are inverted": 255 - images, **_turn_and_mirror(images, (1, 2))}
    if images.shape[3] == 3:
        made |= {
            "the channels are fed in BGR order": images[..., ::-1],
            "the memory is read as channels first": images.transpose(0, 3, 1, 2).reshape(images.shape),
        }
    return {how: np.ascontiguousarray(values, np.uint8) for how, values in made.items()}


def _turn_and_mirror(images: Images, axes: tuple[int, int]) -> dict[str, Any]:
    """Turn and mirror images; `axes` are height and width."""
    height, width = axes
    made = {
        "the images are mirrored": np.flip(images, width),
        "the images stand on their head": np.flip(images, height),
        "the images are turned by 180 degrees": np.flip(images, axes),
    }
    return made | (
        {"height and width are swapped": images.swapaxes(*axes)} if images.shape[height] == images.shape[width] else {}
    )
