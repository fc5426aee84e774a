"""What is noticed of a whole set: pictures that cannot be read, all at once, and more than eight bits that are hardly used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compress.data import Dataset, decode_to_disk, decode_to_memory, examine_pictures, hash_dataset
from compress.data.folder import Folder
from compress.errors import CompressError
from compress.events import Events
from compress.records import Preprocess
from tests import encoded_pictures

RGB = Preprocess(height=6, width=5, channels="rgb", mean=(0.5,) * 3, std=(0.5,) * 3)
Decode = Callable[..., Dataset]


class Heard(Events):
    """Remembers what people were told."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(params=["memory", "disk"])
def decode(request: pytest.FixtureRequest, tmp_path: Path) -> Decode:
    """Both ways of holding a data set."""

    def load(pictures: str, preprocess: Preprocess = RGB, events: Heard | None = None, **options: bool) -> Dataset:
        encoded = Folder(path=pictures).load_encoded()
        if request.param == "memory":
            return decode_to_memory(encoded, preprocess, events, **options)
        return decode_to_disk(encoded, preprocess, tmp_path / "cache", events, **options)

    return load


def damage(pictures: str) -> list[Path]:
    """Make four pictures unreadable, each in another way."""
    root = Path(pictures)
    broken = [root / name for name in ("train/cat/1.png", "train/dog/0.png", "train/dog/2.png", "test/dog/0.png")]
    for path, content in zip(broken, (b"", b"%PDF-1.7", broken[2].read_bytes()[:60], bytes(99)), strict=True):
        path.write_bytes(content)
    return broken


def test_all_unreadable_pictures_are_told_at_once(pictures: str, decode: Decode) -> None:
    """With the reason of each, their number, and the way to leave them out."""
    broken = damage(pictures)
    with pytest.raises(CompressError, match=r"^4 of 13 pictures cannot be read:\n") as caught:
        decode(pictures)
    text = str(caught.value)
    assert all(str(path) in text for path in broken)
    assert "data.skip_unreadable: true leaves out what cannot be read" in text


def test_the_first_ten_are_named_and_the_others_counted(pictures: str, decode: Decode) -> None:
    """A message is for reading."""
    for number in range(25):
        (Path(pictures) / f"train/cat/x{number}.jpg").write_bytes(b"no picture")
    with pytest.raises(CompressError, match=r"^25 of 38 pictures cannot be read:(\n  .*){10}\n  and 15 more\nmend"):
        decode(pictures)


def test_unreadable_pictures_are_left_out_on_request(pictures: str, decode: Decode) -> None:
    """With their labels; each is named, and the others stay what they were."""
    whole = decode(pictures)
    damage(pictures)
    heard = Heard()
    for _ in range(2):  # from the cache too
        dataset = decode(pictures, RGB, heard, skip_unreadable=True)
        assert dataset.train.labels.tolist() == [0, 0, 0, 1, 2, 2]
        assert dataset.test.labels.tolist() == [0, 1, 2]
        assert np.array_equal(dataset.train.images[:], whole.train.images[np.array([0, 2, 3, 5, 7, 8])])
    assert sum("left out: " in line for line in heard.lines) >= 4
    with pytest.raises(CompressError, match="4 of 13"):
        decode(pictures)


def test_where_all_can_be_read_skipping_changes_nothing(pictures: str, decode: Decode) -> None:
    """The option is no other data set."""
    assert hash_dataset(decode(pictures, skip_unreadable=True)) == hash_dataset(decode(pictures))


def write_wide(pictures: str, low: int, high: int, *, channels: int = 3) -> None:
    """Make all pictures 16-bit PNGs of values in a range."""
    for number, path in enumerate(sorted(Path(pictures).rglob("*.png"))):
        values = np.random.default_rng(number).integers(low, high + 1, (6, 5, channels))
        values[0, 0], values[0, 1] = low, high
        path.write_bytes(encoded_pictures.encode_png(values))


RANGES = {
    "10 bits": (0, 1023, "set data.white_level: 1023 (10 bits)"),
    "12 bits": (0, 4095, "set data.white_level: 4095 (12 bits)"),
    "14 bits": (7, 16000, "set data.white_level: 16383 (14 bits)"),
    "8 bits": (0, 200, "set data.white_level: 255 (8 bits)"),
    "an offset": (31000, 34500, "set data.black_level: 31000 and data.white_level: 34500"),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", RANGES)
def test_a_set_that_uses_less_than_half_of_sixteen_bits_is_refused(
    pictures: str, decode: Decode, name: str, channels: int
) -> None:
    """Gray or coloured, with the values that occur and those to set; with them it is read, and uses the range."""
    low, high, advice = RANGES[name]
    write_wide(pictures, low, high, channels=channels)
    with pytest.raises(
        CompressError, match=rf"train split: 9 pictures of more than 8 bits hold values {low} to {high} only"
    ) as caught:
        decode(pictures)
    assert advice in str(caught.value)
    levels = {"white_level": high, "black_level": low} if low > 1000 else {"white_level": high}
    images = decode(pictures, RGB.model_copy(update=levels)).train.images[:]
    assert images.min() <= 1
    assert images.max() >= 254
    assert decode(pictures, RGB.model_copy(update={"white_level": 65535})).train.images[:].max() <= max(high >> 8, 1)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (
            {"white_level": 200},
            "hold values 2000 to 12200, and data.white_level: 200 makes all of them white; set data.white_level",
        ),
        ({"black_level": 12200, "white_level": 16383}, "and data.black_level: 12200 makes all of them black"),
    ],
)
def test_levels_that_leave_one_colour_are_refused(pictures: str, decode: Decode, levels: dict[str, int], message: str) -> None:
    """What the recipe calls white or black is believed as long as something is left between them."""
    write_wide(pictures, 2000, 12200)
    with pytest.raises(CompressError, match=message):
        decode(pictures, RGB.model_copy(update=levels))
    decode(pictures, RGB.model_copy(update={"white_level": 2400}))  # a window, as of X-ray pictures


def test_values_beyond_the_levels_are_told(pictures: str) -> None:
    """A window on the values is a choice, and whoever made it hears what lies outside of it."""
    write_wide(pictures, 2000, 12200)
    window = RGB.model_copy(update={"white_level": 4095, "black_level": 3000})
    encoded = Folder(path=pictures).load_encoded()
    told = [*examine_pictures(encoded, window, most_bytes=10**9).describe_clipping(window)]
    assert "train split: values above data.white_level 4095, up to 12200, become white" in told
    assert "train split: values below data.black_level 3000, down to 2000, become black" in told
    wide = RGB.model_copy(update={"white_level": 16383})
    assert not [*examine_pictures(encoded, wide, most_bytes=10**9).describe_clipping(wide)]


def test_a_set_that_uses_sixteen_bits_is_read(pictures: str, decode: Decode) -> None:
    """A dark picture among others is no reason to refuse."""
    write_wide(pictures, 0, 60000)
    (Path(pictures) / "train/cat/0.png").write_bytes(encoded_pictures.encode_png(np.full((6, 5, 3), 900)))
    assert decode(pictures).train.images[0].max() == 3


def test_examining_looks_at_some_of_a_large_set(pictures: str) -> None:
    """Evenly over both splits, and nothing is kept but what was noticed."""
    damage(pictures)
    encoded = Folder(path=pictures).load_encoded()
    assert examine_pictures(encoded, RGB, most_bytes=1 << 20).looked_at == 13
    size = sum(path.stat().st_size for path in encoded.files.values())
    assert examine_pictures(encoded, RGB, most_bytes=size // 3).looked_at < 8
