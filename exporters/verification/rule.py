"""The one rule by which numbers of a model file are judged: by `compress run`, `compress verify` and `predict.py --self-test`.

A file is compared with the torch network that it was made of on the same held-out images. It must agree on the top-1 class, on
accuracy and on the logits themselves, must give the same for an image whatever else is in the call, and class and score, where
it gives them, must follow from its logits.

When a file is handed over, its differences on the bundle's samples are recorded (`Recorded`), and from then on they bound it:
it may not differ by more than twice what it did when it was proved. Processors round differently, hence twice; a file that
differs by more is no longer the one that was proved, however wide the bounds of its precision are. The largest difference shows
single images, the median a change of all; and images that it was already known to lose do not count against the budget again.

Ties. Where the network's own best logits lie closer together than float32 arithmetic decides (2e-4 of their RMS, whatever
the precision of the file: each may move by the fp32 bound), its top-1 class is an accident. On such an image any of the tied
classes counts as agreement, and as the network's own answer in the accuracy. The margin is not widened for lower precisions:
a class that changes because weights were rounded is a real change, for which `min_agreement` leaves room. A network that ties
on every image has no opinion to compare with, and fails.

This module stands alone (numpy and the standard library, Python 3.9): it is copied byte for byte into every bundle.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

CLASS, SCORE = "class", "score"
TOP1, BALANCED = "top1", "balanced_accuracy"
BOUNDS: Mapping[str, float] = {"fp32": 1e-4, "fp16": 5e-2, "bf16": 2e-1, "int8": 2.0}
"""Default bound of any logit's difference, as a multiple of the largest of 1, the RMS of all logits of the network, and the RMS
of those of the image at hand: some networks answer a few images with far larger logits than the others, and there rounding,
or a range that clips tails, moves them in proportion.

Measured over seven networks, as RMS of the difference over RMS of the logits: fp32 up to 3e-6 (6e-6 for a single logit), fp16
weights 2e-4 to 3e-3, bf16 3e-3 to 3e-2, int8 3e-3 to 0.19 without loss of accuracy. The largest of thousands of differences
is some five times their RMS, in int8 up to ten times: ranges that clip tails move the logits of the surest images most. fp16
has room for networks as deep as EfficientNet-Lite0, whose largest was 2e-2. fp32 has more room, for deeper networks and other
processors, and still lies thirty times below bf16, which OpenVINO chooses unasked where the processor has it.
"""
AGREEMENT: Mapping[str, float] = {"fp32": 0.98, "fp16": 0.98, "bf16": 0.95, "int8": 0.9}
"""Default share of images on which the top-1 class must stay.

Rounding changes a class where the two best logits are near. With logits of RMS 1, the difference of two moves by √2 r where r
is the relative difference, and so some 0.56 r f of the classes change, where f is how densely the margins lie at zero: about
0.5 for a network that is sure of itself, about 1 for a small student with many classes. With the differences above that is two
in a thousand in fp16, two in a hundred in bf16 and about one in ten in int8; most of what changes was wrong before and stays
wrong, so accuracy hardly moves, and the budget of the drop is what judges int8. A wrecked network agrees on few images at all.
"""
DENSE_AGREEMENT: Mapping[str, float] = {"fp32": 0.99, "fp16": 0.98, "bf16": 0.95, "int8": 0.5}
"""The same of dense logits, where agreement is the mean IoU of the file's map with the network's. How far a good int8 file
agrees depends on how sure the network is (61 to 96 % in benchmarks/results/dense_gate), so the bound is low and the RMS below
is the sharper one."""
DENSE_RMS: Mapping[str, float] = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 3e-2, "int8": 0.1}
"""Of dense logits, the largest RMS of all differences over that of the logits. Rounding gives less than 1e-6 in fp32, 3e-4 in
fp16 and 1e-2 in bf16, and int8 0.01 to 0.07 (benchmarks/results/dense_gate). Other orders of channels give 0.11 and more, so
between a third of the bound and the bound other inputs are tried. The largest of so many differences is no measure: up to 1.3
in good int8 files, so its bound is that of other logits."""
INT8_OF_BOXES = 0.7, 0.15
"""Least agreement and largest relative RMS of an int8 file of a detector, whose numbers no study has measured yet."""
BOX_UNIT = 2.0
"""So many pixels of a box weigh as much as 1 of a logit."""
LEAST_SCORE = 0.05
"""Boxes are compared in cells in which the network has some class at least so surely; elsewhere nobody looks at them."""
SCORE_BOUNDS: Mapping[str, float] = {"fp32": 1e-4, "fp16": 5e-3, "bf16": 2e-2, "int8": 1e-4}
"""How far a score may be from the softmax of the logits, computed in float64.

