"""The interval over processes: its parts are those of textbooks, and it allows for what fifteen rounds cannot show."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import t

from compress.statistics import launches
from compress.statistics.launches import compute_launch_interval

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def fresh_models() -> None:
    """Keep no model of a test that had others."""
    launches._list_models.cache_clear()


def quiet(count: int = 15) -> NDArray[np.float64]:
    return np.exp(RANDOM.normal(0, 0.01, count))


def test_one_model_alone_is_students(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rounds are independent and processes alike, it is SciPy's t interval of the logarithms."""
    monkeypatch.setattr(launches, "RESEMBLANCES", {0.0: 1.0})
    monkeypatch.setattr(launches, "DIFFERENCES", (0.0,))
    monkeypatch.setattr(launches, "CLIPPED", 1e9)
    values = np.log(rounds := quiet())
    expected = np.exp(t.interval(0.95, 14, values.mean(), values.std(ddof=1) / 15**0.5))
    assert compute_launch_interval(rounds.tolist(), [5, 5, 5]) == pytest.approx(expected)


def test_processes_that_differ_alone_are_students_of_their_means(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where processes differ far more than rounds, the middle is that of their means, and its error theirs."""
    monkeypatch.setattr(launches, "RESEMBLANCES", {0.0: 1.0})
    monkeypatch.setattr(launches, "DIFFERENCES", (1e6,))
    monkeypatch.setattr(launches, "CLIPPED", 1e9)
    rounds = quiet()
    low, high = np.log(compute_launch_interval(rounds.tolist(), [5, 5, 5]))
    assert (low + high) / 2 == pytest.approx(np.log(rounds).reshape(3, 5).mean(), abs=1e-9)


def test_models_are_weighed_by_their_restricted_likelihood(monkeypatch: pytest.MonkeyPatch) -> None:
    """95 % of the average lies between the ends, its weights taken from contrasts of the rounds, as books derive them."""
    monkeypatch.setattr(launches, "CLIPPED", 1e9)
    made = [5, 4, 6]
    rounds = quiet() * np.exp(np.repeat([0.0, 0.02, 0.03], made))
    values, of = np.log(rounds), np.repeat(np.arange(3), made)
    contrasts = np.linalg.svd(np.ones((1, 15)))[2][1:]  # [14, 15], orthogonal to what all rounds have in common
    parts = []
    for resemblance, prior in launches.RESEMBLANCES.items():
        for difference in launches.DIFFERENCES:
            gaps = np.abs(np.arange(15)[:, None] - np.arange(15))
            covariance = resemblance**gaps + difference * (of[:, None] == of)
            seen = contrasts @ values
            of_contrasts = contrasts @ covariance @ contrasts.T
            misfit = seen @ np.linalg.solve(of_contrasts, seen)
            likelihood = np.linalg.det(of_contrasts) ** -0.5 * misfit ** (-14 / 2)
            error = 1 / np.linalg.solve(covariance, np.ones(15)).sum()
            middle = np.linalg.solve(covariance, values).sum() * error
            parts.append((prior * likelihood, middle, (misfit / 14 * error) ** 0.5))
    weights = np.array([part[0] for part in parts])
    ends = np.log(compute_launch_interval(rounds.tolist(), made))
    for end, share in zip(ends, (0.025, 0.975), strict=True):
        below = [t.cdf(end, 14, middle, scale) for _, middle, scale in parts]
        assert weights @ below / weights.sum() == pytest.approx(share, abs=1e-6)


def test_one_accident_does_no_harm() -> None:
    """A round that was disturbed ninefold moves the interval no farther than a round at the edge of the others."""
    rounds = quiet()
    before = compute_launch_interval(rounds.tolist(), [5, 5, 5])
    rounds[7] *= 9
    low, high = compute_launch_interval(rounds.tolist(), [5, 5, 5])
    assert high / low < (before[1] / before[0]) ** 2


def test_a_process_that_differs_is_no_accident() -> None:
    """All rounds of one process 5 % above the others: the interval holds both levels."""
    rounds = quiet() * np.exp(np.repeat([0.0, 0.0, 0.05], 5))
    low, high = compute_launch_interval(rounds.tolist(), [5, 5, 5])
    assert low < 1.0
    assert high > 1.04


def test_rounds_that_resemble_each_other_count_for_less() -> None:
    """The same rounds in order of size, as when a machine warms up slowly, are worth less than shuffled."""
    rounds = np.sort(quiet())
    warming = compute_launch_interval(rounds.tolist(), [5, 5, 5])
    mixed = compute_launch_interval(np.random.default_rng(1).permutation(rounds).tolist(), [5, 5, 5])
    assert warming[1] / warming[0] > (mixed[1] / mixed[0]) ** 1.2


def test_equal_rounds_have_no_width() -> None:
    """A clock too coarse to tell rounds apart gives one figure."""
    assert compute_launch_interval([3.0] * 6, [3, 3]) == pytest.approx((3.0, 3.0))
