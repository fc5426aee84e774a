"""What a reader can rely on in the words: differences and numbers are honest, and a problem is told once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.report import wording
from compress.records import Accuracy, Report
from tests.benchmarks.sample_report import sample


@pytest.fixture(scope="module")
def record() -> Report:
    return sample()


counts = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n)))


@given(counts)
def test_differences_are_antisymmetric_and_honest(case: tuple[int, int, int]) -> None:
    """Swapping two networks mirrors their interval, equal networks never differ, the interval holds the difference."""
    samples, first, second = case
    one, two = Accuracy.from_hits(first, samples), Accuracy.from_hits(second, samples)
    forth, back = wording.compute_difference(one, two), wording.compute_difference(two, one)
    assert (forth.points, forth.low, forth.high) == pytest.approx((-back.points, -back.high, -back.low), abs=1e-9)
    assert forth.low <= forth.points + 1e-9
    assert forth.points <= forth.high + 1e-9
    assert (forth.verdict == "not distinguishable") == (forth.low <= 0 <= forth.high)
    assert wording.compute_difference(one, one).verdict == "not distinguishable"


def test_difference_is_newcombes() -> None:
    """The published example of the hybrid score interval (56 of 70 against 48 of 80) is met to its four decimals."""
    difference = wording.compute_difference(Accuracy.from_hits(56, 70), Accuracy.from_hits(48, 80))
    assert (difference.low, difference.high) == pytest.approx((5.24, 33.39), abs=0.005)
    assert difference.verdict == "better"


def test_worth_calls_small_differences_by_their_name(record: Report) -> None:
    """Against plain training, two points on 360 images are not distinguishable; against the teacher, three are worse."""
    verdicts = {
        each.variant.method: each.to_supervised.verdict
        for each in wording.compare_methods(record)
        if each.to_supervised is not None
    }
    assert verdicts == {"kd": "not distinguishable", "dih(dist)": "not distinguishable"}
    supervised = next(each for each in wording.compare_methods(record) if each.variant.network == "supervised")
    assert supervised.to_teacher is not None
    assert supervised.to_teacher.verdict == "worse"


def test_causes_that_differ_in_their_numbers_are_told_once(record: Report) -> None:
    """One footnote for seven files that waited, with the range of what they waited."""
    first = wording.judge_rows(record)[0]
    said = [
        "its interval is wider than 10 % of it; it waited 41 % of the time in 9 of 15 rounds",
        "it waited 9.5 % of the time in 10 of 15 rounds",
        "",
        "its interval is wider than 10 % of it",
    ]
    assert wording.list_instabilities([first._replace(instability=each) for each in said]) == [
        "its interval is wider than 10 % of it (2 files)",
        "it waited 9.5–41 % of the time in 9–10 of 15 rounds (2 files)",
    ]
