"""Pictures in one folder for each class: what is found without being told, and one clear message for what is not right."""

from __future__ import annotations

import os
import shutil
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
    assert source.summary() == (("cat", "dog", "eel"), 9, 4, (4, 3, 2), (1, 2, 1), ())
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
    names = ("train/.DS_Store", "train/cat/.hidden.png", "train/cat/._0.png", "train/cat/Thumbs.db", "train/.git/config")
    for name in (*names, "__MACOSX/train", "train/__MACOSX/._cat", "train/cat/@eaDir/0.png", "test/$RECYCLE.BIN/1"):
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


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("training", "testing"),
        ("Train", "Test"),
        ("train", "dev"),
        ("Training", "Validation"),
        ("training_set", "test_set"),
        ("seg_train", "seg_test"),
        ("Train images", "test-data"),
        ("trainset", "testset"),
    ],
)
def test_splits_may_have_any_usual_name(pictures: str, train: str, test: str) -> None:
    """In any case of letters; what is tested on is told where it is a validation split."""
    root = Path(pictures)
    (root / "train").rename(root / "moved")
    (root / "moved").rename(root / train)
    (root / "test").rename(root / "moved")
    (root / "moved").rename(root / test)
    summary = Folder(path=pictures).summary()
    assert summary[1:3] == (9, 4)
    assert bool(summary.notes) == (test in ("dev", "Validation"))


def test_a_validation_folder_that_is_not_used_is_told(pictures: str) -> None:
    """Beside a test split it is of no use here, which somebody who made it must know."""
    root = Path(pictures)
    shutil.copytree(root / "test", root / "valid")
    (note,) = Folder(path=pictures).summary().notes
    assert "valid is not used: validation images are held out of train/" in note


def make_flat(pictures: str, name: str = "flat", count: int = 30) -> Path:
    """Return a folder with `count` pictures in each of three classes and no splits."""
    picture, flat = Path(pictures) / "train/cat/0.png", Path(pictures).parent / name
    for label in ("cat", "dog", "eel"):
        for number in range(count):
            copy(picture, flat / label / f"{number}.png")
    return flat


def list_test_files(root: Path, **options: object) -> set[str]:
    """Return the pictures of the test split, relative to the folder."""
    pictures = Folder(path=str(root), **options).load_encoded().test.each()  # type: ignore[arg-type]
    return {Path(name).relative_to(root).as_posix() for name, _ in pictures}


def test_classes_without_splits_are_split(pictures: str) -> None:
    """About a fifth of each class is set apart, and a note says what was done and by which options."""
    flat = make_flat(pictures, count=100)
    (flat / "LICENSE.txt").write_text("free")
    summary = Folder(path=str(flat)).summary()
    assert summary.classes == ("cat", "dog", "eel")
    assert summary.train_images + summary.test_images == 300
    assert summary.test_counts is not None
    assert all(10 <= count <= 30 for count in summary.test_counts)
    (note,) = summary.notes
    assert "no test split is there" in note
    assert "data.test_fraction 0.2, data.split_seed 0" in note
    assert 80 <= Folder(path=str(flat), test_fraction=0.4).summary().test_images <= 160


def test_a_split_does_not_depend_on_what_is_added(pictures: str) -> None:
    """A picture stays on its side when others come, in its own class or in others, and wherever the folder lies."""
    flat = make_flat(pictures)
    known = list_test_files(flat)
    assert known == list_test_files(flat)
    assert known == list_test_files(make_flat(pictures, "elsewhere"))
    for number in range(40):
        copy(flat / "cat/0.png", flat / "cat" / f"new{number}.png")
    copy(flat / "cat/0.png", flat / "fox" / "0.png")
    copy(flat / "cat/0.png", flat / "fox" / "1.png")
    grown = list_test_files(flat)
    assert {name for name in grown if "new" not in name and "fox" not in name} == known
    assert known != list_test_files(flat, split_seed=1)


