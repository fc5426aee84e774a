"""The interval of a drop is Tango's: by its definition, by a published table, and by how often it holds the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.statistics.paired_drop import MOST_IMAGES, compute_drop_interval, count_images_needed


def restricted_variance(only_first: int, only_second: int, images: int, difference: float) -> float:
    """Variance of the observed difference under the likeliest table with that difference, by brute force over tables."""
    lowest = max(0.0, -difference)
    second = np.linspace(lowest, (1 - difference) / 2, 200_001)  # share of images on which only the second is right
    first = second + difference
    with np.errstate(divide="ignore", invalid="ignore"):
        both = 1 - first - second
        parts = [(only_first, first), (only_second, second), (images - only_first - only_second, both)]
        likelihood = sum(np.where(count == 0, 0.0, count * np.log(np.maximum(share, 1e-300))) for count, share in parts)
    best = second[likelihood.argmax()]
    return images * (2 * best + difference - difference**2)


@pytest.mark.parametrize(
    ("only_first", "only_second", "images"), [(7, 1, 21), (0, 0, 100), (3, 0, 50), (12, 9, 400), (0, 5, 30)]
)
def test_the_interval_ends_where_the_score_test_rejects(only_first: int, only_second: int, images: int) -> None:
    """At both ends the score statistic, with its variance found by brute force, is 1.96: Tango's definition."""
    low, high = compute_drop_interval(only_first, only_second, images)
    assert low <= 100 * (only_first - only_second) / images <= high
    for end in (low / 100, high / 100):
        surplus = only_first - only_second - images * end
        score = surplus / np.sqrt(restricted_variance(only_first, only_second, images, end))
        assert abs(score) == pytest.approx(1.959964, rel=2e-3)  # the grid of tables is finite


def test_the_interval_of_a_published_table() -> None:
    """Airway hyper-responsiveness before and after transplantation: in Fagerland et al. (2014) it is -0.517 to -0.026."""
    assert compute_drop_interval(1, 7, 21) == pytest.approx((-51.7, -2.6), abs=0.05)


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Over all outcomes with 60 images, weighted by how likely they are, it holds the truth in about 95 % of the cases."""
    images, first, second = 60, 0.06, 0.03
    covered = total = 0.0
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, images + 1)))])  # logarithms of factorials
    for only_first in range(21):
        for only_second in range(16):
            rest = images - only_first - only_second
            chance = np.exp(
                logs[images] - logs[only_first] - logs[only_second] - logs[rest]
                + only_first * np.log(first) + only_second * np.log(second) + rest * np.log(1 - first - second)
            )  # fmt: skip
            low, high = compute_drop_interval(only_first, only_second, images)
            covered += chance * (low <= 100 * (first - second) <= high)
            total += chance
    assert total > 0.999
    assert 0.93 < covered / total < 0.98


@given(first=st.integers(0, 40), second=st.integers(0, 40), rest=st.integers(0, 400))
@settings(max_examples=50)
def test_exchanging_the_two_mirrors_the_interval(first: int, second: int, rest: int) -> None:
    """Which of the two is called first changes the sign and nothing else."""
    images = first + second + rest + 1
    low, high = compute_drop_interval(first, second, images)
    assert compute_drop_interval(second, first, images) == pytest.approx((-high, -low), abs=1e-9)


def test_images_on_which_both_are_right_narrow_the_interval() -> None:
    """Twice the images with twice the changed answers say more, and `count_images_needed` is where they say enough."""
    widths = [np.ptp(compute_drop_interval(scale, scale, 200 * scale)) for scale in (1, 2, 4, 8)]
    assert widths == sorted(widths, reverse=True)
    needed = count_images_needed(1, 1, 200, 1.0)
    assert needed is not None
    assert compute_drop_interval(needed / 200, needed / 200, needed)[1] <= 1.0
    assert compute_drop_interval(0.9 * needed / 200, 0.9 * needed / 200, 0.9 * needed)[1] > 1.0
    assert count_images_needed(2, 0, 200, 1.0) is None


def test_no_number_of_images_is_named_that_nobody_gathers() -> None:
    """A drop near the limit would need millions of images; then no number is named, nor where there are that many already."""
    assert count_images_needed(3, 0, 200, 1.51) is None
    assert count_images_needed(1, 1, 2 * MOST_IMAGES, 0.0001) is None
    assert count_images_needed(3, 0, 200, 1.7) == 17_000