A float32 softmax over K classes is off by some K roundings of 6e-8, so 1e-4 has room for a thousand classes. It is computed in
float32 in int8 files as well, and a score that was rounded to a step of 1/256 fails. Processors with fp16 or bf16 arithmetic
may compute it in that where the file is of that precision: a rounding is 5e-4 or 4e-3 there.
"""
SCORE_KINDS: Mapping[str, tuple[str, ...]] = {CLASS: ("int64", "int32"), SCORE: ("float32",)}
"""Types by output. LiteRT gives its classes as int32; a type that can be read from the file must be int64 (`model_file.py`)."""
MANY = 1 << 14
"""Logits of one image from which on images are looked at one after the other."""
MAPS = 16
"""Maps of classes of a call that are compared with their logits, spread over all of them."""
TWICE = 2.0
"""So many times what was recorded a file may differ on another processor."""
LEAST_LARGEST = 1e-3
"""Part of an image's largest logit by which a file may always differ from what was recorded, where its precision allows it."""
LEAST_MEDIAN: Mapping[str, float] = {"fp32": 2e-5, "fp16": 2e-3, "bf16": 2e-2, "int8": 2e-3}
"""The same for the median over images, as a multiple of the larger of 1 and the RMS of the logits: a fifth of the fp32 bound,
and some roundings in the arithmetic of processors that compute in fp16 or bf16."""
SMALL_BATCHES = (*range(1, 33), 33, 47, 64)
"""Numbers of images in a call that are tried wherever a file takes any: kernels are chosen, and mistakes made, by them."""
LARGE_BATCHES, LARGE_BATCH_BYTES = (65, 97, 127, 128), 16 << 20
"""Further ones, where so many images are not larger than this, for the memory of a call grows with them. Every format takes
128."""

Floats = NDArray[np.floating[Any]]


class FileOutputs(Protocol):
    """Outputs of a file for N images."""

    @property
    def logits(self) -> NDArray[np.float32]:
        """Of all classes, [N, K]."""

    @property
    def further(self) -> Mapping[str, NDArray[Any]]:
        """`class` and `score`, each [N], as far as the file gives them."""


class Outputs(NamedTuple):
    """Outputs of a file for N images."""

    logits: NDArray[np.float32]
    """Of all classes, [N, K]."""
    further: Mapping[str, NDArray[Any]]
    """`class` and `score`, each [N], as far as the file gives them."""


class Recorded(NamedTuple):
    """Differences of a file from its network on the samples, when it was proved."""

    max_abs_diff: float
    """The largest of any logit."""
    median_abs_diff: float
    """Median over images of the largest of an image."""
    lost: int
    """Samples that the file classified wrongly and the network rightly, less those where it is the other way round."""


class Limits(NamedTuple):
    """Limits to which a file is held."""

    precision: str
    """Of the file; a key of `BOUNDS`."""
    max_top1_drop_points: float
    min_agreement: float | None = None
    """`None` takes that of the precision."""
    max_abs_diff: float | None = None
    """`None` takes that of the precision."""
    recorded: Recorded | None = None
    """`None` where the file is proved for the first time."""
    metric: str = TOP1
    """What the budget of the drop is about: `top1`, or `balanced_accuracy`, the mean of the classes' recalls."""
    is_dense: bool = False
    """Whether an image has many answers."""
    boxes: int = 0
    """How many of the last numbers of each answer are a box."""


