"""Two ways of training on the same test images: is one better, or may it be the images, or the luck of a seed?

A network is right or wrong on each image, so two networks are compared on each image and, where both were trained with
several seeds, within each seed. Three questions are told apart:

* these two networks, other images: McNemar's exact test on the images where they differ, for each pair;
* these images, other seeds: Student's t interval of the pairs' differences;
* other images and other seeds: a bootstrap that draws both anew.

Nothing is corrected for how many comparisons are made: of twenty pairs of equals, one may be called different. A single seed
answers for its two networks alone: which of two methods is better, other seeds would often decide otherwise.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from itertools import chain
from re import fullmatch
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from compress.errors import CompressError
from compress.records import McNemar, Paired, Score, Scores

Correct = NDArray[np.bool_]
Verdict = Literal["better", "worse", "not distinguishable"]
Interval = tuple[float, float]

LEVEL, SIGNIFICANT = 0.95, 0.05
RESAMPLES = 4000
"""Bootstrap resamples, as for latencies."""
CHUNKS = 20
"""A part of them is in memory at a time."""


def pack(correct: Correct) -> str:
    """Return which images are right, [N], as text; `unpack` is the inverse."""
    return base64.b64encode(np.packbits(correct).tobytes()).decode("ascii")


def unpack(score: Score) -> Correct:
    """Return which test images a network got right, [N].

    Raises:
        CompressError: The text is not that of the score's images.
    """
    images = score.accuracy.samples
    try:
        bits = np.unpackbits(np.frombuffer(base64.b64decode(score.correct, validate=True), dtype=np.uint8))
    except binascii.Error as error:
        raise CompressError(f"scores.correct: {score.correct[:20]!r} is not base64 ({error}); run the recipe again") from error
    if len(bits) != -(-images // 8) * 8:
        raise CompressError(f"scores.correct: holds {len(bits)} bits for {images} images; run the recipe again")
    return bits[:images].astype(np.bool_)


def mcnemar(this: Correct, other: Correct) -> tuple[int, int, float]:
    """Return on how many images only this, and only the other, is right, and the two-sided p-value of McNemar's exact test.

    Where the two differ, each is right as often as a fair coin if neither is better (McNemar 1947, the binomial form).
    """
    from scipy.stats import binomtest

    only_this, only_other = int((this & ~other).sum()), int((other & ~this).sum())
    differing = only_this + only_other
    return only_this, only_other, float(binomtest(only_this, differing).pvalue) if differing else 1.0


def over_seeds(points: Sequence[float]) -> Interval | None:
    """Return the 95 % interval of the mean of differences by Student's t, in their unit; `None` for fewer than two."""
    from scipy.stats import t

    if len(points) < 2:
        return None
    mean, error = float(np.mean(points)), float(np.std(points, ddof=1)) / len(points) ** 0.5
    half = float(t.ppf((1 + LEVEL) / 2, len(points) - 1)) * error
    return mean - half, mean + half


def over_images_and_seeds(differences: NDArray[np.int8], *, seed: int = 0) -> Interval:
    """Return the 95 % percentile-bootstrap interval of the mean of differences, in points.

    Images and seeds are drawn anew, each with replacement and independently of the other, because every seed sees every image
    (Owen 2007, the pigeonhole bootstrap). It is cautious about images and, with few seeds, too sure about seeds, so a verdict
    also asks `over_seeds`. Swapping the two networks mirrors it exactly.

    Args:
        differences: Right minus right, -1, 0 or 1, [seeds, images].
        seed: Of the draws.
    """
    seeds, images = differences.shape
    patterns, first, counts = np.unique(differences, axis=1, return_index=True, return_counts=True)  # [seeds, patterns]
    order = np.argsort(first)  # the same for both signs
    draws = np.random.default_rng(seed)
    of_seeds = draws.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds  # [resamples, seeds]
    means = []
    for some in np.array_split(of_seeds, CHUNKS):
        of_images = draws.multinomial(images, counts[order] / images, size=len(some)) / images  # [some, patterns]
        means.append(100 * ((some @ patterns[:, order]) * of_images).sum(axis=1))
    low, high = np.percentile(np.concatenate(means), (50 * (1 - LEVEL), 50 * (1 + LEVEL)))
    return float(low), float(high)


