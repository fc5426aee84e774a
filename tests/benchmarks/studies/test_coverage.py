"""The intervals of latencies cover what they say, and the study of it writes what it found."""

from __future__ import annotations

import pytest

from benchmarks.studies import coverage
from compress.records import read

DRAWS = 1000
WOBBLE = 0.015
"""Two standard errors of a share of 95 % among so many draws."""


@pytest.mark.parametrize("shape", ["log-normal", "exponential tail", "heavy tails"])
@pytest.mark.parametrize("rounds", [5, 6, 9, 15])
def test_intervals_cover_the_true_median(rounds: int, shape: coverage.Shape) -> None:
    """At least 94 of 100 intervals of independent rounds hold the true median, from the fewest rounds on."""
    found = coverage.simulate_coverage(rounds, shape=shape, size=0.02, correlation=0.0, draws=DRAWS)
    assert found.covered >= 0.955 - WOBBLE
    assert found.covered_if_stable is not None
    assert found.covered_if_stable >= 0.955 - WOBBLE


def test_independent_rounds_are_seldom_called_correlated() -> None:
    """On a quiet machine all but about one measurement in a hundred are stable."""
    assert coverage.simulate_coverage(15, shape="log-normal", size=0.01, correlation=0.0, draws=DRAWS).stable >= 0.98


def test_correlated_rounds_are_not_called_stable_while_the_interval_misses() -> None:
    """Of 15 rounds that resemble each other, intervals are wider or the latency is unstable: few misses pass as stable."""
    some = coverage.simulate_coverage(15, shape="log-normal", size=0.01, correlation=0.3, draws=DRAWS)
    much = coverage.simulate_coverage(15, shape="log-normal", size=0.01, correlation=0.9, draws=DRAWS)
    assert some.covered_if_stable is not None
    assert some.covered_if_stable >= 0.94
    assert much.stable <= 0.45


@pytest.mark.parametrize(("correlation", "most"), [(0.0, 0.01), (0.6, 0.03), (0.9, 0.08)])
def test_equal_files_are_seldom_called_different(correlation: float, most: float) -> None:
    """Two equal files are called different in 1 % of measurements, and in few where what disturbs each lasts for rounds."""
    assert coverage.simulate_false_verdicts(15, correlation=correlation, draws=DRAWS).different <= most


def test_the_study_is_the_same_everywhere() -> None:
    """The same draws give the same shares, whenever they are made, and the tables show them."""
    one, two = (coverage.simulate_coverage(9, shape="log-normal", size=0.05, correlation=0.3, draws=100) for _ in range(2))
    assert one == two
    equal = coverage.simulate_false_verdicts(9, correlation=0.3, draws=100)
    several = coverage.simulate_launches(3, 5, launch_size=0.01, correlation=0.6, carried=True, draws=100)
    text = coverage.render(coverage.Study(seed=0, coverage=(one,), launch_coverage=(several,), false_verdicts=(equal,)))
    assert f"| {100 * several.covered:.1f} | {100 * several.covered_by_rounds:.1f} |" in text
    assert f"| {100 * one.covered:.1f} | {100 * one.stable:.0f} |" in text
    assert f"| {100 * equal.different:.1f} | {100 * equal.unstable:.1f} |" in text


def test_the_committed_study_holds_what_is_promised() -> None:
    """In the committed results every kind of independent rounds is covered to 94 % or more."""
    study = read(coverage.OUT / "coverage.json", coverage.Study)
    assert all(each.covered >= 0.94 for each in study.coverage if each.correlation == 0)


@pytest.mark.parametrize(("launch_size", "correlation"), [(0.0, 0.9), (0.01, 0.0), (0.01, 0.6), (0.02, 0.9)])
def test_three_processes_cover_the_median_though_rounds_resemble_each_other(launch_size: float, correlation: float) -> None:
    """At least 94 of 100 intervals over three processes hold the median, where those of one process hold it in 53 of 100."""
    found = coverage.simulate_launches(3, 5, launch_size=launch_size, correlation=correlation, carried=False, draws=400)
    assert found.covered >= 0.945 - 0.02  # two standard errors
    assert found.covered_by_bootstrap < found.covered


def test_three_processes_seldom_call_equal_files_different() -> None:
    """With the disturbance that fools 15 rounds of one process in 6 of 100, three processes are fooled in 2 at most."""
    assert coverage.simulate_false_verdicts(15, correlation=0.9, launches=3, draws=DRAWS).different <= 0.02


def test_the_committed_study_shows_what_processes_are_good_for() -> None:
    """Where processes are independent, the committed results are covered to 93 % or more, within their wobble."""
    study = read(coverage.OUT / "coverage.json", coverage.Study)
    assert all(each.covered >= 0.95 for each in study.launch_coverage if not each.carried)
    often = [each for each in study.launch_coverage if each.stable >= coverage.FEWEST_STABLE]
    stable = {(each.launches, each.rounds, each.carried): 1.0 for each in often}
    for each in often:
        kind = each.launches, each.rounds, each.carried
        stable[kind] = min(stable[kind], each.covered_if_stable or 1.0)
    assert min(share for (launches, *_), share in stable.items() if launches == 3) >= 0.93
    assert coverage.find_least_covered(study.launch_coverage) == min(stable.values()) >= 0.90