class Comparison(NamedTuple):
    """Differences between file and network on the same N images."""

    differences: Floats
    """Largest difference of a logit on each image, [N]; infinite where the file's logits are not finite."""
    agreement: float
    only_network: int
    """Images that the network classifies rightly and the file wrongly."""
    only_file: int
    correct: int
    """Images that the file classifies rightly."""
    decided: int
    """Images on which the network's best classes are not tied."""
    by_class: NDArray[np.int64]
    """Images of each class that only the network, and only the file, classifies rightly, that the file does, and all, [4, K]
    for the classes that have images."""

    @property
    def drop_points(self) -> float:
        """Loss of top-1 in percentage points."""
        return 100 * (self.only_network - self.only_file) / len(self.differences)

    @property
    def balanced_drop_points(self) -> float:
        """Loss of balanced accuracy in percentage points."""
        return 100 * float(((self.by_class[0] - self.by_class[1]) / self.by_class[3]).mean())

    def get_drop(self, metric: str) -> float:
        """Return the loss of a metric in percentage points."""
        return self.balanced_drop_points if metric == BALANCED else self.drop_points

    def describe(self, metric: str) -> str:
        """Return a metric of the file as text, with its name."""
        if metric == BALANCED:
            return f"balanced accuracy {100 * float((self.by_class[2] / self.by_class[3]).mean()):.2f} %"
        return f"top-1 {100 * self.correct / len(self.differences):.2f} %"


def compare(reference: Floats, candidate: Floats, labels: NDArray[np.integer[Any]]) -> Comparison:
    """Compare the logits of a file with those of its network.

    Args:
        reference: Of the network, [N, K].
        candidate: Of the file, [N, K].
        labels: True classes, [N].
    """
    reference, images = reference.astype(np.float64), np.arange(len(reference))
    finite = np.asarray(np.isfinite(candidate).all(axis=1))  # [N]
    candidate = np.where(finite[:, None], candidate, 0.0).astype(np.float64)
    differences = np.where(finite, np.abs(candidate - reference).max(axis=1), np.inf)
    tie = 2 * BOUNDS["fp32"] * _compute_rms(reference)
    best, predicted = reference.argmax(axis=1), candidate.argmax(axis=1)
    agree = finite & (reference[images, best] - reference[images, predicted] <= tie)
    predicted = np.where(agree, best, predicted)
    second = np.partition(reference, -2, axis=1)[:, -2] if reference.shape[1] > 1 else np.full(len(reference), -np.inf)
    before, after = best == labels, finite & (predicted == labels)
    masks = (before & ~after, after & ~before, after, np.ones_like(after))
    by_class = np.stack([np.bincount(labels[mask], minlength=reference.shape[1]) for mask in masks])
    return Comparison(
        differences=differences,
        agreement=float(agree.mean()),
        only_network=int((before & ~after).sum()),
        only_file=int((after & ~before).sum()),
        correct=int(after.sum()),
        decided=int((reference[images, best] - second > tie).sum()),
        by_class=by_class[:, by_class[3] > 0],
    )


def record_differences(reference: Floats, candidate: Floats, labels: NDArray[np.integer[Any]]) -> Recorded:
    """Return the differences of a file from its network that bound it from now on.

    Args:
        reference: Of the network, [N, K].
        candidate: Of the file, finite, [N, K].
        labels: True classes, [N].
    """
    seen = compare(reference, candidate, labels)
    return Recorded(
        float(seen.differences.max()), float(np.median(seen.differences)), max(0, seen.only_network - seen.only_file)
    )


def find_logit_faults(
    reference: Floats, candidate: Floats, labels: NDArray[np.integer[Any]], limits: Limits, *, budgeted: bool = True
) -> Iterator[str]:
    """Yield every way in which the logits of a file are not those of its network.

    Args:
        reference: Of the network, [N, K].
        candidate: Of the file.
        labels: True classes, [N].
        limits: Limits of the file.
        budgeted: Whether the drop is held against the budget here.
    """
    if candidate.shape != reference.shape or candidate.dtype != np.float32:
        yield f"it gives {candidate.dtype} {list(candidate.shape)}, not float32 {list(reference.shape)}"
        return
    seen = compare(reference, candidate, labels)
    broken = int((~np.isfinite(candidate)).any(axis=1).sum())
    if broken:
        yield f"its logits are not finite on {broken} of {len(candidate)} images"
    if seen.decided == 0:
        yield "the network it came from ties on every image, so agreement proves nothing; was it trained?"
    least = AGREEMENT[limits.precision] if limits.min_agreement is None else limits.min_agreement
    if seen.agreement < least:
        yield f"agreement {100 * seen.agreement:.2f} % is below {100 * least:g} % (gate.min_agreement)"
    if budgeted and exceeds_budget(seen, limits):
        below = f"{seen.get_drop(limits.metric):.2f} points below the network it came from"
        yield f"{seen.describe(limits.metric)} is {below} (gate.max_top1_drop_points {limits.max_top1_drop_points:g})"
    yield from _find_large_differences(reference, seen.differences, limits)


