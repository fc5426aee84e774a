"""Pictures in one folder for each class: what is found without being told, and one clear message for what is not right."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress.data.folder import Folder
from compress.errors import CompressError, Unreachable
from compress.records import Preprocess

RGB = Preprocess(height=6, width=5, channels="rgb", mean=(0.5,) * 3, std=(0.5,) * 3)


def copy(picture: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(picture.read_bytes())


def test_classes_and_labels_are_in_the_order_of_names(pictures: str) -> None:
    """The names of the folders, sorted; and each picture has the label of its folder, in the order of file names."""
    source = Folder(path=pictures)
    assert source.summary() == (("cat", "dog", "eel"), 9, 4)
    dataset = source.load(RGB)
    assert dataset.train.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2]
    assert dataset.test.labels.tolist() == [0, 1, 1, 2]
    files = sorted((Path(pictures) / "train").glob("*/*"))
    assert np.array_equal(dataset.train.images, np.stack([np.asarray(Image.open(path)) for path in files]))


def test_pictures_may_lie_deeper(pictures: str) -> None:
    """Below the folder of a class there may be others; they belong to the class."""
    copy(Path(pictures) / "train/cat/0.png", Path(pictures) / "train/cat/black/small/0.png")
    assert Folder(path=pictures).summary().train_images == 10


def test_hidden_files_are_no_data(pictures: str) -> None:
    """What begins with a dot, and what file managers leave, is left out at every level."""
    root = Path(pictures)
    for name in ("train/.DS_Store", "train/cat/.hidden.png", "train/cat/._0.png", "train/cat/Thumbs.db", "train/.git/config"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"no picture")
    assert Folder(path=pictures).load(RGB).train.labels.shape == (9,)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_the_usual_names_of_a_test_split_are_known(pictures: str, name: str) -> None:
    """`test` where it is there, and otherwise what is usual; any other can be named."""
    root = Path(pictures)
    (root / "test").rename(root / name)
    assert Folder(path=pictures).summary().test_images == 4
    (root / name).rename(root / "fresh")
    assert Folder(path=pictures, test_split="fresh").summary().test_images == 4


def test_test_goes_before_val(pictures: str) -> None:
    """A data set with both is tested on `test`."""
    root = Path(pictures)
    for name in ("cat", "dog", "eel"):
        copy(root / "test/cat/0.png", root / "val" / name / "0.png")
    assert Folder(path=pictures).summary().test_images == 4
    assert Folder(path=pictures, test_split="val").summary().test_images == 3


def test_without_a_test_split_the_message_says_what_to_do(pictures: str) -> None:
    """It is not taken from the training pictures in silence."""
    (Path(pictures) / "test").rename(Path(pictures) / "spare")
    with pytest.raises(
        CompressError, match=r"has no folder test/, val/, .* move about a fifth .* or name the folder as data\.test"
    ):
        Folder(path=pictures).summary()


def test_a_split_that_is_not_there_is_told(pictures: str) -> None:
    """With the folders that are."""
    with pytest.raises(CompressError, match=r"training: there is no such folder; .* has test, train: name the splits"):
        Folder(path=pictures, train_split="training").summary()


def test_a_missing_folder_is_unreachable() -> None:
    """A path that is not there has its own exit code."""
    with pytest.raises(Unreachable, match="there is no such folder; give the one that holds train/"):
        Folder(path="/none").summary()


def test_classes_of_one_split_alone_are_told(pictures: str) -> None:
    """Both splits must have the same classes, or labels would not mean the same."""
    root = Path(pictures)
    (root / "test/eel").rename(root / "test/fox")
    message = r"differ in their classes: .*train alone has eel; .*test alone has fox; give each class a folder in both"
    with pytest.raises(CompressError, match=message):
        Folder(path=pictures).summary()


def test_a_class_without_pictures_is_told(pictures: str) -> None:
    """By its folder."""
    (Path(pictures) / "test/eel/0.png").unlink()
    with pytest.raises(CompressError, match=r"test/eel: the class has no pictures"):
        Folder(path=pictures).summary()


def test_one_class_is_none(tmp_path: Path) -> None:
    """With fewer than two classes there is nothing to learn."""
    for split in ("train", "test"):
        (tmp_path / split / "cat").mkdir(parents=True)
        (tmp_path / split / "cat" / "0.png").write_bytes(b"")
    with pytest.raises(CompressError, match=r"has 1 folder of a class, and two are needed"):
        Folder(path=str(tmp_path)).summary()


def test_pictures_beside_the_classes_are_told(pictures: str) -> None:
    """A picture without a class is not left out in silence."""
    copy(Path(pictures) / "train/cat/0.png", Path(pictures) / "train/stray.png")
    with pytest.raises(CompressError, match=r"stray\.png: lies beside the folders of the classes"):
        Folder(path=pictures).summary()


@pytest.mark.parametrize("content", [b"", b"notes on the pictures", b"\x89PNG\r\n\x1a\nrubbish"])
def test_a_file_that_is_no_picture_is_named(pictures: str, content: bytes) -> None:
    """Other files are not left out in silence, either."""
    (Path(pictures) / "test/dog/notes.txt").write_bytes(content)
    with pytest.raises(CompressError, match=r"test/dog/notes\.txt: cannot be decoded as a picture.*; replace or remove it"):
        Folder(path=pictures).load(RGB)


@pytest.mark.parametrize("place", ["train/cat/9.png", "train/fish", "test"])
def test_links_that_lead_out_are_refused(pictures: str, tmp_path: Path, place: str) -> None:
    """A picture, a class or a split that lies elsewhere is named."""
    outside, link = tmp_path / "outside", Path(pictures) / place
    copy(Path(pictures) / "train/cat/0.png", outside / "cat" / "0.png")
    if link.is_dir():
        link.rename(tmp_path / "away")
    link.symlink_to(outside / "cat" / "0.png" if place.endswith("png") else outside)
    with pytest.raises(CompressError, match=r"is a link that leads out of .*; put what it leads to there instead"):
        Folder(path=pictures).summary()


def test_links_inside_are_followed(pictures: str) -> None:
    """A link to another picture of the data set is a picture; one to a folder below a class is told, and not left out."""
    root = Path(pictures)
    (root / "train/cat/9.png").symlink_to("../dog/0.png")
    assert Folder(path=pictures).load(RGB).train.labels.tolist().count(0) == 5
    (root / "train/cat/more").symlink_to("../dog")
    with pytest.raises(CompressError, match=r"train/cat/more: is a link to a folder"):
        Folder(path=pictures).summary()


def test_what_is_no_file_is_refused(pictures: str) -> None:
    """A pipe would be waited for, and a link to nothing cannot be read."""
    pipe = Path(pictures) / "train/cat/9.png"
    os.mkfifo(pipe)
    with pytest.raises(CompressError, match=r"9\.png: is no file"):
        Folder(path=pictures).summary()
    pipe.unlink()
    pipe.symlink_to("nothing.png")
    with pytest.raises(CompressError, match=r"9\.png: is no file"):
        Folder(path=pictures).summary()


def test_gray_is_an_option(pictures: str) -> None:
    """A recipe can choose one channel."""
    gray = RGB.model_copy(update={"channels": "gray", "mean": (0.5,), "std": (0.5,)})
    source = Folder(path=pictures, channels="gray")
    assert source.channels == "gray"
    assert source.load(gray).train.images.shape == (9, 6, 5, 1)
