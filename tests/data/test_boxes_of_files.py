"""What a user can rely on of pictures with boxes in files: where boxes lie once pictures are resized, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress import plugins
from compress.data import Dataset, check_dataset
from compress.errors import CompressError, Unreachable
from compress.records import Preprocess
from compress.tasks import load_task
from tests.data.boxed_pictures import Change, write_coco, write_yolo

PREPROCESS = Preprocess(height=20, width=40, channels="rgb", mean=(0.5,) * 3, std=(0.25,) * 3)


def load(name: str, folder: Path, **options: object) -> Dataset:
    source = plugins.load("data", name)(path=str(folder), **options)
    summary = source.summary()
    assert source.task == "detection"
    return check_dataset(source.load(PREPROCESS), len(summary.classes), load_task("detection"))


@pytest.mark.parametrize("geometry", ["squeeze", "letterbox"])
@pytest.mark.parametrize(("name", "write"), [("coco", write_coco), ("yolo", write_yolo)])
def test_boxes_move_with_their_pictures(name: str, write: Callable[[Path], Path], geometry: str, tmp_path: Path) -> None:
    """The box of what is red holds all red pixels and no others, however pictures are resized, and whatever EXIF says."""
    source = plugins.load("data", name)(path=str(write(tmp_path)))
    assert source.summary().classes == ("dog", "cat")
    data = source.load(PREPROCESS.model_copy(update={"geometry": geometry}))
    image = data.train.images[0]
    box = next(each for each in data.train.labels[0] if each[4] == 1)
    rows, columns = np.nonzero(image[..., 0] > 127)
    assert box[:4] == pytest.approx([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], abs=0.51)
    assert sorted(data.train.labels[0, :, 4]) == ([-2, 0, 1] if name == "coco" else [0, 1])
    assert set(data.train.labels[1, :, 4]) == {-1}
    check_dataset(data, 2, load_task("detection"))


def put(*path: Any) -> Change:
    """Return a change of one value in an annotation file."""

    def change(content: dict[str, Any]) -> None:
        *way, last, value = path
        inner: Any = content
        for step in way:
            inner = inner[step]
        inner[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put("annotations", 0, "bbox", [12, 10, 0, 20]), "annotation 1: box .* has no area"),
        (put("annotations", 0, "bbox", [50, 10, 18, 20]), "annotation 1: box .* reaches beyond its picture of 60 × 40 pixels"),
        (put("annotations", 0, "bbox", [1, 2, 3]), r"annotation 1: bbox is \[1, 2, 3\], not left, top, width and height"),
        (put("annotations", 0, "bbox", [1, 2, 3, float("nan")]), "annotation 1: box .* is not finite"),
        (put("annotations", 1, "id", 1), "two have the annotation id 1"),
        (put("images", 1, "id", 7), "two have the image id 7"),
        (lambda content: content["annotations"][0].pop("id"), "annotation number 0 has no id"),
        (put("annotations", 0, "image_id", 8), "annotation 1 is of image 8, which is not listed"),
        (put("annotations", 0, "category_id", 8), "annotation 1 is of category 8, which is not listed"),
        (put("images", 1, "file_name", "c.png"), "(?s)image 3 is 'c.png', which is not in .*b.png: has no annotation"),
        (put("images", 1, "file_name", "a.png"), "'a.png' is listed 2 times"),
        (put("images", 0, "width", 61), "has 60 × 40 pixels and its annotation says 61 × 40"),
        (put("images", 0, "width", None), "image 7 has no width and height"),
        (put("categories", 0, "name", "dog"), "has the category 'dog' twice"),
        (put("categories", 0, "name", "cow"), "has other categories than .*: 'cat' and 'cow'|cat.*cow"),
        (lambda content: content["annotations"].pop(0), "no training picture has a box of 1 class: 'cat'"),
        (lambda content: content.pop("categories"), "has no list 'categories'"),
    ],
)  # fmt: skip
def test_annotations_of_coco_that_do_not_fit_are_refused(change: Change, reason: str, tmp_path: Path) -> None:
    """The message names the file, the id and the value; all but sizes are told without reading a picture."""
    with pytest.raises(CompressError, match=reason):
        load("coco", write_coco(tmp_path, change))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1 0.35 0.5 0.3", r"a.txt:1: '1 0.35 0.5 0.3' is not a class and four numbers"),
        ("1 0.35 0.5 0 0.5", "a.txt:1: box 0.35 0.5 0 0.5 has no area"),
        ("1 0.95 0.5 0.3 0.5", "a.txt:1: box .* reaches beyond its picture of 60 × 40 pixels"),
        ("2 0.35 0.5 0.3 0.5", r"a.txt:1: class 2 is not in 0 \.\. 1"),
        ("0 0.35 0.5 0.3 0.5", "no training picture has a box of 1 class"),
    ],
)
def test_lines_of_yolo_that_are_no_boxes_are_refused(line: str, reason: str, tmp_path: Path) -> None:
    """The message names the file and the line."""
    with pytest.raises(CompressError, match=reason):
        load("yolo", write_yolo(tmp_path, line))


def test_files_that_are_missing_are_refused(tmp_path: Path) -> None:
    """Folders, annotation files, names of classes, and a text or a picture without the other."""
    with pytest.raises(Unreachable, match="there is no such folder"):
        load("coco", tmp_path)
    with pytest.raises(Unreachable, match="there is no such folder"):
        load("yolo", tmp_path / "nowhere")
    write_yolo(tmp_path)
    (tmp_path / "train" / "labels" / "b.txt").rename(tmp_path / "train" / "labels" / "c.txt")
    with pytest.raises(CompressError, match=r"(?s)b.png: has no annotation; add .*b.txt, empty.*c.txt: has no picture"):
        load("yolo", tmp_path)
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(CompressError, match="says nowhere what the numbers of the classes mean"):
        load("yolo", tmp_path)
