"""Laws of comparing two networks image by image and seed by seed: values known exactly, symmetry, and few false alarms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.report import paired
from compress.errors import CompressError
from compress.records import Accuracy, Score, Scores

T_975 = {1: 12.706204736, 2: 4.302652730, 4: 2.776445105}
"""Quantiles of Student's t by degrees of freedom, from printed tables."""

answers = st.lists(st.booleans(), min_size=1, max_size=40).map(lambda values: np.array(values, dtype=np.bool_))


def score(correct: np.ndarray, *, seed: int = 0) -> Score:
    accuracy = Accuracy.of(int(correct.sum()), len(correct))
    return Score(seed=seed, validation=accuracy, accuracy=accuracy, correct=paired.pack(correct))


def scores(network: str, *correct: np.ndarray, seeds: tuple[int, ...] = (), method: str = "any") -> Scores:
    numbers = seeds or tuple(range(len(correct)))
    return Scores(
        network=network, method=method, seeds=tuple(score(each, seed=seed) for each, seed in zip(correct, numbers, strict=True))
    )


def right(count: int, of: int, *, start: int = 0) -> np.ndarray:
    """Return answers of which `count` are right, from `start` on."""
    correct = np.zeros(of, dtype=np.bool_)
    correct[start : start + count] = True
    return correct


def p_by_enumeration(only_this: int, only_other: int) -> float:
    """Return McNemar's p as it is defined: the share of all ways to hand out the differing images that is as lopsided."""
    differing, gap = only_this + only_other, abs(only_this - only_other)
    outcomes = itertools.product((-1, 1), repeat=differing)
    return sum(abs(sum(signs)) >= gap for signs in outcomes) / 2**differing


@given(answers)
def test_answers_come_back_as_they_were(correct: np.ndarray) -> None:
    """Whatever the number of images, each keeps its own bit."""
    assert paired.unpack(score(correct)).tolist() == correct.tolist()


@pytest.mark.parametrize(("text", "problem"), [("????", "not base64"), ("AAAA", "holds 24 bits for 5 images")])
def test_damaged_answers_are_refused(text: str, problem: str) -> None:
    """Answers that are not those of the images are named, and what to do."""
    with pytest.raises(CompressError, match=f"{problem}.*run the recipe again"):
        paired.unpack(score(right(3, 5)).model_copy(update={"correct": text}))


@pytest.mark.parametrize(("only_this", "only_other"), [(0, 0), (1, 0), (0, 5), (6, 0), (4, 4), (9, 2), (3, 8)])
def test_mcnemar_is_what_enumeration_says(only_this: int, only_other: int) -> None:
    """The p-value counts every way in which the images that differ could have fallen."""
    this, other = right(5 + only_this, 40), np.concatenate([right(5, 5 + only_this), right(only_other, 35 - only_this)])
    found = paired.mcnemar(this, other)
    assert found[:2] == (only_this, only_other)
    assert found[2] == pytest.approx(p_by_enumeration(only_this, only_other), abs=1e-12)


@given(st.lists(st.floats(-20, 20), min_size=2, max_size=2) | st.lists(st.floats(-20, 20), min_size=3, max_size=3))
def test_interval_over_seeds_is_students(points: list[float]) -> None:
    """Mean ± t · s / √n with n - 1 degrees of freedom, as written by hand."""
    count, mean = len(points), sum(points) / len(points)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in points) / (count - 1))
    half = T_975[count - 1] * deviation / math.sqrt(count)
    assert paired.over_seeds(points) == pytest.approx((mean - half, mean + half), abs=1e-6)


def test_one_seed_has_no_interval_over_seeds() -> None:
    """Nothing is said of other seeds where there is one."""
    assert paired.over_seeds([1.0]) is None


differences = st.integers(1, 4).flatmap(
    lambda seeds: st.lists(st.lists(st.sampled_from([-1, 0, 1]), min_size=6, max_size=6), min_size=seeds, max_size=seeds)
)


