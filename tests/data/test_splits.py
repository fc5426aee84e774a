"""Splits: what every data set must be, and how validation is held out."""

import numpy as np
import pytest

from compress.data import Dataset, Split, check_dataset, count_repeated, hash_dataset, hold_out, take_stratified
from compress.errors import CompressError


def split(labels, size=4):
    labels = np.array(labels, np.int64)
    images = np.random.default_rng(0).integers(0, 256, (len(labels), size, size, 3), dtype=np.uint8)
    return Split(images, labels)


def test_good_data_passes_unchanged():
    """Checking returns the very same arrays."""
    dataset = Dataset(split([0, 1]), split([1, 0]))
    assert check_dataset(dataset, 2) is dataset


@pytest.mark.parametrize(
    ("train", "reason"),
    [
        (split([0, 1, 2, 5]), r"split 'train', row 2: label 2 is not in 0 \.\. 1, as in 2 rows"),
        (split([0, -1]), "row 1: label -1"),
        (split([]), "'train': has no images"),
        (Split(split([0]).images, np.array([0.0])), "labels are float64"),
        (Split(split([0]).images, np.array([0, 1])), r"labels are int64 \[2\]; 1 are needed"),
        (Split(split([0]).images / 255, np.array([0])), "images are float64"),
        (Split(split([0]).images[0], np.array([0])), "images are uint8"),
        (split([0, 1], size=5), "differ in size"),
    ],
)
def test_bad_data_is_told_with_split_and_row(train, reason):
    """Labels out of range, wrong types, wrong shapes and empty splits are refused."""
    with pytest.raises(CompressError, match=reason):
        check_dataset(Dataset(train, split([0, 1])), 2)


def test_the_fingerprint_sees_every_byte():
    """One pixel, one label, one shape or the order of splits changes it; a copy in another memory layout does not."""
    first, second = split([0, 1, 0]), split([1, 0, 1, 1])
    same = hash_dataset(Dataset(first, second))
    images, labels = first.images.copy(), first.labels.copy()
    images[1, 2, 3, 0] ^= 1
    labels[2] = 1
    others = [
        Dataset(Split(images, first.labels), second),
        Dataset(Split(first.images, labels), second),
        Dataset(Split(first.images.reshape(3, 2, 8, 3), first.labels), second),
        Dataset(second, first),
    ]
    assert len({same, *map(hash_dataset, others)}) == 5
    assert hash_dataset(Dataset(Split(np.asfortranarray(first.images), first.labels), second)) == same


LABELS = [0] * 40 + [1] * 20 + [2] * 10


def test_both_sides_together_are_the_split():
    """Each image is on exactly one side, with its own label, in its old order, and every class keeps its share."""
    whole = split(LABELS)
    train, validation = hold_out(whole, fraction=0.2, seed=0)
    assert np.bincount(validation.labels).tolist() == [8, 4, 2]
    row_of = {image.tobytes(): row for row, image in enumerate(whole.images)}
    rows = [[row_of[image.tobytes()] for image in side.images] for side in (train, validation)]
    assert sorted(rows[0] + rows[1]) == list(range(70))
    assert rows == [sorted(side) for side in rows]
    for side, order in zip((train, validation), rows, strict=True):
        assert np.array_equal(side.labels, whole.labels[order])


def test_the_seed_chooses():
    """Equal seeds hold out equal images; other seeds, also beyond 32 bits, other images."""
    chosen = [hold_out(split(LABELS), fraction=0.2, seed=seed)[1].images.tobytes() for seed in (0, 0, 1, 2**32, 2**40)]
    assert chosen[0] == chosen[1]
    assert len(set(chosen)) == 4


@pytest.mark.parametrize(
    ("labels", "fraction", "reason"),
    [
        ([0, 0, 0, 0, 1], 0.4, "class 1 has 1 image, too few to hold out 0.4"),
        ([0, 1] * 4, 0.1, "8 images cannot be set apart"),
        ([0] * 98 + [1] * 2, 0.05, "class 1 has 2 images, too few"),
    ],
)
def test_a_class_with_too_few_images_is_told(labels, fraction, reason):
    """A class that would be missing on one side is refused, not dropped."""
    with pytest.raises(CompressError, match=reason):
        hold_out(split(labels), fraction=fraction, seed=0)


def test_some_of_a_split_keeps_order_and_shares_of_classes():
    """A part for training has exactly the images asked for, each class its share, in the order of rows, always the same."""
    whole = split(LABELS)
    part = take_stratified(whole, 35, seed=3)
    assert np.bincount(part.labels).tolist() == [20, 10, 5]
    rows = [next(i for i in range(len(LABELS)) if np.array_equal(whole.images[i], image)) for image in part.images]
    assert rows == sorted(rows)
    assert np.array_equal(take_stratified(whole, 35, seed=3).images, part.images)
    assert take_stratified(whole, len(LABELS), seed=3) is whole


def test_more_images_than_there_are_cannot_be_taken():
    """A part that is larger than the split, or smaller than its classes, is refused."""
    for count in (2, 71):
        with pytest.raises(CompressError, match="cannot be set apart"):
            take_stratified(split(LABELS), count, seed=0)


def test_images_that_two_splits_share_are_counted():
    """Every copy counts, whatever its label; images that differ in one pixel do not."""
    known, other = split([0, 1, 2]), split([3] * 4)
    images = np.concatenate([known.images[[2, 0, 0]], other.images[3:]])
    assert count_repeated(Split(images, other.labels), known) == 3
    images[0, 0, 0, 0] ^= 1
    assert count_repeated(Split(images, other.labels), known) == 2
    assert count_repeated(known, Split(other.images[3:], other.labels[3:])) == 0
