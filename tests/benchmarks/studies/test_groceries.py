"""Folders of photographs are made of a data set's own lists, and no picture of its test split is trained on."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.studies.groceries import list_pictures, main
from compress.errors import CompressError

HEAD = "Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int)"
TRAIN, VALIDATION, TEST = ("train/Fruit/a_1.jpg", 0, 0), ("val/Fruit/a_1.jpg", 0, 0), ("test/Fruit/a_1.jpg", 0, 0)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A data set of three coarse classes, the second of which has one picture fewer and the third none to train on."""
    data = tmp_path / "checkout" / "dataset"
    names = ("Red-Apple,0,Apple,0", "Leek,1,Leek,1", "Kiwi,2,Kiwi,2")
    splits = {
        "train": (TRAIN, ("train/Fruit/a_2.jpg", 0, 0), ("train/Vegetables/b_1.jpg", 1, 1)),
        "val": (VALIDATION,),
        "test": (TEST, ("test/Vegetables/b_1.jpg", 1, 1), ("test/Fruit/c_1.jpg", 2, 2)),
    }
    for split, pictures in splits.items():
        for path, *_ in pictures:
            (data / path).parent.mkdir(parents=True, exist_ok=True)
            (data / path).write_text(path)
        (data / f"{split}.txt").write_text("".join(f"{path}, {fine}, {coarse}\n" for path, fine, coarse in pictures))
    (data / "classes.csv").write_text("\n".join((HEAD, *names)))
    return data.parent


def test_the_classes_with_most_pictures_are_copied_and_splits_stay_apart(checkout: Path, tmp_path: Path) -> None:
    """The authors' validation pictures join the training split, under names that none of it has; the test split is theirs."""
    result = CliRunner().invoke(main, [str(checkout), str(tmp_path / "out"), "--classes", "2"], catch_exceptions=False)
    assert result.output.startswith("Apple, Leek: 4 pictures in ")
    found = {path.relative_to(tmp_path / "out").as_posix(): path.read_text() for path in (tmp_path / "out").rglob("*.jpg")}
    assert found == {
        "train/Apple/train_a_1.jpg": TRAIN[0], "train/Apple/train_a_2.jpg": "train/Fruit/a_2.jpg",
        "train/Apple/val_a_1.jpg": VALIDATION[0], "train/Leek/train_b_1.jpg": "train/Vegetables/b_1.jpg",
        "test/Apple/test_a_1.jpg": TEST[0], "test/Leek/test_b_1.jpg": "test/Vegetables/b_1.jpg",
    }  # fmt: skip


def test_another_folder_is_refused(tmp_path: Path) -> None:
    """With the address of the data set."""
    with pytest.raises(CompressError, match=r"clone https://github.com/marcusklasson/GroceryStoreDataset"):
        list_pictures(tmp_path)
