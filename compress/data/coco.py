"""Pictures with boxes as COCO describes them: a folder of pictures and one JSON file for each split.

    my_pictures/train/000001.jpg    my_pictures/train/annotations.json
    my_pictures/test/000002.jpg     my_pictures/test/annotations.json

Categories become classes in the order of their ids. Crowds (`iscrowd`) are neither trained on nor judged. Segmentations are not
read. A picture that the file lists without annotations shows no object; one that it does not list is refused. Boxes that reach
beyond their picture by no more than rounding are clipped. Results are measured at the network's input size.

Source: Lin et al., arXiv:1405.0312; the format as cocodataset.org describes it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import starmap
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from compress.data import Dataset, Summary, list_names
from compress.data._boxed import Boxed, find_box_problems, list_pictures, load_boxed, refuse_missing_classes
from compress.data._masks import refuse_all
from compress.errors import CompressError, Unreachable
from compress.recipe import Text
from compress.records import Preprocess
from compress.system.files import read_bounded

MOST_BYTES = 1 << 31
NEEDED = ("images", "annotations", "categories")


class _Annotated(NamedTuple):
    """A split."""

    classes: tuple[str, ...]
    pictures: tuple[Boxed, ...]


class Coco:
    """Pictures with boxes in COCO's format.

    Args:
        path: The folder of everything, relative to the recipe or to where the command runs.
        train_folder: Folder of the training pictures, below `path`.
        train_file: Their JSON file, below `path`.
        test_folder: Folder of the test pictures.
        test_file: Their JSON file.
        channels: What pictures are decoded to.
    """

    task = "detection"

    def __init__(
        self,
        *,
        path: Text,
        train_folder: Text = "train",
        train_file: Text = "train/annotations.json",
        test_folder: Text = "test",
        test_file: Text = "test/annotations.json",
        channels: Literal["gray", "rgb"] = "rgb",
    ) -> None:
        self.path = Path(path)
        self.places = (
            (self.path / train_folder, self.path / train_file), (self.path / test_folder, self.path / test_file),
        )  # fmt: skip
        self.channels: str = channels

    def summary(self) -> Summary:
        """Return classes and sizes, from the annotations.

        Raises:
            CompressError: An annotation or picture is missing, twice there, or not what the format says.
            Unreachable: A file or folder is not there.
        """
        train, test = self._read()
        return Summary(train.classes, len(train.pictures), len(test.pictures))

    def load(self, preprocess: Preprocess) -> Dataset:
        """Return all pictures and boxes in memory, decoded and resized.

        Raises:
            CompressError: As in `summary`; or a picture cannot be read, or has another size than annotated.
            Unreachable: As in `summary`.
        """
        return load_boxed([split.pictures for split in self._read()], preprocess)

    def _read(self) -> tuple[_Annotated, _Annotated]:
        train, test = (_read_split(images, annotations) for images, annotations in self.places)
        if train.classes != test.classes:
            differ = sorted({*train.classes} ^ {*test.classes}) or ["in another order"]
            raise CompressError(
                f"{self.places[1][1]}: has other categories than {self.places[0][1]}: {list_names(differ)}; give both the same"
            )
        refuse_missing_classes(train.pictures, train.classes)
        return train, test


def _read_split(images: Path, annotations: Path) -> _Annotated:
    if not images.is_dir():
        raise Unreachable(f"{images}: there is no such folder; give that of the pictures")
    content = _read_json(annotations)
    where = str(annotations)
    kinds = _index(content["categories"], where, "category")
    classes = tuple(str(kinds[number].get("name", number)) for number in sorted(kinds))
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice or not classes:
        raise CompressError(
            f"{where}: has the category {twice[0]!r} twice; mend it" if twice else f"{where}: has no categories"
        )
    labels = {number: label for label, number in enumerate(sorted(kinds))}
    listed, pictures = _index(content["images"], where, "image"), list_pictures(images)
    problems = [*_find_picture_problems(listed, pictures, where)]
    boxes: dict[Any, list[tuple[float, ...]]] = {number: [] for number in listed}
    for number, each in _index(content["annotations"], where, "annotation").items():
        found = _read_box(each, f"{where}: annotation {number}", listed, labels)
        problems += [one for one in found if isinstance(one, CompressError)]
        boxes.get(each.get("image_id"), []).extend(one for one in found if not isinstance(one, CompressError))
    refuse_all(problems)
    items = (
        (pictures[each["file_name"]], np.array(boxes[number], np.float32).reshape(-1, 5), (each["width"], each["height"]))
        for number, each in listed.items()
    )
    return _Annotated(classes, tuple(starmap(Boxed, items)))


def _read_box(
    each: Mapping[str, Any], where: str, listed: Mapping[Any, Mapping[str, Any]], labels: Mapping[Any, int]
) -> list[tuple[float, ...] | CompressError]:
    """Return the box of an annotation, or all that is wrong with it."""
    image, label, given = listed.get(each.get("image_id")), labels.get(each.get("category_id")), each.get("bbox")
    if image is None or label is None:
        what = f"image {each.get('image_id')}" if image is None else f"category {each.get('category_id')}"
        return [CompressError(f"{where} is of {what}, which is not listed; mend it")]
    if not isinstance(given, list) or len(given) != 4 or not all(isinstance(side, int | float) for side in given):
        return [CompressError(f"{where}: bbox is {given!r}, not left, top, width and height; mend it")]
    left, top, width, height = map(float, given)
    sides, size = (left, top, left + width, top + height), (image.get("width") or 0, image.get("height") or 0)
    kind = -2 - label if each.get("iscrowd") else label
    return [*find_box_problems(where, sides, size, str(given))] or [(*sides, kind)]


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise Unreachable(f"{path}: there is no such file; give the annotations as COCO's JSON")
    try:
        content = json.loads(read_bounded(path, limit_bytes=MOST_BYTES, what="an annotation file").decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CompressError(f"{path}: is no JSON ({error}); write it again") from error
    missing = [key for key in NEEDED if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise CompressError(f"{path}: has no list {missing[0]!r}; a file of COCO has {', '.join(NEEDED)}")
    return dict(content)


def _index(items: list[Any], where: str, what: str) -> dict[Any, dict[str, Any]]:
    """Return items by their ids.

    Raises:
        CompressError: One has no id, or two have the same.
    """
    found: dict[Any, dict[str, Any]] = {}
    for place, item in enumerate(items):
        number = item.get("id") if isinstance(item, dict) else None
        if not isinstance(number, int | str):
            raise CompressError(f"{where}: {what} number {place} has no id; give each an id of its own")
        if number in found:
            raise CompressError(f"{where}: two have the {what} id {number}; give each an id of its own")
        found[number] = item
    return found


def _find_picture_problems(
    listed: Mapping[Any, Mapping[str, Any]], there: Mapping[str, Path], where: str
) -> Iterator[CompressError]:
    """Yield which pictures are listed wrongly, are not there, or are not listed."""
    names = Counter(each.get("file_name") for each in listed.values())
    for number, each in listed.items():
        name = each.get("file_name")
        if name not in there:
            yield CompressError(f"{where}: image {number} is {name!r}, which is not in the folder of the pictures; add it")
        elif names[name] > 1:
            yield CompressError(f"{where}: {name!r} is listed {names[name]} times; list each picture once")
        if not all(isinstance(each.get(side), int) and each[side] > 0 for side in ("width", "height")):
            yield CompressError(f"{where}: image {number} has no width and height; add them in pixels")
    for name in there.keys() - names.keys():
        yield CompressError(f"{there[name]}: has no annotation: {where} does not list it; list it, or remove the picture")