@given(differences)
def test_swapping_two_networks_mirrors_the_interval(rows: list[list[int]]) -> None:
    """The comparison has no side: what one gains the other loses, to the last digit."""
    table = np.array(rows, dtype=np.int8)
    low, high = paired.over_images_and_seeds(table)
    assert paired.over_images_and_seeds(-table) == pytest.approx((-high, -low), abs=1e-9)
    assert -100 <= low <= high <= 100


def test_interval_over_images_is_that_of_the_mean() -> None:
    """For one pair on many images the interval is the mean ± 1.96 standard errors, to the bootstrap's own wobble."""
    table = np.random.default_rng(3).choice([-1, 0, 1], size=(1, 5000), p=[0.04, 0.9, 0.06]).astype(np.int8)
    mean, error = 100 * table.mean(), 100 * table.std() / math.sqrt(5000)
    low, high = paired.over_images_and_seeds(table)
    assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.1 * error)  # 4000 draws: 3 %


def test_seeds_that_disagree_widen_the_interval() -> None:
    """The same mean difference is less certain when it comes from one lucky seed."""
    agree, lucky = np.zeros((3, 300), dtype=np.int8), np.zeros((3, 300), dtype=np.int8)
    agree[:, :10], lucky[0, :30] = 1, 1
    (low, _), (lucky_low, lucky_high) = paired.over_images_and_seeds(agree), paired.over_images_and_seeds(lucky)
    assert low > 0 >= lucky_low
    assert lucky_high > paired.over_images_and_seeds(agree)[1]


@given(st.lists(answers, min_size=1, max_size=3).filter(lambda each: len({len(one) for one in each}) == 1))
def test_identical_answers_are_not_distinguishable(correct: list[np.ndarray]) -> None:
    """A network does not differ from itself, with whatever number of seeds."""
    found = paired.pair(scores("a", *correct), scores("b", *correct))
    assert (found.points, found.ci95, found.verdict) == (0.0, (0.0, 0.0), "not distinguishable")
    assert all(test.p_value == 1.0 for test in found.mcnemar)


def test_five_images_of_one_seed_are_not_enough() -> None:
    """Where only one network is right on five images, a bootstrap would be sure; McNemar's exact test is not, and rules."""
    few = paired.pair(scores("a", right(25, 200)), scores("b", right(20, 200)))
    assert few.ci95[0] > 0
    assert (few.mcnemar[0].p_value, few.verdict) == (pytest.approx(2 / 2**5), "not distinguishable")
    more = paired.pair(scores("a", right(28, 200)), scores("b", right(20, 200)))
    assert (more.verdict, more.pairing, more.seeds, more.images) == ("better", "images", 1, 200)
    assert paired.pair(scores("b", right(20, 200)), scores("a", right(28, 200))).verdict == "worse"


def test_several_seeds_need_both_witnesses() -> None:
    """Seeds that agree by chance to the last image do not make three images certain, nor do images a lucky seed."""
    same = [right(23, 200), right(23, 200)]
    flat = paired.pair(scores("a", *same), scores("b", right(20, 200), right(20, 200)))
    assert flat.ci95_over_seeds == pytest.approx((1.5, 1.5))
    assert flat.verdict == "not distinguishable"
    lucky = paired.pair(scores("a", right(80, 200), right(22, 200)), scores("b", right(20, 200), right(20, 200)))
    assert lucky.mcnemar[0].p_value < 0.001
    assert lucky.verdict == "not distinguishable"
    sure = paired.pair(scores("a", right(80, 200), right(82, 200)), scores("b", right(20, 200), right(20, 200)))
    assert (sure.verdict, sure.pairing, sure.seeds) == ("better", "images and seeds", 2)


