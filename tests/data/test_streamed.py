"""Batches from disk: the pixels, order and strides of batches from memory, whoever makes them and wherever one begins."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress.data import (
    Batch,
    Dataset,
    DiskImages,
    FromDisk,
    ImageFile,
    InMemory,
    Split,
    check_dataset,
    hash_dataset,
    hold_out,
    take_stratified,
)
from compress.data._prefetch import prefetch
from compress.errors import CompressError, Unreachable
from compress.preprocess import measure_statistics
from compress.records import Preprocess

ROWS, HEIGHT, WIDTH = 50, 9, 7
CPU = torch.device("cpu")


def arrays(depth: int = 3) -> Split:
    images = np.random.default_rng(0).integers(0, 256, size=(ROWS, HEIGHT, WIDTH, depth), dtype=np.uint8)
    return Split(images, np.arange(ROWS, dtype=np.int64) % 4)


def stored(folder: Path, split: Split) -> Split:
    """Return the same split on disk."""
    path = folder / f"{split.images.shape[-1]}.npy"
    np.save(path, split.images[:])
    return Split(DiskImages(ImageFile(path)), split.labels)


def both(folder: Path, *, depth: int = 3, **options: Any) -> tuple[InMemory, FromDisk]:
    """Return batches of the same images from memory and from disk."""
    channels = "gray" if depth == 1 else "rgb"
    preprocess = Preprocess(height=HEIGHT, width=WIDTH, channels=channels, mean=(0.4,) * depth, std=(0.3,) * depth)
    given = {"batch_size": 16, "device": CPU, "seed": 5, "augmentation_seed": 2, **options}
    workers = given.pop("workers", 2)
    split = arrays(depth)
    return InMemory(split, preprocess, **given), FromDisk(stored(folder, split), preprocess, workers=workers, **given)


def assert_same(memory: Iterator[Batch], disk: Iterator[Batch]) -> None:
    for expected, found in zip(memory, disk, strict=True):
        assert torch.equal(expected.images, found.images)
        assert expected.images.stride() == found.images.stride()
        assert torch.equal(expected.labels, found.labels)
        assert expected.rows is not None
        assert found.rows is not None
        assert torch.equal(expected.rows, found.rows)
        assert expected.view == found.view


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize(("crop_padding", "flip"), [(0, False), (0, True), (3, False), (3, True), (6, True)])
def test_training_sees_the_bits_that_it_sees_from_memory(
    tmp_path: Path, depth: int, crop_padding: int, flip: bool, memory_format: torch.memory_format
) -> None:
    """Order, crops, mirrored images, labels and strides are those of the same split in memory, in epochs and in sweeps."""
    options = {"crop_padding": crop_padding, "flip": flip, "views": 3, "memory_format": memory_format}
    memory, disk = both(tmp_path, depth=depth, shuffle=True, **options)
    assert len(memory) == len(disk) == 3
    for epoch in (0, 1, 4):
        assert_same(memory.epoch(epoch), disk.epoch(epoch))
    assert_same(memory.read_view(2), disk.read_view(2))


@pytest.mark.parametrize("flip", [False, True])
def test_a_black_border_is_the_same_from_disk(tmp_path: Path, flip: bool) -> None:
    """Crops that reach over the image are black where it ends, mirrored or not."""
    memory, disk = both(tmp_path, depth=3, shuffle=True, crop_padding=3, crop_border="zero", flip=flip)
    assert_same(memory.epoch(0), disk.epoch(0))
    reflected, _ = both(tmp_path, depth=3, shuffle=True, crop_padding=3, flip=flip)
    assert memory.identity != reflected.identity


def test_evaluation_sees_the_bits_that_it_sees_from_memory(tmp_path: Path) -> None:
    """A split in order is whole, in order, and not augmented, whatever the options of augmentation are."""
    for options in ({}, {"crop_padding": 2, "flip": True}):
        memory, disk = both(tmp_path, **options)
        assert len(memory) == len(disk) == 4
        assert_same(memory.epoch(0), disk.epoch(0))


@pytest.mark.parametrize("workers", [1, 2, 4, 9])
def test_the_number_of_workers_changes_nothing(tmp_path: Path, workers: int) -> None:
    """One thread or many, the batches come in their order and with their bits."""
    memory, disk = both(tmp_path, shuffle=True, crop_padding=2, flip=True, batch_size=4, workers=workers)
    assert_same(memory.epoch(1), disk.epoch(1))


def test_an_epoch_continues_in_its_middle(tmp_path: Path) -> None:
    """From any batch on, an epoch gives what it gives from the beginning; a run that was killed sees the same bytes."""
    _, disk = both(tmp_path, shuffle=True, crop_padding=2, flip=True, batch_size=8)
    for start in range(len(disk) + 1):
        assert_same(itertools.islice(disk.epoch(3), start, None), disk.epoch(3, start))


def test_an_epoch_may_be_left_early(tmp_path: Path) -> None:
    """Whoever looks at the first batch alone leaves no thread behind."""
    _, disk = both(tmp_path)
    shown = disk.epoch(0)
    next(shown)
    shown.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


def test_the_identity_changes_with_whatever_changes_a_pixel(tmp_path: Path) -> None:
    """Teachers' outputs are found by it: other images, transform or augmentation have another, other orders have not."""
    split = stored(tmp_path, arrays())
    plain = Preprocess(height=HEIGHT, width=WIDTH, channels="rgb", mean=(0.4,) * 3, std=(0.3,) * 3)

    def identity(of: Split = split, preprocess: Preprocess = plain, **changed: Any) -> str:
        options = {"batch_size": 16, "device": CPU, "shuffle": True, "crop_padding": 2, "flip": True, **changed}
        return FromDisk(of, preprocess, **options).identity

    images = arrays().images[:].copy()
    images[17, 3, 4, 0] ^= 1
    other = tmp_path / "other"
    other.mkdir()
    found = [
        identity(),
        identity(stored(other, Split(images, split.labels))),
        identity(split.select(np.arange(ROWS)[::-1])),
        identity(preprocess=plain.model_copy(update={"mean": (0.4, 0.4, 0.40001)})),
        *(
            identity(**change)
            for change in ({"crop_padding": 1}, {"flip": False}, {"augmentation_seed": 1}, {"shuffle": False})
        ),
    ]
    assert len(set(found)) == len(found)
    assert identity(seed=9, batch_size=7, views=2) == found[0]


