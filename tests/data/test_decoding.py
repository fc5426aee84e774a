"""Decoded images on disk: found again by what decides them, whole or made anew, and never more in memory than a few."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress.data import (
    Dataset,
    DiskImages,
    EncodedDataset,
    EncodedSplit,
    _decode,
    decode_to_disk,
    decode_to_memory,
    hash_dataset,
)
from compress.data.folder import Folder
from compress.errors import CompressError, Unreachable
from compress.records import Preprocess
from compress.system.memory import MEMORY_SHARE, choose_place, measure_available_bytes
from tests.data.heard import Heard

RGB = Preprocess(height=6, width=5, channels="rgb", mean=(0.5,) * 3, std=(0.5,) * 3)


def homes(cache: Path) -> list[Path]:
    return sorted(path for path in cache.glob("*") if path.name != "locks")


def test_images_on_disk_are_those_in_memory(pictures: str, tmp_path: Path) -> None:
    """Every picture and label, in the same rows."""
    encoded = Folder(path=pictures).load_encoded()
    disk, memory = decode_to_disk(encoded, RGB, tmp_path / "cache"), decode_to_memory(encoded, RGB)
    assert all(isinstance(split.images, DiskImages) for split in disk)
    assert hash_dataset(disk) == hash_dataset(memory)


@pytest.mark.parametrize("processors", [1, 4])
def test_the_number_of_processors_changes_nothing(
    pictures: str, tmp_path: Path, processors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images are decoded in any order and written in theirs."""
    encoded = Folder(path=pictures).load_encoded()
    expected = hash_dataset(decode_to_memory(encoded, RGB))
    monkeypatch.setattr(_decode, "count_processors", lambda: processors)
    monkeypatch.setattr(_decode, "TOGETHER", 2)
    assert hash_dataset(decode_to_disk(encoded, RGB, tmp_path / "cache")) == expected
    assert hash_dataset(decode_to_memory(encoded, RGB)) == expected


def test_pictures_are_decoded_once(pictures: str, tmp_path: Path) -> None:
    """A second run, from a copy of the data at another place, finds what the first left."""
    decode_to_disk(Folder(path=pictures).load_encoded(), RGB, tmp_path / "cache")
    shutil.copytree(pictures, tmp_path / "copy")
    encoded = Folder(path=str(tmp_path / "copy")).load_encoded()

    def refuse() -> Iterator[tuple[str, bytes]]:
        raise AssertionError("decoded again")

    never = [EncodedSplit(each.labels, refuse) for each in (encoded.train, encoded.test)]
    found = decode_to_disk(EncodedDataset(never[0], never[1], encoded.files, encoded.chosen), RGB, tmp_path / "cache")
    assert hash_dataset(found) == hash_dataset(decode_to_memory(encoded, RGB))
    assert len(homes(tmp_path / "cache")) == 1


def test_whatever_decides_a_pixel_decides_the_folder(pictures: str, tmp_path: Path) -> None:
    """Another size, interpolation, number of channels, or one other byte of a file of the same length is another folder."""
    cache = tmp_path / "cache"
    changes = [
        {},
        {"height": 7},
        {"width": 7},
        {"interpolation": "nearest"},
        {"channels": "gray", "mean": (0.5,), "std": (0.5,)},
    ]
    for change in changes:
        decode_to_disk(Folder(path=pictures).load_encoded(), RGB.model_copy(update=change), cache)
    assert len(homes(cache)) == len(changes)
    path = Path(pictures) / "train" / "cat" / "0.png"
    known = path.stat()
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    path.write_bytes(path.read_bytes().ljust(known.st_size, b"\0"))
    os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns))
    found = decode_to_disk(Folder(path=pictures).load_encoded(), RGB, cache)
    assert len(homes(cache)) == len(changes) + 1
    assert np.array_equal(found.train.images[0], np.asarray(Image.open(path)))


def test_mean_and_std_do_not_matter(pictures: str, tmp_path: Path) -> None:
    """They are no part of decoding."""
    for mean in (0.1, 0.2):
        decode_to_disk(Folder(path=pictures).load_encoded(), RGB.model_copy(update={"mean": (mean,) * 3}), tmp_path / "cache")
    assert len(homes(tmp_path / "cache")) == 1


def _truncate(home: Path) -> None:
    os.truncate(home / "train.npy", 300)


def _change_one_byte(home: Path) -> None:
    whole = bytearray((home / "train.npy").read_bytes())
    whole[200] ^= 1
    (home / "train.npy").write_bytes(whole)


def _change_the_shape(home: Path) -> None:
    path = home / "test.npy"
    path.write_bytes(path.read_bytes().replace(b"(4, 6, 5, 3)", b"(4, 5, 6, 3)"))


def _lose_a_file(home: Path) -> None:
    (home / "test.npy").unlink()


def _lose_the_record(home: Path) -> None:
    (home / "images.json").unlink()