def verdict(ci95: Interval, ci95_over_seeds: Interval | None, p_values: Sequence[float]) -> Verdict:
    """Return what two intervals of a difference, or one and McNemar's p-value for a single pair, allow to say.

    With few images the bootstrap of one pair is too narrow, and with few seeds that of several; the second witness is exact
    for images, and knows how few the seeds are.
    """
    intervals = [ci95] if ci95_over_seeds is None else [ci95, ci95_over_seeds]
    if ci95_over_seeds is None and min(p_values) >= SIGNIFICANT:
        return "not distinguishable"
    if all(low > 0 for low, _ in intervals):
        return "better"
    return "worse" if all(high < 0 for _, high in intervals) else "not distinguishable"


def pair(this: Scores, other: Scores, *, names: tuple[str, str] | None = None) -> Paired:
    """Return this way of training against another, on the same test images.

    Students are paired by their seed, or by their place where they have no seed in common. A teacher stands against each, for
    it is given and not one of many.

    Args:
        this: Its scores.
        other: The scores of what it is compared with.
        names: What to call the two; default: their networks.

    Raises:
        CompressError: They were not tested on the same number of images.
    """
    pairs = _pairs(this, other)
    mine, theirs = (np.stack([unpack(score) for score in side]) for side in zip(*pairs, strict=True))  # [seeds, images]
    differences = mine.astype(np.int8) - theirs.astype(np.int8)
    points = (100 * differences.mean(axis=1)).tolist()
    tests = tuple(
        McNemar(seed=one.seed, other_seed=two.seed, **dict(zip(("only_this", "only_other", "p_value"), found, strict=True)))
        for (one, two), found in zip(pairs, map(mcnemar, mine, theirs), strict=True)
    )
    ci95, between = over_images_and_seeds(differences), over_seeds(points)
    return Paired(
        this=names[0] if names else this.network,
        other=names[1] if names else other.network,
        pairing="images" if between is None else "images and seeds",
        seeds=len(pairs),
        images=mine.shape[1],
        points=float(np.mean(points)),
        ci95=ci95,
        ci95_over_seeds=between,
        mcnemar=tests,
        verdict=verdict(ci95, between, [test.p_value for test in tests]),
    )


def _pairs(this: Scores, other: Scores) -> list[tuple[Score, Score]]:
    mine, theirs = this.seeds, other.seeds
    counts = mine[0].accuracy.samples, theirs[0].accuracy.samples
    if counts[0] != counts[1]:
        raise CompressError(f"{counts[0]} and {counts[1]} test images cannot be paired; compare what was tested on the same")
    if is_teacher(other.network):
        return [(score, theirs[0]) for score in mine]
    by_seed = {score.seed: score for score in theirs}
    common = [(score, by_seed[score.seed]) for score in mine if score.seed in by_seed]
    return common or list(zip(mine, theirs, strict=False))


def comparisons(scores: Sequence[Scores]) -> tuple[Paired, ...]:
    """Return the student against each baseline and teacher, then the other baselines against the first that is plain `kd`."""
    students = [each for each in scores if each.network == "student"]
    baselines = [each for each in scores if each.network != "student" and not is_teacher(each.network)]
    teachers = [each for each in scores if is_teacher(each.network)]
    plain = next((each for each in baselines if each.method == "kd"), None)
    return tuple(chain(_against(students, [*baselines, *teachers]), _against(baselines, [plain] if plain else [])))


def _against(these: Sequence[Scores], others: Sequence[Scores]) -> Iterator[Paired]:
    return (pair(this, other) for this in these for other in others if this is not other)


def is_teacher(network: str) -> bool:
    """Return whether a network of a report is a teacher."""
    return fullmatch(r"teacher\d*", network) is not None
