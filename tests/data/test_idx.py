"""IDX files: the images of torchvision's own reader, and damaged or hostile files refused."""

import gzip
import struct
from pathlib import Path

import pytest

from compress.data.idx import Idx
from compress.errors import CompressError, Unreachable
from compress.records import Preprocess

SAME = Preprocess(height=6, width=5, channels="gray", mean=(0.5,), std=(0.5,))


def test_images_and_labels_are_those_of_torchvision(idx_folder):
    """Its reader of MNIST's files gives the same pixels and labels, packed or not."""
    from torchvision.datasets.mnist import read_image_file, read_label_file

    dataset = Idx(path=idx_folder).load(SAME)
    for name, split in (("train", dataset.train), ("t10k", dataset.test)):
        packed = Path(idx_folder) / f"{name}-images-idx3-ubyte.gz"
        plain = packed.with_suffix("")
        if packed.exists():
            plain.write_bytes(gzip.decompress(packed.read_bytes()))
        assert (split.images[..., 0] == read_image_file(str(plain)).numpy()).all()
        assert (split.labels == read_label_file(str(plain).replace("images-idx3", "labels-idx1")).numpy()).all()


def test_several_sets_in_a_folder_are_told_apart(idx_folder):
    """EMNIST's files begin with the name of the set, and labels that begin at 1 are classes of their own."""
    for path in list(Path(idx_folder).iterdir()):
        content = path.read_bytes()
        if "labels" in path.name:
            content = content[:8] + bytes(value + 1 for value in content[8:])
        path.with_name(f"emnist-letters-{path.name}").write_bytes(content)
    with pytest.raises(CompressError, match=r"several sets; name one as data.subset: '', 'emnist-letters'"):
        Idx(path=idx_folder).summary()
    found = Idx(path=idx_folder, subset="emnist-letters", classes=("a", "b", "c")).summary()
    assert found.classes == ("a", "b", "c")
    assert found.train_counts == (7, 7, 6)
    assert "labels begin at 1" in found.notes[0]
    with pytest.raises(CompressError, match="no files of 'digits'"):
        Idx(path=idx_folder, subset="digits").summary()
    with pytest.raises(CompressError, match=r"2 names, and .* has 3 classes"):
        Idx(path=idx_folder, subset="emnist-letters", classes=("a", "b")).summary()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("t10k-images-idx3-ubyte", lambda content: content[:-1], "ends after 299 of 300 bytes"),
        ("t10k-images-idx3-ubyte", lambda content: content + b"x", "holds more than the"),
        ("t10k-images-idx3-ubyte", lambda _: b"<!DOCTYPE html>" * 9, "begins with 0x3c21444f"),
        ("t10k-images-idx3-ubyte", lambda content: struct.pack(">4I", 0x803, 2**31, 2**31, 9) + content[16:], "cannot hold"),
        (
            "t10k-labels-idx1-ubyte",
            lambda content: struct.pack(">2I", 0x801, 9) + content[8:-1],
            "10 images, and .* has 9 labels",
        ),
        ("t10k-labels-idx1-ubyte", lambda content: content[:-1] + b"\x07", "label 7 is not in 0 .. 2"),
        (
            "train-images-idx3-ubyte.gz",
            lambda content: content[:60] + b"\0" * 20 + content[80:],
            "is damaged|holds more|ends after",
        ),
        ("train-images-idx3-ubyte.gz", lambda _: gzip.compress(struct.pack(">4I", 0x803, 20, 40000, 40000)), "cannot hold"),
        ("train-images-idx3-ubyte.gz", lambda _: b"no gzip at all", "is damaged"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_refused(idx_folder, name, change, message):
    """The message names the file; a header that promises gigabytes takes no memory."""
    path = Path(idx_folder) / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CompressError, match=message):
        Idx(path=idx_folder).load(SAME)


def test_what_is_missing_is_named(idx_folder):
    """The file's usual name stands in the message; so does the folder."""
    (Path(idx_folder) / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(CompressError, match=r"has no file train-labels-idx1-ubyte or train-labels-idx1-ubyte.gz"):
        Idx(path=idx_folder).summary()
    with pytest.raises(Unreachable, match="no such folder"):
        Idx(path=f"{idx_folder}/none").summary()