def test_splits_on_disk_are_divided_like_arrays(tmp_path: Path) -> None:
    """Held-out images, parts, checks, fingerprints and statistics are those of the same images in memory; none is copied."""
    memory, disk = arrays(), stored(tmp_path, arrays())
    for one, other in zip(hold_out(memory, fraction=0.2, seed=3), hold_out(disk, fraction=0.2, seed=3), strict=True):
        assert isinstance(other.images, DiskImages)
        assert np.array_equal(one.images, other.images[:])
        assert np.array_equal(one.labels, other.labels)
    part, same = take_stratified(memory, 20, seed=1), take_stratified(disk, 20, seed=1)
    assert isinstance(same.images, DiskImages)
    assert np.array_equal(part.images, same.images[:])
    dataset = Dataset(disk, disk)
    assert check_dataset(dataset, 4) is dataset
    assert hash_dataset(dataset) == hash_dataset(Dataset(memory, memory))
    assert measure_statistics(disk.images) == measure_statistics(memory.images)


def test_rows_on_disk_are_indexed_like_arrays(tmp_path: Path) -> None:
    """Whole, one image, a slice, some rows in any order and twice, negative ones, and other axes."""
    memory, disk = arrays().images, stored(tmp_path, arrays()).images
    assert (disk.shape, disk.dtype, disk.ndim, len(disk)) == (memory.shape, memory.dtype, memory.ndim, len(memory))
    for which in (7, -1, slice(3, 9), slice(None, None, -7), np.array([4, 4, 0]), np.array([-1, 2]), np.array([], dtype=int)):
        assert np.array_equal(disk[which], memory[which])
    assert np.array_equal(disk.transpose(0, 3, 1, 2), memory.transpose(0, 3, 1, 2))
    with pytest.raises(IndexError):
        disk[ROWS]


def test_what_goes_wrong_in_a_worker_reaches_the_trainer(tmp_path: Path) -> None:
    """A file that is cut off while it is read ends the epoch with its name and what to do, and not the process."""
    _, disk = both(tmp_path)
    with (tmp_path / "3.npy").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(Unreachable, match=r"3\.npy: was cut off while it was in use, at image \d+; repeat the command"):
        list(disk.epoch(0))


def test_a_file_that_is_replaced_is_not_mixed_up(tmp_path: Path) -> None:
    """Who has a file open goes on reading its images, also when another process puts a new file in its place."""
    memory, disk = both(tmp_path)
    (tmp_path / "new.npy").write_bytes(b"something else")
    (tmp_path / "new.npy").replace(tmp_path / "3.npy")
    assert_same(memory.epoch(0), disk.epoch(0))


def test_images_in_memory_are_not_streamed() -> None:
    """The two loaders cannot be confused."""
    preprocess = Preprocess(height=HEIGHT, width=WIDTH, channels="rgb", mean=(0.4,) * 3, std=(0.3,) * 3)
    with pytest.raises(TypeError, match="use InMemory"):
        FromDisk(arrays(), preprocess, batch_size=4, device=CPU)


def test_a_batch_larger_than_the_split_is_refused(tmp_path: Path) -> None:
    """As from memory."""
    with pytest.raises(CompressError, match=r"train\.batch_size: 51 is more than the 50"):
        both(tmp_path, shuffle=True, batch_size=51)


def test_work_ahead_comes_in_order_and_no_further_than_asked() -> None:
    """Results keep the order of the calls, and no more calls are begun than results were taken and may wait."""
    begun: list[int] = []

    def call(number: int) -> int:
        return number

    def calls() -> Iterator[Any]:
        for number in range(100):
            begun.append(number)
            yield lambda number=number: call(number)

    results = prefetch(calls(), workers=3, lead=5)
    assert next(results) == 0
    assert len(begun) == 6
    assert list(results) == list(range(1, 100))


def test_work_ahead_raises_where_the_result_would_have_been() -> None:
    """Results before the one that failed are given first."""

    def fail(number: int) -> int:
        if number == 7:
            raise CompressError("seven")
        return number

    results = prefetch(((lambda number=number: fail(number)) for number in range(20)), workers=4, lead=20)
    assert list(itertools.islice(results, 7)) == list(range(7))
    with pytest.raises(CompressError, match="seven"):
        next(results)


def test_on_a_gpu_the_bits_are_those_of_the_cpu(tmp_path: Path) -> None:
    """Pinned memory and copies that nobody waits for change nothing."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    gpu = torch.device("cuda")
    memory, _ = both(tmp_path, shuffle=True, crop_padding=2, flip=True, batch_size=4)
    _, disk = both(tmp_path, shuffle=True, crop_padding=2, flip=True, batch_size=4, device=gpu)
    shown = list(disk.epoch(0))  # all copies are under way before one is looked at
    assert {batch.images.device.type for batch in shown} == {"cuda"}
    for expected, found in zip(memory.epoch(0), shown, strict=True):
        assert torch.allclose(expected.images, found.images.cpu(), rtol=0, atol=1e-6)  # one rounding of a GPU's fused multiply
        assert torch.equal(expected.labels, found.labels.cpu())