@pytest.mark.parametrize(
    ("ci95", "over_seeds", "p_values", "verdict"),
    [
        ((0.1, 2.0), None, [0.049], "better"),
        ((0.1, 2.0), None, [0.05], "not distinguishable"),
        ((-2.0, -0.1), None, [0.01], "worse"),
        ((0.0, 2.0), None, [0.01], "not distinguishable"),
        ((0.1, 2.0), (0.2, 1.0), [0.9, 0.9], "better"),
        ((0.1, 2.0), (-0.2, 1.0), [0.01, 0.01], "not distinguishable"),
        ((-2.0, -0.1), (0.2, 1.0), [0.01, 0.01], "not distinguishable"),
    ],
)
def test_a_verdict_is_only_what_both_witnesses_allow(
    ci95: tuple[float, float], over_seeds: tuple[float, float] | None, p_values: list[float], verdict: str
) -> None:
    """The whole of both intervals on one side of 0, or of one with p below 0.05 for a single pair."""
    assert paired.verdict(ci95, over_seeds, p_values) == verdict


@pytest.mark.parametrize(("seeds", "luck"), [(1, 0.0), (3, 0.0), (3, 0.5)])
def test_equals_are_seldom_called_different(seeds: int, luck: float) -> None:
    """Two methods of the same worth are told apart in at most about one of twenty trials, also where seeds differ much."""
    random, alarms, trials = np.random.default_rng(7), 0, 100
    for _ in range(trials):
        easy = random.normal(3.0, 2.0, 300)  # images differ in how hard they are
        chance = [
            1 / (1 + np.exp(-easy - random.normal(0, luck, (seeds, 1)) - random.normal(0, 1, (seeds, 300)))) for _ in range(2)
        ]
        this, other = (random.random((seeds, 300)) < each for each in chance)
        alarms += paired.pair(scores("a", *this), scores("b", *other)).verdict != "not distinguishable"
    assert alarms / trials <= 0.09  # 5 % and two standard errors of 100 trials


def test_students_are_paired_by_seed_then_by_place_and_a_teacher_with_each() -> None:
    """Common seeds form the pairs; without any, the order does; a single teacher stands against every seed."""
    this = scores("student", *(right(count, 50) for count in (30, 31, 32)), seeds=(1, 2, 3))
    other = scores("kd", *(right(count, 50) for count in (20, 21)), seeds=(3, 2))
    found = paired.pair(this, other)
    assert [(test.seed, test.other_seed, test.only_this) for test in found.mcnemar] == [(2, 2, 10), (3, 3, 12)]
    apart = paired.pair(this, scores("kd", right(20, 50), right(21, 50), seeds=(8, 9)))
    assert [(test.seed, test.other_seed) for test in apart.mcnemar] == [(1, 8), (2, 9)]
    taught = paired.pair(this, scores("teacher", right(40, 50)))
    assert (taught.seeds, taught.points) == (3, pytest.approx(-18))
    alone = paired.pair(this, scores("kd", right(20, 50), seeds=(5,)))
    assert (alone.seeds, alone.pairing) == (1, "images")


def test_other_numbers_of_images_are_refused() -> None:
    """Answers on other images cannot be paired."""
    with pytest.raises(CompressError, match="5 and 6 test images cannot be paired"):
        paired.pair(scores("a", right(1, 5)), scores("b", right(1, 6)))


def test_who_is_compared_with_whom() -> None:
    """The student against every baseline and teacher, then the other baselines against the first that is plain kd."""
    networks = [("teacher0", "given"), ("teacher1", "given"), ("student", "dih"), ("supervised", "supervised"), ("kd", "kd")]
    every = [scores(network, right(3, 9), method=method) for network, method in networks]
    found = [(each.this, each.other) for each in paired.comparisons(every)]
    against = ["supervised", "kd", "teacher0", "teacher1"]
    assert found == [*(("student", other) for other in against), ("supervised", "kd")]
    assert paired.comparisons(every[2:3]) == ()
