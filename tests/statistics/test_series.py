"""Laws of intervals, ratios and verdicts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.runner import is_steady
from compress.errors import CompressError
from compress.statistics import series

ROUNDS = st.lists(st.floats(0.1, 100), min_size=5, max_size=20)


@given(ROUNDS)
def test_a_series_against_itself_is_not_distinguishable(rounds: list[float]) -> None:
    """However noisy a series is, nothing is faster or slower than itself."""
    ci95 = series.compute_median_interval(series.compute_paired_ratios(rounds, rounds))
    assert ci95 == (1.0, 1.0)
    assert series.judge_ratio(ci95) == "not distinguishable"


@given(ROUNDS)
def test_half_the_time_is_twice_as_fast(rounds: list[float]) -> None:
    """Scaling a series by two gives the ratio two and its verdict, and one half the other way round."""
    double = [2 * value for value in rounds]
    low, high = series.compute_median_interval(series.compute_paired_ratios(double, rounds))
    assert low == pytest.approx(2)
    assert high == pytest.approx(2)
    assert series.judge_ratio((low, high)) == "faster"
    assert series.judge_ratio(series.compute_median_interval(series.compute_paired_ratios(rounds, double))) == "slower"


@given(ROUNDS, st.floats(0.5, 3))
def test_an_interval_has_the_unit_of_its_rounds_and_lies_among_them(rounds: list[float], unit: float) -> None:
    """The interval scales with its series, and its ends never leave the range of the rounds."""
    low, high = series.compute_median_interval(rounds)
    assert min(rounds) <= low <= np.median(rounds) <= high <= max(rounds)
    assert series.compute_median_interval([unit * value for value in rounds]) == pytest.approx((unit * low, unit * high))


@pytest.mark.parametrize("count", [5, 15])
def test_intervals_cover_the_true_median(count: int) -> None:
    """About 95 of 100 intervals hold the true median, also with few rounds and the long right tail of latencies."""
    random, hits, trials = np.random.default_rng(1), 0, 400
    for _ in range(trials):
        low, high = series.compute_median_interval(random.lognormal(0.0, 0.2, count).tolist())
        hits += low <= 1.0 <= high
    assert 0.91 <= hits / trials <= 0.99  # exact order statistics cover 93.8 and 96.5 %; 400 trials wobble by 2 points


def test_a_drift_common_to_both_cancels_in_the_ratio() -> None:
    """A machine that slows to half speed makes latencies unstable and leaves the comparison sharp."""
    random = np.random.default_rng(2)
    heat, noise = np.linspace(1, 2, 15), random.normal(1, 0.01, (2, 15))
    slow, fast = (3 * heat * noise[0]).tolist(), (2 * heat * noise[1]).tolist()
    assert not series.is_stable(slow)
    low, high = series.compute_median_interval(series.compute_paired_ratios(slow, fast))
    assert low < 1.5 < high
    assert high - low < 0.05


@pytest.mark.parametrize(
    ("rounds", "stable"),
    [
        pytest.param([1.0, 1.02, 0.99, 1.01, 1.0, 1.03], True, id="quiet"),
        pytest.param([1.0, 1.0, 1.0, 9.0, 1.0, 1.0, 1.0], True, id="one disturbed round"),
        pytest.param([1.0, 1.4, 1.0, 1.4, 1.0, 1.4], False, id="scattered"),
        pytest.param([1.0, 1.0, 1.0, 1.06, 1.12, 1.12, 1.12], False, id="throttled"),
    ],
)
def test_stability_sees_scatter_and_drift_but_forgives_one_round(rounds: list[float], stable: bool) -> None:
    """A series is flagged when its rounds scatter or drift, not for a single accident."""
    assert series.is_stable(rounds) is stable


@pytest.mark.parametrize(
    ("ci95", "verdict"),
    [
        ((1.05, 1.4), "faster"),
        ((0.5, 0.9), "slower"),
        ((0.98, 1.04), "not distinguishable"),
        ((1.01, 1.5), "unstable"),
        ((0.7, 1.3), "unstable"),
    ],
)
def test_a_verdict_is_only_what_the_interval_allows(ci95: tuple[float, float], verdict: str) -> None:
    """A difference needs the whole interval outside the margin, sameness a narrow one; between them nothing can be said."""
    assert series.judge_ratio(ci95) == verdict


def test_rounds_that_cannot_be_paired_are_refused() -> None:
    """Series from two measurements give no ratio."""
    with pytest.raises(CompressError, match="3 and 2 rounds cannot be paired"):
        series.compute_paired_ratios([1.0, 1.0, 1.0], [1.0, 1.0])
    with pytest.raises(CompressError, match="there are none"):
        series.compute_median_interval([])


def test_unpaired_figures_are_compared_by_their_medians() -> None:
    """What has no rounds in common: the order does not matter, twice as much is twice as much, and nothing is an error."""
    one, two = [10.0, 11.0, 9.0, 10.5, 9.5], [21.0, 19.0, 20.0, 22.0, 18.0]
    ratio, (low, high) = series.compute_unpaired_ratio(two, one)
    assert ratio == 2.0
    assert low < 2.0 < high
    assert series.compute_unpaired_ratio(sorted(two), one)[0] == ratio
    alike = series.compute_unpaired_ratio(one, one)[1]
    assert alike[0] < 1.0 < alike[1]
    with pytest.raises(CompressError, match="needs rounds"):
        series.compute_unpaired_ratio([], one)


@pytest.mark.parametrize(
    ("medians", "steady"),
    [
        pytest.param([5.0, 3.0, 2.0], False, id="too few to tell"),
        pytest.param([5.0, 3.0, 2.0, 1.5, 1.2], False, id="still getting faster"),
        pytest.param([5.0, 2.0, 2.01, 1.99, 2.0], True, id="flat"),
        pytest.param([2.0, 2.3, 2.5, 2.4], True, id="noise only makes slower"),
    ],
)
def test_warm_up_ends_when_nothing_gets_faster(medians: list[float], steady: bool) -> None:
    """Warm-up is detected from the series, and noise does not prolong it."""
    assert is_steady(medians) is steady