def test_train_alone_is_split_too(pictures: str) -> None:
    """A test split is set apart and told, unless another folder might be it."""
    shutil.rmtree(Path(pictures) / "test")
    summary = Folder(path=pictures).summary()
    assert summary.train_images + summary.test_images == 9
    assert summary.test_counts == (1, 1, 1)
    assert "no test split is there" in summary.notes[0]
    (Path(pictures) / "spare" / "cat").mkdir(parents=True)
    assert Folder(path=pictures, test_fraction=0.3).summary().test_images >= 3


def test_a_fraction_beside_a_test_split_is_refused(pictures: str) -> None:
    """It would have no effect, and somebody counts on it."""
    with pytest.raises(CompressError, match=r"data\.test_fraction: .*test is there to be tested on; remove one"):
        Folder(path=pictures, test_fraction=0.2).summary()


def test_a_class_of_one_picture_cannot_be_split(pictures: str) -> None:
    """It is named, with its number."""
    flat = make_flat(pictures)
    copy(flat / "cat/0.png", flat / "fox" / "0.png")
    with pytest.raises(CompressError, match=r"class 'fox' has 1 picture, and training and test need one each"):
        Folder(path=str(flat)).summary()


def test_a_class_may_be_called_train(pictures: str) -> None:
    """Beside buses and cars it is a class, since it holds pictures itself."""
    flat = make_flat(pictures)
    (flat / "eel").rename(flat / "train")
    assert Folder(path=str(flat)).summary().classes == ("cat", "dog", "train")


def test_classes_may_hold_folders_of_one_name(tmp_path: Path, pictures: str) -> None:
    """Pictures by year or camera in each class: one such folder makes no split, and of several the recipe says it."""
    for name in ("cat", "dog"):
        for number in range(8):
            copy(Path(pictures) / "train/cat/0.png", tmp_path / "one" / name / "2021" / f"{number}.png")
            copy(Path(pictures) / "train/cat/0.png", tmp_path / "two" / name / f"{2020 + number % 2}" / f"{number}.png")
    assert Folder(path=str(tmp_path / "one")).summary().classes == ("cat", "dog")
    with pytest.raises(CompressError, match=r"'2020', '2021', like splits; .*if these are the classes, set data.test_fraction"):
        Folder(path=str(tmp_path / "two")).summary()
    assert Folder(path=str(tmp_path / "two"), test_fraction=0.2).summary().classes == ("cat", "dog")


@pytest.mark.parametrize(
    "names", [("train", "test"), ("fold one", "fold two"), ("indoor_train", "indoor_test"), ("test", "extra")]
)
def test_splits_are_not_taken_for_classes(pictures: str, tmp_path: Path, names: tuple[str, str]) -> None:
    """Pictures without classes in `train` and `test`, or splits with other names, are no data of two classes."""
    root = tmp_path / "odd"
    for name in names:
        if names == ("train", "test"):
            copy(Path(pictures) / "train/cat/0.png", root / name / "0.png")
        else:
            shutil.copytree(Path(pictures) / "train", root / name)
    with pytest.raises(CompressError, match=r"lies beside the folders of the classes|name the folders of the splits as data\."):
        Folder(path=str(root)).summary()


def test_a_folder_around_the_data_is_passed(pictures: str, tmp_path: Path) -> None:
    """As an archive leaves it, beside what macOS adds."""
    (tmp_path / "zip" / "__MACOSX" / "pictures").mkdir(parents=True)
    shutil.copytree(pictures, tmp_path / "zip" / "pictures")
    assert Folder(path=str(tmp_path / "zip")).summary()[1:3] == (9, 4)
    shutil.copytree(make_flat(pictures), tmp_path / "other" / "flowers")
    assert Folder(path=str(tmp_path / "other")).summary().classes == ("cat", "dog", "eel")


