"""What all stages of a run share: the splits, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from compress.data import Dataset, DiskImages, ImageFile, Split
from compress.run.data import find_empty_classes, find_leaks


def split(*first_pixels: int) -> Split:
    """Return images that are told apart by one pixel."""
    images = np.zeros((len(first_pixels), 2, 2, 1), np.uint8)
    images[:, 0, 0, 0] = first_pixels
    return Split(images, np.zeros(len(first_pixels), np.int64))


def test_images_in_two_splits_are_told_and_many_are_a_warning() -> None:
    """The sentence counts them; from one in a hundred on it is a warning, and splits that share nothing are silent."""
    given, train, validation = split(1, 2, 3, 4), split(1, 2), split(3, 4)
    assert list(find_leaks(given, train, validation, split(*range(10, 20)))) == []
    (few,) = find_leaks(given, train, validation, split(4, *range(10, 209)))
    assert not few.is_warning
    assert few.text.startswith("data: 1 of 200 test images are also training or validation images, pixel by pixel")
    test, held = find_leaks(given, split(1, 3), validation, split(1, 10))
    assert test.is_warning
    assert "1 of 2 validation images are also training images" in held.text


def test_images_on_disk_are_said_not_to_have_been_compared(tmp_path: Path) -> None:
    """A look that was left out is told, and is no warning."""
    np.save(tmp_path / "images.npy", split(1, 2).images)
    stored = Split(DiskImages(ImageFile(tmp_path / "images.npy")), np.zeros(2, np.int64))
    (told,) = find_leaks(stored, stored, stored, stored)
    assert "was not looked at" in told.text
    assert not told.is_warning


def test_classes_without_images_are_told_of_every_source() -> None:
    """A class that is tested and was never taught is a warning; one that occurs nowhere is a note for each split."""

    def make(*labels: int) -> Split:
        return Split(np.zeros((len(labels), 1, 1, 1), np.uint8), np.array(labels))

    assert list(find_empty_classes(("cat", "dog"), Dataset(make(0, 1), make(1, 0)))) == []
    (warning,) = find_empty_classes(("cat", "dog"), Dataset(make(0, 0), make(1, 0)))
    assert warning == ("data: 1 of 2 classes have no train image: 'dog'", True)
    notes = list(find_empty_classes(("cat", "dog", "eel"), Dataset(make(0, 1), make(1, 0))))
    assert [note.is_warning for note in notes] == [False, False]
