"""Pictures with masks, for segmentation: two folders in each split, with files of the same names.

    my_pictures/train/images/street.jpg      my_pictures/train/masks/street.png
    my_pictures/test/images/yard.jpg         my_pictures/test/masks/yard.png

A mask is a PNG of mode L or P whose values are the classes, 0 for the first; 255 is neither trained on nor judged. It has the
size of its picture once EXIF has turned that. Names of the classes stand in the recipe, or in a file classes.txt, one a line.

Masks are resized with the nearest pixel whatever `interpolation` says of pictures, so that no class is invented, and results
are measured at the network's input size.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from compress.data import Dataset, Summary, list_names, refuse_duplicates
from compress.data._masks import Pair, load_masked, read_header, refuse_all
from compress.data._splits import find_split
from compress.errors import CompressError, Unreachable
from compress.preprocess import SUFFIXES
from compress.recipe import Listing, Text
from compress.records import Preprocess
from compress.text import quantify

CLASS_FILE = "classes.txt"
MOST_CLASSES = 255


class MaskedSplit(NamedTuple):
    """The pictures of a split with their masks, in sorted order."""

    folder: Path
    pairs: tuple[Pair, ...]


class Masks:
    """Pictures with masks, in folders.

    Args:
        path: The folder of the splits, relative to the recipe or to where the command runs.
        classes: Names of the classes, the value 0 first; default: the lines of classes.txt, beside the splits or in each.
        images_folder: Name of the folder of the pictures in a split.
        masks_folder: Name of the folder of the masks in a split.
        channels: What pictures are decoded to.
    """

    task = "segmentation"

    def __init__(
        self,
        *,
        path: Text,
        classes: Listing[Text] | None = None,
        images_folder: Text = "images",
        masks_folder: Text = "masks",
        channels: Literal["gray", "rgb"] = "rgb",
    ) -> None:
        self.path, self.classes = Path(path), classes
        self.images_folder, self.masks_folder = images_folder, masks_folder
        self.channels: str = channels

    def summary(self) -> Summary:
        """Return classes and sizes, from the names and the headers of the files.

        Raises:
            CompressError: Masks or pictures are missing, do not lie on each other, or have colours; or classes have no names.
            Unreachable: The folder is not there.
        """
        train, test = self._find_splits()
        classes = self._find_classes(train, test)
        refuse_all([problem for split in (train, test) for pair in split.pairs for problem in read_header(pair)])
        return Summary(classes, len(train.pairs), len(test.pairs))

    def load(self, preprocess: Preprocess) -> Dataset:
        """Return all pictures and masks in memory, decoded and resized.

        Raises:
            CompressError: As in `summary`; or a mask has a value that is no class; or no training mask has one of the classes.
            Unreachable: As in `summary`.
        """
        splits = self._find_splits()
        counted = [(len(split.pairs), partial(iter, split.pairs)) for split in splits]
        return load_masked(counted, self._find_classes(*splits), preprocess)

    def list_masks(self) -> tuple[Path, ...]:
        """Return the files of all masks.

        Raises:
            CompressError: As in `summary`, but for what headers tell.
            Unreachable: As in `summary`.
        """
        return tuple(pair.mask for split in self._find_splits() for pair in split.pairs if isinstance(pair.mask, Path))

    def _find_splits(self) -> tuple[MaskedSplit, MaskedSplit]:
        if not self.path.is_dir():
            raise Unreachable(f"{self.path}: there is no such folder; give the one that holds train/ and test/ as data.path")
        names = sorted(path.name for path in self.path.iterdir() if path.is_dir() and not path.name.startswith("."))
        found = find_split("train", names), find_split("test", names) or find_split("validation", names)
        if found[0] is None or found[1] is None:
            has = list_names(names) if names else "no folders"
            raise CompressError(
                f"{self.path}: has {has}, and two splits are needed: train/{self.images_folder}/ with "
                f"train/{self.masks_folder}/, and test/{self.images_folder}/ with test/{self.masks_folder}/"
            )
        return self._find_pairs(self.path / found[0]), self._find_pairs(self.path / found[1])

    def _find_pairs(self, folder: Path) -> MaskedSplit:
        places = folder / self.images_folder, folder / self.masks_folder
        for place, field in zip(places, ("images_folder", "masks_folder"), strict=True):
            if not place.is_dir():
                raise CompressError(f"{place}: there is no such folder; add it, or name the one that is meant as data.{field}")
        pictures, masks = (_list_by_stem(place) for place in places)
        lonely = sorted(masks.keys() - pictures.keys())
        if lonely:
            more = f", the first of {len(lonely)}" if len(lonely) > 1 else ""
            raise CompressError(f"{masks[lonely[0]]}: is a mask without a picture{more}; add the picture, or remove the mask")
        if not pictures:
            raise CompressError(f"{places[0]}: has no pictures; add some")
        pairs = [
            Pair(str(picture), picture, str(masks.get(stem, places[1] / f"{stem}.png")), masks.get(stem))
            for stem, picture in pictures.items()
        ]
        return MaskedSplit(folder, tuple(pairs))

    def _find_classes(self, train: MaskedSplit, test: MaskedSplit) -> tuple[str, ...]:
        if self.classes is not None:
            classes, where = tuple(self.classes), "data.classes"
        else:
            classes, where = self._read_classes(train, test)
        refuse_duplicates(where, classes)
        if not 2 <= len(classes) <= MOST_CLASSES:
            raise CompressError(
                f"{where}: names {quantify(len(classes), 'class', 'classes')}; give 2 to {MOST_CLASSES}, with the background"
            )
        return classes

    def _read_classes(self, train: MaskedSplit, test: MaskedSplit) -> tuple[tuple[str, ...], str]:
        lists = {
            path: tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
            for path in (self.path / CLASS_FILE, train.folder / CLASS_FILE, test.folder / CLASS_FILE)
            if path.is_file()
        }
        if not lists:
            raise CompressError(
                f"{self.path}: says nowhere what the values of the masks mean; list the names of the classes as data.classes, "
                f"the value 0 first, or in {self.path / CLASS_FILE}, one a line"
            )
        (first, names), *others = lists.items()
        for path, other in others:
            if other != names:
                place = next((row for row, pair in enumerate(zip(names, other, strict=False)) if pair[0] != pair[1]), None)
                differ = (
                    f"names {len(other)} classes and {first} {len(names)}"
                    if place is None
                    else f"calls value {place} {other[place]!r}, and {first} calls it {names[place]!r}"
                )
                raise CompressError(f"{path}: {differ}; one list holds for all masks: correct them, or keep one")
        return names, str(first)


def _list_by_stem(folder: Path) -> dict[str, Path]:
    """Return the files of a folder by their names without suffix, in sorted order.

    Raises:
        CompressError: Two files have one name but for the suffix.
    """
    found: dict[str, Path] = {}
    for path in _iterate_pictures(folder):
        if path.stem in found:
            raise CompressError(f"{path}: has the name of {found[path.stem].name}; give each picture a name of its own")
        found[path.stem] = path
    return found


def _iterate_pictures(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            yield path