def make_comparable(reference: Floats, candidate: Floats, boxes: int) -> tuple[Floats, Floats]:
    """Return answers of a network and a file in which boxes weigh as logits do, and count where the network finds something.

    Args:
        reference: Of the network, [N, A, K + boxes], or without boxes [N, K, ...], which stay as they are.
        candidate: Of the file.
        boxes: How many of the last numbers of each answer are a box.
    """
    if not boxes or candidate.shape != reference.shape:
        return reference, candidate
    surest = reference[..., :-boxes].max(axis=-1, keepdims=True)  # [N, A, 1]
    shown = surest >= math.log(LEAST_SCORE / (1 - LEAST_SCORE))
    ours, theirs = (np.array(each, np.float32) for each in (reference, candidate))
    for each in (ours, theirs):
        each[..., -boxes:] = np.where(shown | ~np.isfinite(each[..., -boxes:]), each[..., -boxes:] / np.float32(BOX_UNIT), 0)
    return ours, theirs


class Differences(NamedTuple):
    """Differences between the logits of a file and those of its network, of any shape."""

    largest: Floats
    """Of each image, [N]; infinite where the file's logits are not finite."""
    relative_rms: float
    """RMS of all differences over that of the network's logits."""


def measure_differences(reference: Floats, candidate: Floats) -> Differences:
    """Return the differences of logits [N, K, ...], one image after the other, so that they may be many."""
    largest, squares, size = np.empty(len(reference)), 0.0, 0.0
    for row, (ours, theirs) in enumerate(zip(reference, candidate)):  # noqa: B905 (Python 3.9)
        with np.errstate(invalid="ignore"):
            difference = np.abs(theirs.astype(np.float64) - ours)
        largest[row] = difference.max() if np.isfinite(difference).all() else np.inf
        squares, size = squares + float(np.square(difference).sum()), size + float(np.square(ours, dtype=np.float64).sum())
    return Differences(largest, math.sqrt(squares / size) if size > 0 and math.isfinite(squares) else math.inf)


def get_usual_agreement(precision: str, *, is_dense: bool, boxes: int = 0) -> float:
    """Return the default bound of the agreement."""
    if boxes and precision == "int8":
        return INT8_OF_BOXES[0]
    return (DENSE_AGREEMENT if is_dense else AGREEMENT)[precision]


def find_difference_faults(reference: Floats, candidate: Floats, limits: Limits) -> Iterator[str]:
    """Yield every way in which logits of any shape differ too much from those of the network, whatever they mean.

    Args:
        reference: Of the network, [N, K, ...].
        candidate: Of the file.
        limits: Limits of the file.
    """
    if candidate.shape != reference.shape or candidate.dtype != np.float32:
        yield f"it gives {candidate.dtype} {list(candidate.shape)}, not float32 {list(reference.shape)}"
        return
    reference, candidate = make_comparable(reference, candidate, limits.boxes)
    seen = measure_differences(reference, candidate)
    broken = int((~np.isfinite(seen.largest)).sum())
    if broken:
        yield f"its logits are not finite on {broken} of {len(candidate)} images"
    yield from _find_large_differences(reference.reshape(len(reference), -1), seen.largest, limits)
    bound = INT8_OF_BOXES[1] if limits.boxes and limits.precision == "int8" else DENSE_RMS[limits.precision]
    if limits.is_dense and not broken and seen.relative_rms > bound:
        yield f"its logits differ by {seen.relative_rms:.3g} of their RMS, more than {bound:g}"


def record_any_differences(reference: Floats, candidate: Floats, boxes: int = 0) -> Recorded:
    """Return the differences of a file from its network, finite logits [N, K, ...], that bound it from now on."""
    largest = measure_differences(*make_comparable(reference, candidate, boxes)).largest
    return Recorded(float(largest.max()), float(np.median(largest)), 0)


