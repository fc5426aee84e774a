"""Laws of comparing two networks image by image and seed by seed: values known exactly, symmetry, and few false alarms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.statistics.paired import (
    compute_interval_over_images_and_seeds,
    compute_interval_over_seeds,
    judge_difference,
    mcnemar,
)

T_975 = {1: 12.706204736, 2: 4.302652730, 4: 2.776445105}
"""Quantiles of Student's t by degrees of freedom, from printed tables."""


def p_by_enumeration(only_this: int, only_other: int) -> float:
    """Return McNemar's p as it is defined: the share of all ways to hand out the differing images that is as lopsided."""
    differing, gap = only_this + only_other, abs(only_this - only_other)
    outcomes = itertools.product((-1, 1), repeat=differing)
    return sum(abs(sum(signs)) >= gap for signs in outcomes) / 2**differing


@pytest.mark.parametrize(("only_this", "only_other"), [(0, 0), (1, 0), (0, 5), (6, 0), (4, 4), (9, 2), (3, 8)])
def test_mcnemar_is_what_enumeration_says(only_this: int, only_other: int) -> None:
    """The p-value counts every way in which the images that differ could have fallen."""
    images = np.arange(40)
    this = images < 5 + only_this
    other = (images < 5) | ((images >= 5 + only_this) & (images < 5 + only_this + only_other))
    found = mcnemar(this, other)
    assert found[:2] == (only_this, only_other)
    assert found[2] == pytest.approx(p_by_enumeration(only_this, only_other), abs=1e-12)


@given(st.lists(st.floats(-20, 20), min_size=2, max_size=2) | st.lists(st.floats(-20, 20), min_size=3, max_size=3))
def test_interval_over_seeds_is_students(points: list[float]) -> None:
    """Mean ± t · s / √n with n - 1 degrees of freedom, as written by hand."""
    count, mean = len(points), sum(points) / len(points)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in points) / (count - 1))
    half = T_975[count - 1] * deviation / math.sqrt(count)
    assert compute_interval_over_seeds(points) == pytest.approx((mean - half, mean + half), abs=1e-6)


def test_one_seed_has_no_interval_over_seeds() -> None:
    """Nothing is said of other seeds where there is one."""
    assert compute_interval_over_seeds([1.0]) is None


differences = st.integers(1, 4).flatmap(
    lambda seeds: st.lists(st.lists(st.sampled_from([-1, 0, 1]), min_size=6, max_size=6), min_size=seeds, max_size=seeds)
)


@given(differences)
def test_swapping_two_networks_mirrors_the_interval(rows: list[list[int]]) -> None:
    """The comparison has no side: what one gains the other loses, to the last digit."""
    table = np.array(rows, dtype=np.int8)
    low, high = compute_interval_over_images_and_seeds(table)
    assert compute_interval_over_images_and_seeds(-table) == pytest.approx((-high, -low), abs=1e-9)
    assert -100 <= low <= high <= 100


def test_interval_over_images_is_that_of_the_mean() -> None:
    """For one pair on many images the interval is the mean ± 1.96 standard errors, to the bootstrap's own wobble."""
    table = np.random.default_rng(3).choice([-1, 0, 1], size=(1, 5000), p=[0.04, 0.9, 0.06]).astype(np.int8)
    mean, error = 100 * table.mean(), 100 * table.std() / math.sqrt(5000)
    low, high = compute_interval_over_images_and_seeds(table)
    assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.1 * error)  # 4000 draws: 3 %


def test_seeds_that_disagree_widen_the_interval() -> None:
    """The same mean difference is less certain when it comes from one lucky seed."""
    agree, lucky = np.zeros((3, 300), dtype=np.int8), np.zeros((3, 300), dtype=np.int8)
    agree[:, :10], lucky[0, :30] = 1, 1
    (low, _), (lucky_low, lucky_high) = (
        compute_interval_over_images_and_seeds(agree),
        compute_interval_over_images_and_seeds(lucky),
    )
    assert low > 0 >= lucky_low
    assert lucky_high > compute_interval_over_images_and_seeds(agree)[1]


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
    assert judge_difference(ci95, over_seeds, p_values) == verdict
