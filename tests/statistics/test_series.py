"""Laws of intervals, ratios and verdicts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.timer import is_steady
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
def test_an_interval_has_the_unit_of_its_rounds_and_holds_their_median(rounds: list[float], unit: float) -> None:
    """The interval scales with its series and holds its median; from eight rounds on its ends are rounds."""
    low, high = series.compute_median_interval(rounds)
    assert low <= np.median(rounds) <= high
    assert len(rounds) < 8 or {low, high} <= set(rounds)
    assert series.compute_median_interval([unit * value for value in rounds]) == pytest.approx((unit * low, unit * high))


@given(ROUNDS)
def test_an_interval_knows_no_direction_of_time(rounds: list[float]) -> None:
    """The same rounds backwards give the same interval, and their inverses the inverse one."""
    low, high = series.compute_median_interval(rounds)
    assert series.compute_median_interval(rounds[::-1]) == pytest.approx((low, high))
    assert series.compute_median_interval([1 / value for value in rounds]) == pytest.approx((1 / high, 1 / low))


@pytest.mark.parametrize(("rounds", "beyond"), [(9, 1), (12, 2), (15, 3), (20, 5), (40, 13)])
def test_the_ends_are_those_of_the_sign_test(rounds: int, beyond: int) -> None:
    """For rounds in an order that has no pattern, the ends are the order statistics of the exact 95 % interval of a median."""
    from scipy.stats import binom

    values = np.arange(1.0, rounds + 1)
    low, high = series.compute_median_interval(
        np.ravel([values[: rounds // 2 + rounds % 2], values[::-1][: rounds // 2 + rounds % 2]], order="F")[:rounds].tolist()
    )
    assert (low, high) == (beyond + 1, rounds - beyond)
    assert 1 - 2 * binom.cdf(beyond, rounds, 0.5) >= 0.95 > 1 - 2 * binom.cdf(beyond + 1, rounds, 0.5)


@given(st.lists(st.floats(0.1, 100), min_size=5, max_size=20))
def test_the_order_of_rounds_is_tested_by_their_ranks(rounds: list[float]) -> None:
    """How far apart rounds lie does not matter: any growing function of them has the same correlation."""
    grown = [value**3 for value in rounds]
    assert series.compute_serial_correlation(grown) == pytest.approx(series.compute_serial_correlation(rounds))
    assert series.is_correlated(grown) is series.is_correlated(rounds)


def test_rounds_that_follow_each_other_are_unstable() -> None:
    """A slow wave of half a percent leaves every other rule content, yet its rounds are no independent evidence."""
    wave = (1 + 0.005 * np.sin(np.linspace(0, 2 * np.pi, 15))).tolist()
    assert series.is_correlated(wave)
    assert "resembles the one before it" in series.explain_instability(wave)
    low, high = series.compute_median_interval(wave)
    assert (low, high) == (min(wave), max(wave))
    shuffled = np.random.default_rng(3).permutation(wave).tolist()
    assert not series.is_correlated(shuffled)
    assert series.explain_instability(shuffled) == ""


def test_equal_rounds_are_not_correlated() -> None:
    """A clock too coarse to tell rounds apart is no sign of one round resembling the next."""
    assert series.compute_serial_correlation([2.0] * 9) == 0
    assert not series.is_correlated([2.0] * 9)


def test_a_correlated_ratio_must_be_large() -> None:
    """Where rounds of a ratio follow each other, 5 % is no difference and twofold is one."""
    assert series.judge_ratio((1.05, 1.08)) == "faster"
    assert series.judge_ratio((1.05, 1.08), doubtful=True) == "unstable"
    assert series.judge_ratio((0.99, 1.01), doubtful=True) == "unstable"
    assert series.judge_ratio((1.9, 2.1), doubtful=True) == "faster"
    assert series.judge_ratio((0.4, 0.6), doubtful=True) == "slower"


def test_a_drift_common_to_both_cancels_in_the_ratio() -> None:
    """A machine that slows to half speed makes latencies unstable and leaves the comparison sharp."""
    random = np.random.default_rng(2)
    heat, noise = np.linspace(1, 2, 15), random.normal(1, 0.01, (2, 15))
    slow, fast = (3 * heat * noise[0]).tolist(), (2 * heat * noise[1]).tolist()
    assert series.explain_instability(slow)
    low, high = series.compute_median_interval(series.compute_paired_ratios(slow, fast))
    assert low < 1.5 < high
    assert high - low < 0.05


@pytest.mark.parametrize(
    ("rounds", "stable"),
    [
        pytest.param([1.0, 1.02, 0.99, 1.01, 1.0, 1.03], True, id="quiet"),
        pytest.param([1.0, 1.0, 1.0, 1.0, 9.0, 1.0, 1.0, 1.0, 1.0], True, id="one disturbed round"),
        pytest.param([1.0, 1.0, 1.0, 9.0, 1.0, 1.0], False, id="one disturbed round of few"),
        pytest.param([1.0, 1.4, 1.0, 1.4, 1.0, 1.4], False, id="scattered"),
        pytest.param([1.0, 1.0, 1.0, 1.06, 1.12, 1.12, 1.12], False, id="throttled"),
    ],
)
def test_stability_sees_scatter_and_drift_but_forgives_one_round(rounds: list[float], stable: bool) -> None:
    """A series is flagged when its rounds scatter or drift, not for a single accident among nine or more."""
    assert (not series.explain_instability(rounds)) is stable


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


@given(st.lists(st.floats(0.1, 100), min_size=6, max_size=15), st.integers(2, 3))
def test_several_processes_never_make_an_interval_shorter(rounds: list[float], launches: int) -> None:
    """The interval over processes holds that of the rounds alone and scales with the unit; equal rounds have no width."""
    made = [len(part) for part in np.array_split(rounds, launches)]
    low, high = series.compute_median_interval(rounds, made)
    inner = series.compute_median_interval(rounds)
    assert low <= inner[0]
    assert high >= inner[1]
    assert series.compute_median_interval([2 * value for value in rounds], made) == pytest.approx((2 * low, 2 * high))
    assert series.compute_median_interval([3.0] * len(rounds), made) == pytest.approx((3.0, 3.0))


def test_rounds_that_no_process_made_are_refused() -> None:
    """Processes that made another number of rounds than there are give no interval."""
    with pytest.raises(CompressError, match=r"4 rounds above 0 are needed for processes that made \[2, 3\]"):
        series.compute_median_interval([1.0, 2.0, 3.0, 4.0], [2, 3])


def test_correlation_is_no_fault_of_several_processes() -> None:
    """Rounds that resemble each other make one process unstable; three processes allow for it in their interval."""
    rounds = [1 + 0.001 * number for number in range(15)]
    assert "each round resembles" in series.explain_instability(rounds)
    assert series.explain_instability(rounds, [5, 5, 5]) == ""