@pytest.mark.parametrize("other", ["cafe\u0301", "caf\u00e9 ", " caf\u00e9"])
def test_two_forms_of_a_name_are_one_class(pictures: str, other: str) -> None:
    """Composed or not, with spaces around or not: across the splits and within one, and a note quotes them."""
    root = Path(pictures)
    (root / "train/cat").rename(root / "train" / "caf\u00e9")
    (root / "test/cat").rename(root / "test" / other)
    summary = Folder(path=pictures).summary()
    assert summary[:3] == (("caf\u00e9", "dog", "eel"), 9, 4)
    assert ascii(other) in summary.notes[0]
    (root / "train/dog").rename(root / "train" / other)
    (root / "test/dog/0.png").rename(root / "test/dog/9.png")
    for path in (root / "test/dog").iterdir():
        copy(path, root / "test" / other / path.name)
    shutil.rmtree(root / "test/dog")
    assert Folder(path=pictures).summary()[:3] == (("caf\u00e9", "eel"), 9, 4)


def test_names_that_differ_in_case_are_told(pictures: str) -> None:
    """Across splits one of them is wrong; within both they are two classes, as the letters A and a are."""
    root = Path(pictures)
    (root / "test/cat").rename(root / "test/Cat")
    with pytest.raises(CompressError, match=r"'cat' and 'Cat' differ in the case of their letters only"):
        Folder(path=pictures).summary()
    copy(root / "train/cat/0.png", root / "train/Cat/0.png")
    copy(root / "train/cat/0.png", root / "test/cat/0.png")
    summary = Folder(path=pictures).summary()
    assert summary.classes == ("Cat", "cat", "dog", "eel")
    (note,) = summary.notes
    assert note.startswith("'Cat', 'cat' are classes of their own and differ in the case of their letters only; give them one")


def test_a_missing_folder_is_unreachable() -> None:
    """A path that is not there has its own exit code."""
    with pytest.raises(Unreachable, match="there is no such folder; give the one that holds train/"):
        Folder(path="/none").summary()


def test_classes_of_one_split_alone_are_told(pictures: str) -> None:
    """Both splits must have the same classes, or labels would not mean the same."""
    root = Path(pictures)
    (root / "test/eel").rename(root / "test/fox")
    message = r"differ in their classes: .*train alone has 'eel'; .*test alone has 'fox'; give each class a folder in both"
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


def test_all_that_is_wrong_in_the_folders_is_told_at_once(pictures: str) -> None:
    """A pipe, an empty class and a stray file in one look, each with what it is."""
    train = Path(pictures) / "train"
    os.mkfifo(train / "cat" / "9.png")
    (train / "dog" / "link.png").symlink_to(train / "gone.png")
    (train / "empty").mkdir()
    copy(train / "cat/0.png", train / "stray.png")
    with pytest.raises(CompressError) as caught:
        Folder(path=pictures).summary()
    assert [line.partition(": ")[2].partition(";")[0] for line in str(caught.value).splitlines()] == [
        "is no file, but a pipe", "is no file, but a link to nothing", "the class has no pictures",
        "lies beside the folders of the classes",
    ]  # fmt: skip
    for number in range(20):
        os.mkfifo(train / "cat" / f"pipe{number}")
    with pytest.raises(CompressError, match=r"and 14 more$"):
        Folder(path=pictures).summary()


def test_a_class_whose_name_is_no_text_is_refused(pictures: str) -> None:
    """A folder named in another encoding is named before anything is trained, not when the report is written."""
    for split in ("train", "test"):
        folder = next(path for path in sorted((Path(pictures) / split).iterdir()) if path.is_dir())
        folder.rename(folder.with_name(os.fsdecode(b"caf\xe9")))
    with pytest.raises(CompressError, match="the name is no UTF-8, so no report or file could hold it as a class; rename"):
        Folder(path=pictures).summary()


def test_gray_is_an_option(pictures: str) -> None:
    """A recipe can choose one channel."""
    gray = RGB.model_copy(update={"channels": "gray", "mean": (0.5,), "std": (0.5,)})
    source = Folder(path=pictures, channels="gray")
    assert source.channels == "gray"
    assert source.load(gray).train.images.shape == (9, 6, 5, 1)