def _garble_the_record(home: Path) -> None:
    (home / "images.json").write_text("{}")


DAMAGES = [_truncate, _change_one_byte, _change_the_shape, _lose_a_file, _lose_the_record, _garble_the_record]


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_decoded_again(pictures: str, tmp_path: Path, damage) -> None:
    """One line says so, and the images are right."""
    encoded, cache = Folder(path=pictures).load_encoded(), tmp_path / "cache"
    expected = hash_dataset(decode_to_disk(encoded, RGB, cache))
    (home,) = homes(cache)
    damage(home)
    heard = Heard()
    assert hash_dataset(decode_to_disk(encoded, RGB, cache, heard)) == expected
    assert heard.lines == [f"data: the decoded images in {home} are damaged; they are decoded again"]
    assert hash_dataset(decode_to_disk(encoded, RGB, cache, heard)) == expected
    assert len(heard.lines) == 1


def test_images_of_another_data_set_are_not_taken(pictures: str, tmp_path: Path) -> None:
    """A whole folder of decoded images that was moved to the place of another is refused."""
    encoded, cache = Folder(path=pictures).load_encoded(), tmp_path / "cache"
    decode_to_disk(encoded, RGB.model_copy(update={"interpolation": "nearest"}), cache)
    (other,) = homes(cache)
    expected = hash_dataset(decode_to_disk(encoded, RGB, cache))
    (own,) = set(homes(cache)) - {other}
    shutil.rmtree(own)
    other.rename(own)
    heard = Heard()
    assert hash_dataset(decode_to_disk(encoded, RGB, cache, heard)) == expected
    assert len(heard.lines) == 1


KILLED = """
import os, sys, time
from pathlib import Path
from compress.data import _decode
from compress.data.folder import Folder
from compress.records import Preprocess

whole, _decode.TOGETHER = _decode._decode_picture, 1

def slow(where, picture, preprocess):
    if "dog" in where:
        os.write(1, b"half\\n")  # in one piece: several threads decode
        time.sleep(60)
    return whole(where, picture, preprocess)

_decode._decode_picture = slow
rgb = Preprocess(height=6, width=5, channels="rgb", mean=(0.5,) * 3, std=(0.5,) * 3)
_decode.decode_to_disk(Folder(path=sys.argv[1]).load_encoded(), rgb, Path(sys.argv[2]))
"""