def exceeds_budget(seen: Comparison, limits: Limits) -> bool:
    """Return whether the accuracy of a file dropped beyond the budget, and beyond the images that it was known to lose."""
    lost, images = 0 if limits.recorded is None else limits.recorded.lost, len(seen.differences)
    if limits.metric == BALANCED:  # of which classes they are was not recorded; an image of the rarest counts most
        images = seen.by_class.shape[1] * int(seen.by_class[3].min())
    return seen.get_drop(limits.metric) > max(limits.max_top1_drop_points, 100 * lost / images)


def _find_large_differences(reference: Floats, differences: Floats, limits: Limits) -> Iterator[str]:
    """Yield if logits differ by more than the precision allows, or by more than was recorded."""
    finite = np.flatnonzero(np.isfinite(differences))
    recorded = limits.recorded
    both = (
        (compute_precision_bounds(reference, limits), "(gate.max_abs_diff)"),
        *(
            []
            if recorded is None
            else [(_compute_recorded_bounds(reference, recorded), _explain_record(recorded.max_abs_diff))]
        ),
    )
    for bounds, why in both:
        excess = differences[finite] / bounds[finite].clip(min=1e-300)
        if excess.max(initial=0.0) > 1:
            worst = finite[excess.argmax()]
            yield f"a logit differs by {differences[worst]:.3g}, more than {bounds[worst]:.3g} {why}"
            return
    if recorded is None or not len(finite):
        return
    median = float(np.median(differences))
    allowed = max(TWICE * recorded.median_abs_diff, LEAST_MEDIAN[limits.precision] * max(1.0, _compute_rms(reference)))
    if not median <= allowed:
        why = _explain_record(recorded.median_abs_diff)
        yield f"on half of the images a logit differs by {median:.3g} or more, which is beyond {allowed:.3g} {why}"


def _explain_record(value: float) -> str:
    return f"(it differed by {value:.3g} when it was proved; it was changed since, or this processor computes otherwise)"


def compute_bound(logits: Floats, precision: str) -> float:
    """Return the default bound of a logit's difference on an image with logits as large as usual.

    Args:
        logits: Of the network, [N, K].
        precision: Of the file.
    """
    return BOUNDS[precision] * max(1.0, _compute_rms(logits))


def compute_default_bounds(logits: Floats, precision: str) -> Floats:
    """Return the default bound on each image, [N], from logits [N, K]."""
    each: Floats = BOUNDS[precision] * np.sqrt(_compute_mean_squares(logits))
    return each.clip(min=compute_bound(logits, precision))


def compute_precision_bounds(logits: Floats, limits: Limits) -> Floats:
    """Return the largest difference that is allowed on each image, [N], whatever was recorded, from logits [N, K]."""
    if limits.max_abs_diff is not None:
        return np.full(len(logits), limits.max_abs_diff)
    return compute_default_bounds(logits, limits.precision)


def _compute_recorded_bounds(logits: Floats, recorded: Recorded) -> Floats:
    """Return the largest difference on each image, [N], that what was recorded allows, from logits [N, K]."""
    bounds: Floats = np.maximum(TWICE * recorded.max_abs_diff, LEAST_LARGEST * np.abs(logits.astype(np.float64)).max(axis=1))
    return bounds


def _compute_rms(logits: Floats) -> float:
    if logits.shape[1] > MANY:
        return float(np.sqrt(_compute_mean_squares(logits).mean()))
    return float(np.sqrt(np.square(logits, dtype=np.float64).mean()))


def _compute_mean_squares(logits: Floats) -> Floats:
    """Return the mean square of each row, [N, K] -> [N]; of long rows one after the other, for they may fill the memory."""
    if logits.shape[1] > MANY:
        return np.array([np.square(row, dtype=np.float64).mean() for row in logits])
    squares: Floats = np.square(logits, dtype=np.float64).mean(axis=1)
    return squares


# ---- numbers of images in a call


def choose_batch_sizes(image_bytes: int) -> tuple[int, ...]:
    """Return the numbers of images in a call with which a file is tried that takes any.

    Args:
        image_bytes: Size of an image as the file takes it.
    """
    return (*SMALL_BATCHES, *(size for size in LARGE_BATCHES if size * image_bytes <= LARGE_BATCH_BYTES))


