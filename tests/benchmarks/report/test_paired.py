"""Comparing the scores of two ways of training: who is paired with whom, and which verdicts follow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.report import paired
from compress.errors import CompressError
from compress.records import Accuracy, Scores, SeedScore

answers = st.lists(st.booleans(), min_size=1, max_size=40).map(lambda values: np.array(values, dtype=np.bool_))


def score(correct: np.ndarray, *, seed: int = 0) -> SeedScore:
    accuracy = Accuracy.from_hits(int(correct.sum()), len(correct))
    return SeedScore(seed=seed, validation=accuracy, accuracy=accuracy, correct=paired.pack(correct))


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


@given(answers)
def test_answers_come_back_as_they_were(correct: np.ndarray) -> None:
    """Whatever the number of images, each keeps its own bit."""
    assert paired.unpack(score(correct)).tolist() == correct.tolist()


@pytest.mark.parametrize(("text", "problem"), [("????", "not base64"), ("AAAA", "holds 24 bits for 5 images")])
def test_damaged_answers_are_refused(text: str, problem: str) -> None:
    """Answers that are not those of the images are named, and what to do."""
    with pytest.raises(CompressError, match=f"{problem}.*run the recipe again"):
        paired.unpack(score(right(3, 5)).model_copy(update={"correct": text}))


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
    assert paired.explain_doubt(few) == "but McNemar's exact test does not tell them apart: p 0.062"
    more = paired.pair(scores("a", right(28, 200)), scores("b", right(20, 200)))
    assert paired.explain_doubt(more) == ""
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
    found = [(each.this, each.other) for each in paired.compare_all(every)]
    against = ["supervised", "kd", "teacher0", "teacher1"]
    assert found == [*(("student", other) for other in against), ("supervised", "kd")]
    assert paired.compare_all(every[2:3]) == ()
