"""Calibration images: from the training split, as many of each class, the same each time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.data import Split
from compress.errors import CompressError
from compress.preprocess import normalise
from compress.quantization.calibration import draw_balanced_rows, select_calibration
from compress.records import Preprocess

GRAY = Preprocess(height=4, width=4, channels="gray", mean=(0.4,), std=(0.2,))


def split(labels: list[int]) -> Split:
    """Return a split in which every image is its own row number."""
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] * np.ones((4, 4, 1), np.uint8)
    return Split(images, np.array(labels, dtype=np.int64))


@given(st.lists(st.integers(0, 5), min_size=2, max_size=60), st.integers(2, 80), st.integers(0, 2**64))
def test_no_class_has_two_images_more_than_another_unless_the_other_has_no_more(
    labels: list[int], count: int, seed: int
) -> None:
    """Rows are distinct, as many as asked for or all, and spread over the classes as evenly as the split allows."""
    if len(set(labels)) < 2:
        return
    rows = draw_balanced_rows(np.array(labels), count, seed=seed)
    assert len(set(rows.tolist())) == len(rows) == min(count, len(labels))
    taken = {label: int((np.array(labels)[rows] == label).sum()) for label in set(labels)}
    for label, number in taken.items():
        if number < labels.count(label):
            assert number >= max(taken.values()) - 1


def test_the_same_seed_gives_the_same_images_and_another_seed_others() -> None:
    """The images are a function of data, count and seed alone; the key tells them apart."""
    train = split([0, 1, 2, 0, 1, 2, 0, 1, 2] * 5)
    first, again, other = (select_calibration(train, GRAY, count=12, seed=seed) for seed in (7, 7, 8))
    assert np.array_equal(first.images, again.images)
    assert first.key == again.key != other.key


def test_images_are_prepared_like_those_of_validation() -> None:
    """The network sees on them what it sees of any image: normalised, in its place, unaugmented."""
    train = split([0, 1] * 20)
    found = select_calibration(train, GRAY, count=10, seed=0)
    rows = draw_balanced_rows(train.labels, 10, seed=0)
    assert found.images.dtype == np.float32
    assert np.array_equal(found.images, normalise(train.images[rows], GRAY))


@pytest.mark.parametrize(
    ("labels", "count", "words"), [([], 10, "are none"), ([3, 3, 3], 10, "all of class 3"), ([0, 1], 1, "1 of 2")]
)
def test_no_images_or_one_class_is_refused(labels: list[int], count: int, words: str) -> None:
    """What would clip every other class says so, and what to do."""
    with pytest.raises(CompressError, match=rf"int8.calibration_images.*{words}.*: give images of two classes at least"):
        select_calibration(split(labels), GRAY, count=count, seed=0)
