"""Pictures with boxes as text, as YOLO reads them: two folders in each split, with files of the same names.

    my_pictures/train/images/street.jpg      my_pictures/train/labels/street.txt
    my_pictures/test/images/yard.jpg         my_pictures/test/labels/yard.txt

A line is a box: the number of its class, the first 0, and its centre, width and height as shares of the picture once EXIF has
turned that: `3 0.5 0.5 0.2 0.4`. A picture that shows nothing has an empty file. Names of the classes stand in the recipe,
or in a file classes.txt, one a line.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from compress.data import Dataset, Summary, refuse_duplicates
from compress.data._boxed import Boxed, find_box_problems, list_pictures, load_boxed, read_size, refuse_missing_classes
from compress.data._masks import refuse_all
from compress.errors import CompressError, Unreachable
from compress.recipe import Listing, Text
from compress.records import Preprocess
from compress.system.files import read_bounded

CLASS_FILE = "classes.txt"
MOST_BYTES = 1 << 24


class Yolo:
    """Pictures with boxes in text files.

    Args:
        path: The folder of the splits train and test, relative to the recipe or to where the command runs.
        classes: Names of the classes, that of number 0 first; default: the lines of classes.txt beside the splits.
        images_folder: Name of the folder of the pictures in a split.
        labels_folder: Name of the folder of the text files in a split.
        channels: What pictures are decoded to.
    """

    task = "detection"

    def __init__(
        self,
        *,
        path: Text,
        classes: Listing[Text] | None = None,
        images_folder: Text = "images",
        labels_folder: Text = "labels",
        channels: Literal["gray", "rgb"] = "rgb",
    ) -> None:
        self.path, self.classes = Path(path), classes
        self.images_folder, self.labels_folder = images_folder, labels_folder
        self.channels: str = channels

    def summary(self) -> Summary:
        """Return classes and sizes, from the text files and the headers of the pictures.

        Raises:
            CompressError: A picture or its file is missing, or a line is no box; all are named together.
            Unreachable: The folder is not there.
        """
        classes, train, test = self._read()
        return Summary(classes, len(train), len(test))

    def load(self, preprocess: Preprocess) -> Dataset:
        """Return all pictures and boxes in memory, decoded and resized.

        Raises:
            CompressError: As in `summary`; or a picture cannot be read.
            Unreachable: As in `summary`.
        """
        return load_boxed(self._read()[1:], preprocess)

    def _read(self) -> tuple[tuple[str, ...], list[Boxed], list[Boxed]]:
        classes = self._find_classes()
        train, test = (self._read_split(self.path / name, len(classes)) for name in ("train", "test"))
        refuse_missing_classes(train, classes)
        return classes, train, test

    def _find_classes(self) -> tuple[str, ...]:
        path = self.path / CLASS_FILE
        if self.classes is None and not path.is_file():
            if not self.path.is_dir():
                raise Unreachable(
                    f"{self.path}: there is no such folder; give the one that holds train/ and test/ as data.path"
                )
            raise CompressError(
                f"{self.path}: says nowhere what the numbers of the classes mean; list their names as data.classes, or in "
                f"{path}, one a line"
            )
        lines = self.classes or [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        where = "data.classes" if self.classes else str(path)
        refuse_duplicates(where, tuple(lines))
        if not lines:
            raise CompressError(f"{where}: names no classes; give at least one")
        return tuple(lines)

    def _read_split(self, folder: Path, classes: int) -> list[Boxed]:
        places = folder / self.images_folder, folder / self.labels_folder
        for place, field in zip(places, ("images_folder", "labels_folder"), strict=True):
            if not place.is_dir():
                raise CompressError(f"{place}: there is no such folder; add it, or name the one that is meant as data.{field}")
        pictures = list_pictures(places[0])
        if not pictures:
            raise CompressError(f"{places[0]}: has no pictures; add some")
        texts = {path.stem: path for path in sorted(places[1].glob("*.txt"))}
        stems: dict[str, Path] = {}
        problems: list[CompressError] = []
        found = []
        for picture in pictures.values():
            text = texts.pop(picture.stem, None)
            if picture.stem in stems:
                problems.append(CompressError(f"{picture}: has the name of {stems[picture.stem].name}; give each its own"))
            elif text is None:
                missing = places[1] / f"{picture.stem}.txt"
                problems.append(CompressError(f"{picture}: has no annotation; add {missing}, empty where nothing is shown"))
            else:
                boxes = [*_read_boxes(text, picture, classes)]
                problems += [box for box in boxes if isinstance(box, CompressError)]
                kept = [box for box in boxes if not isinstance(box, CompressError)]
                found.append(Boxed(picture, np.array(kept, np.float32).reshape(-1, 5)))
            stems[picture.stem] = picture
        problems += [CompressError(f"{text}: has no picture; add it, or remove the file") for text in texts.values()]
        refuse_all(problems)
        return found


def _read_boxes(text: Path, picture: Path, classes: int) -> Iterator[tuple[float, ...] | CompressError]:
    """Yield the boxes of a picture in its pixels, or what is wrong with a line."""
    try:
        width, height = read_size(picture)
        lines = read_bounded(text, limit_bytes=MOST_BYTES, what="a file of boxes").decode("utf-8").splitlines()
    except (CompressError, UnicodeDecodeError) as error:
        yield error if isinstance(error, CompressError) else CompressError(f"{text}: is no text ({error}); write it again")
        return
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{text}:{number}"
        try:
            label, across, down, wide, high = map(float, line.split())
        except ValueError:
            shown = line if len(line) <= 60 else f"{line[:60]}..."
            yield CompressError(f"{where}: {shown!r} is not a class and four numbers; polygons are not read")
            continue
        if label not in range(classes):
            yield CompressError(f"{where}: class {label:g} is not in 0 .. {classes - 1}; mend it, or name all classes")
            continue
        sides = (
            (across - wide / 2) * width, (down - high / 2) * height, (across + wide / 2) * width, (down + high / 2) * height,
        )  # fmt: skip
        problems = [*find_box_problems(where, sides, (width, height), f"{across:g} {down:g} {wide:g} {high:g}")]
        yield from problems
        if not problems:
            yield (*sides, label)
