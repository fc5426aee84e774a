"""Folders of real photographs for `recipes/photographs.yaml`: `python -m benchmarks.studies.groceries CHECKOUT FOLDER`.

The photographs are the Grocery Store Dataset (Klasson, Zhang and Kjellström, WACV 2019, arXiv 1901.00711; MIT licence): fruit,
vegetables and cartons, taken with a smartphone in shops, 348 × 348 pixels and more. Its coarse classes with most pictures
become `FOLDER/train/CLASS` and `FOLDER/test/CLASS`. The authors' test split stays the test split; their validation split is
too small to choose by, and joins the training split, from which the recipe holds its own out.
"""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click

from compress.errors import CompressError
from compress.text import quantify

CLASSES = 10
ADDRESS, COMMIT = "https://github.com/marcusklasson/GroceryStoreDataset", "fc80ba90f803d79d0383df52c5a4ac5de99ff6fc"
ROLES = {"train": "train", "val": "train", "test": "test"}
"""Which of our splits takes the pictures of each of theirs."""


class Picture(NamedTuple):
    """A picture of the data set."""

    file: Path
    split: str
    coarse_class: str

    @property
    def name(self) -> str:
        """A name that no other picture of its class has."""
        return f"{self.split}_{self.file.name}"


def list_pictures(checkout: Path) -> list[Picture]:
    """Return all pictures that the lists of a checkout name.

    Raises:
        CompressError: It is no checkout of the data set.
    """
    data = checkout / "dataset"
    if not (data / "classes.csv").is_file():
        raise CompressError(f"{data}: has no classes.csv; clone {ADDRESS} and check out {COMMIT}")
    with (data / "classes.csv").open(newline="", encoding="utf-8") as file:
        names = {row["Coarse Class ID (int)"]: row["Coarse Class Name (str)"] for row in csv.DictReader(file)}
    return list(_read_lists(data, names))


def _read_lists(data: Path, names: dict[str, str]) -> Iterator[Picture]:
    """Yield the pictures of each split, whose lines are `path, fine class, coarse class`."""
    for split in ROLES:
        for line in (data / f"{split}.txt").read_text(encoding="utf-8").splitlines():
            path, _, coarse = (part.strip() for part in line.split(","))
            yield Picture(data / path, split, names[coarse])


def choose_classes(pictures: Sequence[Picture], count: int) -> tuple[str, ...]:
    """Return the classes with most pictures in the authors' training split, in order of the alphabet."""
    sizes = Counter(picture.coarse_class for picture in pictures if picture.split == "train")
    return tuple(sorted(name for name, _ in sizes.most_common(count)))


@click.command(help=(__doc__ or "").splitlines()[0])
@click.argument("checkout", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--classes", type=click.IntRange(2), default=CLASSES, show_default=True, help="How many, those with most pictures."
)
def main(checkout: Path, folder: Path, classes: int) -> None:
    """Copy the pictures into a folder for each split and class."""
    pictures = list_pictures(checkout)
    kept = choose_classes(pictures, classes)
    counts: Counter[str] = Counter()
    for picture in pictures:
        if picture.coarse_class in kept:
            role = ROLES[picture.split]
            target = folder / role / picture.coarse_class / picture.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture.file, target)
            counts[role] += 1
    said = " and ".join(f"{quantify(counts[role], 'picture')} in {folder / role}" for role in dict.fromkeys(ROLES.values()))
    click.echo(f"{', '.join(kept)}: {said}")


if __name__ == "__main__":
    main()
