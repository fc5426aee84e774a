"""The interval of a share is the one that its definition gives."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.statistics.proportions import compute_wilson_interval


def wilson_by_bisection(correct: int, samples: int, *, upper: bool) -> float:
    """Return a bound as its definition has it: the share p whose score test statistic is exactly 1.96."""
    share = correct / samples
    low, high = (share, 1.0) if upper else (0.0, share)
    for _ in range(200):
        middle = (low + high) / 2
        beyond = abs(share - middle) > 1.959963984540054 * math.sqrt(middle * (1 - middle) / samples)
        if beyond == upper:
            high = middle
        else:
            low = middle
    return (low + high) / 2


@given(st.integers(1, 20_000).flatmap(lambda samples: st.tuples(st.integers(0, samples), st.just(samples))))
def test_the_wilson_interval_solves_the_score_test(case: tuple[int, int]) -> None:
    """The 95 % interval holds exactly the shares that a score test at 5 % does not refuse."""
    low, high = compute_wilson_interval(*case)
    assert 0 <= low <= case[0] / case[1] <= high <= 1
    assert low == pytest.approx(wilson_by_bisection(*case, upper=False), abs=1e-8)  # bisection of doubles ends near 1e-10
    assert high == pytest.approx(wilson_by_bisection(*case, upper=True), abs=1e-8)