def test_a_run_that_was_killed_leaves_nothing_wrong(pictures: str, tmp_path: Path) -> None:
    """The next one finds no folder under the final name, removes the rest, and decodes."""
    cache = tmp_path / "cache"
    with subprocess.Popen([sys.executable, "-c", KILLED, pictures, str(cache)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
    (left,) = homes(cache)
    assert left.name.startswith(".")
    encoded = Folder(path=pictures).load_encoded()
    assert hash_dataset(decode_to_disk(encoded, RGB, cache)) == hash_dataset(decode_to_memory(encoded, RGB))
    (home,) = homes(cache)
    assert not home.name.startswith(".")


def _decode_slowly(path: str, cache: Path, results: multiprocessing.Queue) -> None:
    heard = Heard()
    decode, count = _decode._decode_picture, 0

    def slow(*arguments):
        nonlocal count
        count += 1
        time.sleep(0.01)
        return decode(*arguments)

    _decode._decode_picture = slow
    results.put((hash_dataset(decode_to_disk(Folder(path=path).load_encoded(), RGB, cache, heard)), count, heard.lines))


def test_of_two_processes_one_decodes(pictures: str, tmp_path: Path) -> None:
    """The other waits for it, and both have the same images."""
    context = multiprocessing.get_context("spawn")  # a fork may inherit a lock that a thread of torch holds
    results = context.Queue()
    processes = [context.Process(target=_decode_slowly, args=(pictures, tmp_path / "cache", results)) for _ in range(2)]
    for process in processes:
        process.start()
    (one, few, heard), (other, many, _) = sorted((results.get(timeout=300) for _ in processes), key=lambda each: each[1])
    for process in processes:
        process.join()
    assert one == other == hash_dataset(decode_to_memory(Folder(path=pictures).load_encoded(), RGB))
    assert (few, many, heard) == (0, 13, [])


def test_a_picture_that_cannot_be_decoded_leaves_nothing(pictures: str, tmp_path: Path) -> None:
    """The first one in the order of the data is named, wherever it is decoded, and no folder stays behind."""
    for name in ("cat/2.png", "eel/1.png"):
        (Path(pictures) / "train" / name).write_bytes(b"no picture")
    encoded = Folder(path=pictures).load_encoded()
    with pytest.raises(CompressError, match=r"train/cat/2\.png: cannot be decoded as a picture; replace or remove it"):
        decode_to_disk(encoded, RGB, tmp_path / "cache")
    assert homes(tmp_path / "cache") == []
    with pytest.raises(CompressError, match=r"train/cat/2\.png: cannot be decoded"):
        decode_to_memory(encoded, RGB)


def test_a_full_disk_is_told_before_decode(pictures: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what is needed, what is free, and what to do."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    with pytest.raises(Unreachable, match=r"the decoded images need .* of the disk is free; free space, choose another"):
        decode_to_disk(Folder(path=pictures).load_encoded(), RGB, tmp_path / "cache")


def test_a_disk_that_fills_up_is_told(pictures: str, tmp_path: Path) -> None:
    """A refusal in the middle of writing leaves nothing and is one message, not a crash."""
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from compress.data._decode import decode_to_disk; from compress.data.folder import Folder\n"
        "from compress.errors import Unreachable; from compress.records import Preprocess\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))\n"
        "rgb = Preprocess(height=6, width=5, channels='rgb', mean=(0.5,) * 3, std=(0.5,) * 3)\n"
        "try: decode_to_disk(Folder(path=sys.argv[1]).load_encoded(), rgb, Path(sys.argv[2]))\n"
        "except Unreachable as error: print(error)\n"
    )
    cache = tmp_path / "cache"
    result = subprocess.run([sys.executable, "-c", script, pictures, str(cache)], capture_output=True, text=True, check=True)
    assert "cannot be written (File too large); free space or choose another folder" in result.stdout
    assert homes(cache) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_folder_that_cannot_be_written_is_told(pictures: str, tmp_path: Path) -> None:
    """One message; and what is in it already can still be used."""
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o500)
    with pytest.raises(Unreachable, match="cannot be written"):
        decode_to_disk(Folder(path=pictures).load_encoded(), RGB, cache)
    cache.chmod(0o700)


def test_a_file_where_the_cache_should_be_is_told(pictures: str, tmp_path: Path) -> None:
    """As a folder that cannot be written."""
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(
        Unreachable, match=r"cache: cannot be written .*; move away what is in its place or choose another folder"
    ):
        decode_to_disk(Folder(path=pictures).load_encoded(), RGB, tmp_path / "cache")


def test_memory_does_not_hold_the_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding, checking and dividing a set takes a small part of its size."""
    monkeypatch.setattr("compress.preprocess.CHUNK_BYTES", 1 << 18)
    picture = tmp_path / "one.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(picture)
    big = RGB.model_copy(update={"height": 128, "width": 128})
    labels = np.arange(1000) % 4

    def each() -> Iterator[tuple[str, Path]]:
        return ((f"picture {row}", picture) for row in range(len(labels)))

    split = EncodedSplit(labels, each)
    size = 2 * len(labels) * 128 * 128 * 3
    decode_to_disk(EncodedDataset(split, split, {"one": picture}, ""), big, tmp_path / "warm")
    tracemalloc.start()
    found = decode_to_disk(EncodedDataset(split, split, {"one": picture}, ""), big, tmp_path / "cache")
    hash_dataset(Dataset(found.train.select(np.arange(0, 1000, 2)), found.test))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < size / 4


def test_the_choice_follows_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory as long as the set takes no more than its share, disk beyond it; what the recipe says goes first."""
    monkeypatch.setattr("compress.system.memory.measure_available_bytes", lambda: 1_000_000)
    square = {"height": 10, "width": 10, "depth": 1, "can_stream": True}
    most = int(1_000_000 * MEMORY_SHARE) // 100
    assert choose_place("auto", images=most, **square).place == "memory"
    assert choose_place("auto", images=most + 1, **square).place == "disk"
    assert choose_place("memory", images=most + 1, **square).place == "memory"
    assert choose_place("disk", images=1, **square).place == "disk"
    assert choose_place("auto", images=most + 1, **square | {"can_stream": False}).place == "memory"


def test_what_does_not_fit_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too much for memory where memory is wanted, and a disk that the source knows nothing of."""
    monkeypatch.setattr("compress.system.memory.measure_available_bytes", lambda: 1000)
    square = {"images": 11, "height": 10, "width": 10, "depth": 1}
    with pytest.raises(
        CompressError, match=r"11 images of 10 × 10 need .* of memory, .* is free; set data\.storage: disk, choose"
    ):
        choose_place("memory", can_stream=True, **square)
    with pytest.raises(CompressError, match=r"is free; choose a smaller size, or use fewer images"):
        choose_place("auto", can_stream=False, **square)
    with pytest.raises(CompressError, match=r"data\.storage: disk, but this source gives its images only all at once"):
        choose_place("disk", can_stream=False, **square)


def test_a_container_has_no_more_than_its_limit(tmp_path: Path) -> None:
    """What its files take in the cache can be taken back; without a limit what the machine has counts."""
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 300\ninactive_file 250\nactive_file 50\n")
    for limit, free in (("1000", 550), ("100", 0)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert measure_available_bytes(tmp_path) == free
    (tmp_path / "memory.max").write_text("max\n")
    assert measure_available_bytes(tmp_path) > 1 << 20
    assert measure_available_bytes(tmp_path / "nowhere") > 1 << 20
