"""Compare the scores of two ways of training on the same test images (`compress.statistics.paired` holds the mathematics)."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from re import fullmatch
from typing import Any

import numpy as np

from compress.errors import CompressError
from compress.records import McNemar, Paired, Scores, SeedScore
from compress.statistics import tallies as intervals
from compress.statistics.paired import (
    Correct,
    compute_interval_over_images_and_seeds,
    compute_interval_over_seeds,
    judge_difference,
    mcnemar,
)
from compress.tasks import CLASSIFICATION, Tallies, Task, load_task
from compress.tasks.classification import is_right
from compress.text import format_number, format_signed


def pack(correct: Correct) -> str:
    """Encode which images are right, [N], as base64 text; `unpack` is the inverse."""
    return base64.b64encode(np.packbits(correct).tobytes()).decode("ascii")


def pack_scores(task: Task, tallies: Tallies) -> dict[str, Any]:
    """Return the field of a record that keeps how a network did on each image, of rows [N, S]."""
    if task.name == CLASSIFICATION.name:
        return {"correct": pack(is_right(tallies))}
    return {"tallies": base64.b64encode(zlib.compress(tallies.astype("<i4").tobytes())).decode("ascii")}


def _unpack_tallies(score: SeedScore) -> Tallies:
    """Decode the row of numbers of each test image, [N, S].

    Raises:
        CompressError: The text is not that of the score's images.
    """
    try:
        values = np.frombuffer(zlib.decompress(base64.b64decode(score.tallies, validate=True)), "<i4")
        return values.reshape(score.accuracy.samples, -1).astype(np.int64)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise CompressError(
            f"scores.tallies: {score.tallies[:20]!r} are not tallies ({error}); run the recipe again"
        ) from error


def unpack(score: SeedScore) -> Correct:
    """Decode which test images a network got right, [N].

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


def pair(this: Scores, other: Scores, *, names: tuple[str, str] | None = None) -> Paired:
    """Compare two methods, paired by test image and seed.

    Students are paired by their seed, or by their place where they have no seed in common. A teacher is one network and is
    paired with each student.

    Args:
        this: Its scores.
        other: The scores of what it is compared with.
        names: Of the two in the record; default: their networks.

    Raises:
        CompressError: They were not tested on the same number of images.
    """
    pairs = _match_seeds(this, other)
    if this.task != CLASSIFICATION.name:
        return _pair_tallies(load_task(this.task), pairs, names or (this.network, other.network))
    mine, theirs = (np.stack([unpack(score) for score in side]) for side in zip(*pairs, strict=True))  # [seeds, images]
    differences = mine.astype(np.int8) - theirs.astype(np.int8)
    points = (100 * differences.mean(axis=1)).tolist()
    tests = tuple(
        McNemar(seed=one.seed, other_seed=two.seed, **dict(zip(("only_this", "only_other", "p_value"), found, strict=True)))
        for (one, two), found in zip(pairs, map(mcnemar, mine, theirs), strict=True)
    )
    ci95, between = compute_interval_over_images_and_seeds(differences), compute_interval_over_seeds(points)
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
        verdict=judge_difference(ci95, between, [test.p_value for test in tests]),
    )


def explain_doubt(found: Paired) -> str:
    """Return what keeps a difference from being one although its interval leaves out 0; nothing where the two agree."""
    low, high = found.ci95
    if found.verdict != "not distinguishable" or low <= 0 <= high:
        return ""
    if found.ci95_over_seeds is not None:
        return f"but over seeds it is {' to '.join(format_signed(bound, 1) for bound in found.ci95_over_seeds)}"
    p_values = [test.p_value for test in found.mcnemar] or list(found.swap_p_values)
    test = "McNemar's exact test" if found.mcnemar else "the swap test"
    return f"but {test} does not tell them apart: p {format_number(min(p_values), 2)}" if p_values else found.note


def _pair_tallies(task: Task, pairs: Sequence[tuple[SeedScore, SeedScore]], names: tuple[str, str]) -> Paired:
    """Compare two methods of a task by the rows of numbers of each image."""
    rows = [(_unpack_tallies(one), _unpack_tallies(two)) for one, two in pairs]
    images = len(rows[0][0])
    scores = [(partial(task.score, one), partial(task.score, two)) for one, two in rows]
    once = np.ones((1, images), np.int64)
    points = [float((this(once) - other(once))[0]) for this, other in scores]
    draws = task.metric.draws
    ci95 = intervals.compute_interval_over_images_and_seeds(scores, images, draws=draws)
    between = compute_interval_over_seeds(points)
    both = [partial(task.score, np.concatenate([one, two])) for one, two in rows]
    swapped = [intervals.compute_swap_p_value(score, images, draws=draws) for score in both]
    return Paired(
        this=names[0], other=names[1], pairing="images" if between is None else "images and seeds", seeds=len(pairs),
        images=images, points=float(np.mean(points)), ci95=ci95, ci95_over_seeds=between, swap_p_values=tuple(swapped),
        verdict=judge_difference(ci95, between, swapped),
    )  # fmt: skip


def _match_seeds(this: Scores, other: Scores) -> list[tuple[SeedScore, SeedScore]]:
    mine, theirs = this.seeds, other.seeds
    counts = mine[0].accuracy.samples, theirs[0].accuracy.samples
    if counts[0] != counts[1]:
        raise CompressError(f"{counts[0]} and {counts[1]} test images cannot be paired; compare what was tested on the same")
    if is_teacher(other.network):
        return [(score, theirs[0]) for score in mine]
    by_seed = {score.seed: score for score in theirs}
    common = [(score, by_seed[score.seed]) for score in mine if score.seed in by_seed]
    return common or list(zip(mine, theirs, strict=False))


def compare_all(scores: Sequence[Scores]) -> tuple[Paired, ...]:
    """Compare the student with each baseline and teacher, then the other baselines against the first that is plain `kd`."""
    students = [each for each in scores if each.network == "student"]
    baselines = [each for each in scores if each.network != "student" and not is_teacher(each.network)]
    teachers = [each for each in scores if is_teacher(each.network)]
    plain = next((each for each in baselines if each.method == "kd"), None)
    return tuple(chain(_pair_all(students, [*baselines, *teachers]), _pair_all(baselines, [plain] if plain else [])))


def _pair_all(these: Sequence[Scores], others: Sequence[Scores]) -> Iterator[Paired]:
    return (pair(this, other) for this in these for other in others if this is not other)


def is_teacher(network: str) -> bool:
    """Return whether a network of a report is a teacher."""
    return fullmatch(r"teacher\d*", network) is not None
