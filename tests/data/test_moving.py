"""Masks and boxes under augmentation: they stay on what they mark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress.data import DiskImages, FromDisk, ImageFile, InMemory, Split
from compress.data._moving import IGNORED_BOX, LEAST_SHARE, PADDED, MovedBoxes
from compress.records import Preprocess

CPU = torch.device("cpu")
PLAIN = Preprocess(height=8, width=10, channels="gray", mean=(0.0,), std=(1 / 255,))
"""Pixels come as the numbers that they are, but for rounding."""


def pictures_of_masks(folder: Path | None) -> Split:
    """Return pictures whose pixels are their masks, in memory or in a file."""
    masks = np.random.default_rng(0).integers(0, 256, (30, 8, 10), np.uint8)
    if folder is None:
        return Split(masks[..., None], masks)
    np.save(folder / "images.npy", masks[..., None])
    return Split(DiskImages(ImageFile(folder / "images.npy")), masks)


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("changed", [{}, {"flip": False}, {"crop_padding": 0}, {"shuffle": False}])
def test_a_mask_moves_with_its_picture(tmp_path: Path, on_disk: bool, changed: dict[str, Any]) -> None:
    """Where pictures are their masks, cropped and mirrored pictures are the masks that come with them, in every view."""
    split = pictures_of_masks(tmp_path if on_disk else None)
    options: dict[str, Any] = {"batch_size": 7, "device": CPU, "shuffle": True, "crop_padding": 3, "flip": True, **changed}
    loader = (FromDisk if on_disk else InMemory)(split, PLAIN, **options)
    moved = 0
    for epoch in range(3):
        for batch in loader.epoch(epoch):
            assert batch.labels.dtype == torch.uint8
            assert torch.equal(batch.images[:, 0].round().to(torch.uint8), batch.labels)
            assert batch.rows is not None
            moved += int((batch.labels != torch.from_numpy(split.labels)[batch.rows]).any())
    assert (moved > 0) == options["shuffle"]


def test_boxes_are_those_of_moved_masks() -> None:
    """A box, cropped and mirrored, is the smallest around what is left of its pixels; of less than a quarter it is ignored."""
    random = np.random.default_rng(1)
    height, width, padding, count = 12, 16, 5, 300
    corners = np.sort(random.integers(0, (height, width), (count, 2, 2)), axis=1)  # [N, first and last, row and column]
    boxes = np.zeros((count, 2, 5), np.float32)
    boxes[:, 0] = [(left, top, right + 1, bottom + 1, 3) for (top, left), (bottom, right) in corners]
    boxes[:, 1, 4] = PADDED
    offsets, mirrored = random.integers(0, 2 * padding + 1, (count, 2)), random.random(count) < 0.5
    moved = MovedBoxes(torch.from_numpy(boxes), (height, width), padding).move(
        torch.arange(count), torch.from_numpy(offsets), torch.from_numpy(mirrored)
    )
    ignored = 0
    for row, ((top, left), (bottom, right)) in enumerate(corners):
        mask = np.zeros((height + 2 * padding, width + 2 * padding), bool)
        mask[padding + top : padding + bottom + 1, padding + left : padding + right + 1] = True
        down, across = offsets[row]
        seen = mask[down : down + height, across : across + width]
        seen = seen[:, ::-1] if mirrored[row] else seen
        if seen.sum() < LEAST_SHARE * mask.sum():
            assert moved[row, 0, 4] == IGNORED_BOX - 3  # its class is still known
            ignored += 1
            continue
        rows, columns = np.nonzero(seen)
        assert moved[row, 0].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1, 3]
    assert 0 < ignored < count / 2
    assert torch.equal(moved[:, 1], torch.from_numpy(boxes[:, 1]))


def test_boxes_come_with_every_batch() -> None:
    """Labels of a detection are [B, M, 5]; where nothing is augmented they are what the source gave."""
    boxes = np.tile(np.array([[1, 2, 5, 6, 0], [0, 0, 0, 0, PADDED]], np.float32), (9, 1, 1))
    split = Split(np.zeros((9, 8, 10, 1), np.uint8), boxes)
    (batch,) = InMemory(split, PLAIN, batch_size=9, device=CPU).epoch(0)
    assert torch.equal(batch.labels, torch.from_numpy(boxes))
