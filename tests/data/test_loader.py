"""Views of the split: which pixels an epoch shows, and in which order."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from compress.data import Batch, InMemory, Split
from compress.records import Preprocess

CPU = torch.device("cpu")
ROWS = 50
PREPROCESS = Preprocess(height=8, width=8, channels="gray", mean=(0.5,), std=(0.25,))


def split() -> Split:
    random = np.random.default_rng(0)
    return Split(random.integers(0, 256, size=(ROWS, 8, 8, 1), dtype=np.uint8), np.arange(ROWS, dtype=np.int64) % 4)


def batches(of: Split | None = None, preprocess: Preprocess = PREPROCESS, **changed: Any) -> InMemory:
    options = {"batch_size": 16, "shuffle": True, "seed": 3, "crop_padding": 2, "flip": True, "views": 3, **changed}
    return InMemory(of or split(), preprocess, device=CPU, **options)


def index_by_row(shown: Iterable[Batch]) -> dict[int, Tensor]:
    """Return the image of each row that was shown."""
    return {
        row: image
        for batch in shown
        if batch.rows is not None
        for row, image in zip(batch.rows.tolist(), batch.images, strict=True)
    }


def same(one: dict[int, Tensor], other: dict[int, Tensor]) -> bool:
    shared = one.keys() & other.keys()
    assert len(shared) > ROWS // 3
    return all(torch.equal(one[row], other[row]) for row in shared)


def test_epochs_go_through_the_views_in_turn() -> None:
    """With three views, epochs 0 and 3 show the same pixels of every row, and 0, 1 and 2 show others."""
    data = batches()
    shown = [index_by_row(data.epoch(epoch)) for epoch in range(7)]
    for one, other in itertools.combinations(range(7), 2):
        assert same(shown[one], shown[other]) == (one % 3 == other % 3), (one, other)
    assert [data.view(epoch) for epoch in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_without_a_number_of_views_no_view_comes_back() -> None:
    """By default every epoch shows pixels that no other epoch shows."""
    data = batches(views=None)
    seen = {torch.stack([image for _, image in sorted(index_by_row(data.read_view(view)).items())]) for view in range(40)}
    keys = {whole.numpy().tobytes() for whole in seen}
    assert len(keys) == 40
    assert [data.view(epoch) for epoch in (0, 1, 999)] == [0, 1, 999]


def test_one_image_meets_every_crop_and_both_directions() -> None:
    """Over many views a row is cut from every window and mirrored about as often as not."""
    pixels = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1).repeat(2, axis=0)
    data = batches(Split(pixels, np.zeros(2, dtype=np.int64)), batch_size=2, crop_padding=1, views=None)
    seen = [next(data.read_view(view)).images[0].numpy().tobytes() for view in range(300)]
    counts = [seen.count(image) for image in set(seen)]
    assert len(counts) == 18  # three by three windows, mirrored or not
    assert min(counts) >= 4  # 17 expected of each, give or take 4; the draw is fixed


@pytest.mark.parametrize("other", [{"seed": 4}, {"batch_size": 7}, {"seed": 2**60, "batch_size": 50}], ids=str)
def test_the_pixels_of_a_row_depend_on_its_view_alone(other: dict[str, int]) -> None:
    """Neither the seed of the order nor the size of a batch moves a pixel of a row."""
    for epoch in range(3):
        assert same(index_by_row(batches().epoch(epoch)), index_by_row(batches(**other).epoch(epoch)))


@pytest.mark.parametrize(
    "augmentation", [{}, {"crop_padding": 0}, {"flip": False}, {"crop_padding": 0, "flip": False}], ids=str
)
def test_a_view_in_order_has_the_pixels_of_the_epochs_that_show_it(augmentation: dict[str, Any]) -> None:
    """What a teacher is asked in the order of the rows is what the student sees in any other."""
    data = batches(**augmentation)
    for epoch in range(4):
        ordered = list(data.read_view(data.view(epoch)))
        rows = torch.cat([batch.rows for batch in ordered if batch.rows is not None])
        assert rows.tolist() == list(range(ROWS))
        assert [len(batch.images) for batch in ordered] == [16, 16, 16, 2]
        assert same(index_by_row(ordered), index_by_row(data.epoch(epoch)))
        assert {batch.view for batch in ordered} == {batch.view for batch in data.epoch(epoch)} == {data.view(epoch)}


def test_labels_go_with_their_rows() -> None:
    """A batch names its rows, and its labels are those of these rows."""
    for batch in batches().epoch(1):
        assert batch.rows is not None
        assert torch.equal(batch.labels, torch.from_numpy(split().labels)[batch.rows])


def test_orders_differ_between_epochs_and_seeds() -> None:
    """No two epochs, and no two seeds, however large, go through the rows in the same order."""
    orders = {
        (seed, epoch): tuple(
            row for batch in batches(seed=seed).epoch(epoch) if batch.rows is not None for row in batch.rows.tolist()
        )
        for seed in (0, 1, 2**60, 2**60 + 1)
        for epoch in (0, 1, 2, 3)
    }
    assert len(set(orders.values())) == len(orders)


@pytest.mark.parametrize("seeds", [(0, 1), (2**60, 2**60 + 1)], ids=str)
def test_the_augmentation_seed_gives_other_views(seeds: tuple[int, int]) -> None:
    """Two augmentation seeds show different pixels of the same rows, and so have another identity."""
    one, other = (batches(augmentation_seed=seed) for seed in seeds)
    assert not same(index_by_row(one.read_view(0)), index_by_row(other.read_view(0)))
    assert one.identity != other.identity


def test_without_augmentation_there_is_one_view() -> None:
    """What does not change from epoch to epoch is one view, however many are asked for."""
    data = batches(crop_padding=0, flip=False, views=None)
    assert {data.view(epoch) for epoch in range(9)} == {0}
    plain = InMemory(split(), PREPROCESS, batch_size=16, device=CPU)
    assert same(index_by_row(data.epoch(5)), index_by_row(plain.epoch(0)))


def _one_pixel() -> Split:
    images, labels = split()
    images = images.copy()
    images[17, 3, 4, 0] ^= 1
    return Split(images, labels)


@pytest.mark.parametrize(
    "other",
    [
        {"of": _one_pixel()},
        {"preprocess": PREPROCESS.model_copy(update={"mean": (0.5000001,)})},
        {"preprocess": PREPROCESS.model_copy(update={"std": (0.2500001,)})},
        {"crop_padding": 1},
        {"crop_padding": 0},
        {"flip": False},
        {"augmentation_seed": 1},
        {"shuffle": False},
    ],
    ids=["pixel", "mean", "std", "padding", "no crop", "no flip", "augmentation seed", "not augmented"],
)
def test_the_identity_changes_with_whatever_changes_a_pixel(other: dict[str, Any]) -> None:
    """One bit of one image, the transform or the augmentation: the identity is another, and so is at least one pixel."""
    assert batches(**other).identity != batches().identity
    shown, known = index_by_row(batches(**other).read_view(0)), index_by_row(batches().read_view(0))
    assert not same(shown, known)


@pytest.mark.parametrize("other", [{"seed": 9}, {"batch_size": 7}, {"views": None}], ids=str)
def test_the_identity_does_not_change_with_what_changes_no_pixel(other: dict[str, Any]) -> None:
    """Runs that differ in order, batch size or number of views have the same views as far as they both go."""
    assert batches(**other).identity == batches().identity


def test_a_black_border_is_that_of_torchvision() -> None:
    """With `crop_border: zero` every crop is one that torchvision cuts out of the image padded with black."""
    given = split()
    data = batches(given, crop_border="zero", flip=False)
    padded = np.pad(given.images, ((0, 0), (2, 2), (2, 2), (0, 0)))  # torchvision's `RandomCrop(padding=2)` pads so
    black = 0
    for row, image in index_by_row(data.epoch(0)).items():
        shown = np.rint((image.numpy()[0] * 0.25 + 0.5) * 255).astype(np.uint8)
        cuts = [padded[row, top : top + 8, left : left + 8, 0] for top in range(5) for left in range(5)]
        assert any(np.array_equal(shown, cut) for cut in cuts)
        black += int((shown[0] == 0).all() or (shown[:, 0] == 0).all())
    assert black > ROWS // 8
    assert batches(given, crop_border="zero").identity != batches(given).identity