def plan_calls(images: int, sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Return calls as first image and number of images: one for each image alone, then one of each size from the first on.

    Args:
        images: How many there are; behind the last one the first follow.
        sizes: Numbers of images in a call.
    """
    return [*((number, 1) for number in range(count_alone(images, sizes))), *((0, size) for size in sizes)]


def count_alone(images: int, sizes: Sequence[int]) -> int:
    """Return how many images are fed alone: all that some call of `sizes` holds."""
    return min(images, max(sizes))


def find_batch_faults(
    together: FileOutputs, called: FileOutputs, sizes: Sequence[int], limits: Limits, *, shown: int, gives_class: bool
) -> Iterator[str]:
    """Yield how outputs of a file depend on how many images are in a call; nothing where they do not.

    Args:
        together: Outputs for all N images, in calls of the usual size.
        called: Outputs of the calls of `plan_calls`, one behind the other.
        sizes: Numbers of images in these calls.
        limits: Limits of the file.
        shown: How many of the images the calls were given.
        gives_class: Whether class and score are looked at, too.
    """
    count = count_alone(shown, sizes)
    alone = _take_rows(called, slice(0, count))
    wrong: list[int] = []
    told = [*find_batch_differences(alone.logits, together.logits[:count], limits=limits)]
    begin = count
    for size in sizes:
        outputs = _take_rows(called, slice(begin, begin + size))
        begin += size
        same = alone.logits[np.arange(size) % shown]
        found = [*find_batch_differences(same, outputs.logits, limits=limits)]
        found += [*find_score_errors(outputs, precision=limits.precision)] if gives_class and not found else []
        if found:
            wrong, told = [*wrong, size], told or [found[0]]
    if told:
        where = f"; so it is in calls of {_list_sizes(wrong)} images" if wrong else ""
        yield f"{told[0]}{where}"
    if gives_class:
        yield from (f"fed one by one, {error}" for error in find_score_errors(alone, precision=limits.precision))


def _take_rows(outputs: FileOutputs, rows: slice) -> Outputs:
    return Outputs(outputs.logits[rows], {name: values[rows] for name, values in outputs.further.items()})


def _list_sizes(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes)) if len(sizes) < 6 else f"{sizes[0]}, {sizes[1]} and {len(sizes) - 2} other numbers of"


def find_batch_differences(alone: NDArray[np.float32], together: NDArray[np.float32], *, limits: Limits) -> Iterator[str]:
    """Yield how the logits of an image depend on the other images of its call; nothing where they do not.

    Kernels for another batch size add up in another order, and in int8 a sum at the edge of a step then falls into the next
    one, so the logits may differ by a twentieth of what a precision below fp32 allows, and never by more than twice what was
    recorded.

    Args:
        alone: Logits of a call for each image, float32 [N, K, ...].
        together: Logits of the same file for the same images, several in a call, float32 [N, K, ...].
        limits: Limits of the file.
    """
    if alone.shape != together.shape:
        yield f"it gives {list(alone.shape)} for images fed one by one and {list(together.shape)} for the same in batches"
        return
    alone, together = (logits.reshape(len(logits), -1) for logits in (alone, together))
    known = np.nan_to_num(alone)
    bounds = (1.0 if limits.precision == "fp32" else 0.05) * compute_default_bounds(known, limits.precision)
    if limits.recorded is not None:
        bounds = np.minimum(bounds, _compute_recorded_bounds(known, limits.recorded))
    with np.errstate(invalid="ignore"):  # infinities of both sides
        differences = np.abs(alone.astype(np.float64) - together).max(axis=1)  # [N]
    differing = ~(differences <= bounds)
    if differing.any():
        first = int(np.flatnonzero(differing)[0])
        yield (
            f"{int(differing.sum())} of {len(alone)} images are answered otherwise alone than in a batch (image {first} by "
            f"{differences[first]:.3g}), as with batch-norm in training mode or a batch size that was fixed inside"
        )


# ---- class and score


def find_score_errors(outputs: FileOutputs, *, precision: str) -> Iterator[str]:
    """Yield each way in which class and score do not follow from the logits beside them.

    How good the logits are is judged elsewhere. This makes sure that an application that reads nothing but class and score gets
    the same result as one that reads the logits.

    Args:
        outputs: Of a file that must give both: logits [N, K], class and score [N]; of maps of logits [N, K, h, w] the classes
            alone, [N, H, W].
        precision: Of the file.
    """
    if outputs.logits.ndim > 2:
        yield from _find_wrong_maps(outputs, SCORE_BOUNDS[precision])
        return
    logits = outputs.logits.astype(np.float64)
    for name, kinds in SCORE_KINDS.items():
        found = outputs.further.get(name)
        if found is None:
            yield f"it gives no output {name!r}, which postprocess: inside requires"
        elif found.dtype.name not in kinds or found.shape != logits.shape[:1]:
            yield f"its output {name!r} is {found.dtype} {list(found.shape)}, not {kinds[0]} {list(logits.shape[:1])}"
        elif logits.ndim == 2 and np.isfinite(logits).all():  # other logits are found elsewhere
            yield from (
                _find_wrong_classes(logits, found) if name == CLASS
                else _find_wrong_scores(logits, found, SCORE_BOUNDS[precision])
            )  # fmt: skip


def _find_wrong_classes(logits: NDArray[np.float64], classes: NDArray[np.integer[Any]]) -> Iterator[str]:
    """Yield if a class is not that of a largest logit; where several are largest, any of them is right."""
    known = (classes >= 0) & (classes < logits.shape[1])
    chosen = logits[np.arange(len(logits)), np.where(known, classes, 0)]
    wrong = np.flatnonzero(~known | (chosen < logits.max(axis=1)))
    if len(wrong):
        first = int(wrong[0])
        best = int(logits[first].argmax())
        yield (
            f"its output {CLASS!r} is not that of the largest logit on {len(wrong)} of {len(logits)} images "
            f"(image {first}: {int(classes[first])}, not {best})"
        )


def _find_wrong_scores(logits: NDArray[np.float64], scores: NDArray[np.float32], bound: float) -> Iterator[str]:
    wanted = 1 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)  # [N]
    wrong = np.flatnonzero(~(np.abs(scores - wanted) <= bound))
    if len(wrong):
        first = int(wrong[0])
        yield (
            f"its output {SCORE!r} is not the softmax of the largest logit on {len(wrong)} of {len(logits)} images "
            f"(image {first}: {scores[first]:.4g}, not {wanted[first]:.4g})"
        )


def _find_wrong_maps(outputs: FileOutputs, bound: float) -> Iterator[str]:
    """Yield if a map of classes is not that of the largest of the enlarged logits beside it; of many, some are looked at."""
    found, images = outputs.further.get(CLASS), len(outputs.logits)
    if found is None:
        yield f"it gives no output {CLASS!r}, which postprocess: inside requires"
        return
    if found.dtype != np.uint8 or found.ndim != 3 or len(found) != images:
        yield f"its output {CLASS!r} is {found.dtype} {list(found.shape)}, not uint8 [{images}, height, width]"
        return
    for row in np.unique(np.linspace(0, images - 1, min(images, MAPS)).astype(int)).tolist():
        logits, answers = outputs.logits[row], found[row].astype(np.int64)
        if not np.isfinite(logits).all():  # found elsewhere
            continue
        enlarged = enlarge(logits, answers.shape)
        known = answers < len(enlarged)
        chosen = np.take_along_axis(enlarged, np.where(known, answers, 0)[None], axis=0)[0]
        allowed = bound * max(1.0, float(np.sqrt(np.square(logits, dtype=np.float64).mean())))
        wrong = int((~known | (chosen < enlarged.max(axis=0) - allowed)).sum())
        if wrong:
            yield (
                f"its output {CLASS!r} is not that of the largest logit, enlarged to the image, at {wrong} of {answers.size} "
                f"pixels of image {row}, as with another align_corners or the largest taken before enlarging"
            )
            return


def enlarge(maps: NDArray[np.float32], size: Sequence[int]) -> NDArray[np.float32]:
    """Return maps at another size, bilinear with corners not aligned: [K, h, w] -> [K, H, W]."""
    for axis, wanted in ((1, size[0]), (2, size[1])):
        given = maps.shape[axis]
        places = np.clip((np.arange(wanted) + 0.5) * (given / wanted) - 0.5, 0, None)
        first = np.minimum(places.astype(np.int64), given - 1)
        share = (places - first).astype(np.float32).reshape(-1, *([1] * (2 - axis)))
        one, other = (np.take(maps, rows, axis=axis) for rows in (first, np.minimum(first + 1, given - 1)))
        maps = one + (other - one) * share
    return maps


def is_usable(recorded: Recorded) -> bool:
    """Return whether what was recorded are numbers that can bound anything."""
    return all(math.isfinite(value) and value >= 0 for value in recorded)
