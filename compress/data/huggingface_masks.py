"""Parquet files with a column of pictures and one of masks, as the Hugging Face hub keeps them, for segmentation.

Layouts, splits and revisions are those of the data source `huggingface`. A mask is a PNG of mode L or P, as for the data source
`masks`: its values are the classes, 0 for the first, and 255 is neither trained on nor judged. Such files declare no names of
classes; the recipe does.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Literal

from compress.data import Dataset, Summary, _parquet, refuse_duplicates
from compress.data._masks import Pair, load_masked
from compress.data.huggingface import Huggingface
from compress.errors import CompressError, Unreachable
from compress.plugins import explain_missing_package
from compress.recipe import Listing, Text
from compress.records import Preprocess

MOST_CLASSES = 255


class HuggingfaceMasks:
    """Pictures with masks in parquet files.

    Args:
        path: A local folder, relative to where the command runs, or with `revision` the hub's `owner/name`.
        classes: Names of the classes, the value 0 first.
        revision: The full commit hash (40 hexadecimal digits) of a hub dataset.
        subset: The folder in which the files are, where several have the split.
        train_split: Name of the split for training and validation; default: `train`, or what is usual.
        test_split: Name of the split that is used once, at the end; default: `test`, or what is usual, or else `validation`.
        image_column: The column of pictures; default: the only one beside the masks.
        mask_column: The column of masks; default: the one that is called `mask`, `label` or `annotation`.
        channels: What pictures are decoded to.
    """

    task = "segmentation"

    def __init__(
        self,
        *,
        path: Text,
        classes: Listing[Text],
        revision: Text | None = None,
        subset: Text | None = None,
        train_split: Text | None = None,
        test_split: Text | None = None,
        image_column: Text | None = None,
        mask_column: Text | None = None,
        channels: Literal["gray", "rgb"] = "rgb",
    ) -> None:
        self._files = Huggingface(path=path, revision=revision, subset=subset, train_split=train_split, test_split=test_split)
        self.path, self.subset, self.classes = path, subset, tuple(classes)
        self.image_column, self.mask_column = image_column, mask_column
        self.channels: str = channels

    def summary(self) -> Summary:
        """Return classes and sizes from what the files declare; a hub dataset is downloaded first.

        Raises:
            CompressError: The files or columns are not what the options say, or a split is empty.
            Unreachable: The folder or hub dataset cannot be reached, or a package is not installed.
        """
        refuse_duplicates("data.classes", self.classes)
        if not 2 <= len(self.classes) <= MOST_CLASSES:
            raise CompressError(f"data.classes: names {len(self.classes)}; give 2 to {MOST_CLASSES}, with the background")
        train, test = self._find_tables()
        return Summary(self.classes, train.rows, test.rows)

    def load(self, preprocess: Preprocess) -> Dataset:
        """Return all pictures and masks in memory, decoded and resized.

        Raises:
            CompressError: As in `summary`; or a mask does not lie on its picture, has colours or a value that is no class,
                naming split and row; or no training mask has one of the classes.
            Unreachable: As in `summary`.
        """
        tables = self._find_tables()
        return load_masked([(table.rows, partial(self._read_pairs, table)) for table in tables], self.classes, preprocess)

    def _find_tables(self) -> tuple[_parquet.Table, _parquet.Table]:
        folder = self._files.find_folder()
        parts = _parquet.list_parts(folder, self.subset)
        train, test = self._files.choose_splits(folder, parts)
        if test is None:
            raise CompressError(f"{folder}: has no test split; {_parquet.list_splits(parts)}: name one as data.test_split")
        find = partial(_parquet.find_table, folder, parts, image=self.image_column, label=self.mask_column, masks=True)
        try:
            return find(train), find(test)
        except ModuleNotFoundError as error:
            raise Unreachable(explain_missing_package("data/huggingface_masks", error)) from error

    def _read_pairs(self, table: _parquet.Table) -> Iterator[Pair]:
        pictures, masks = _parquet.read_encoded(table), _parquet.read_encoded(table, table.label)
        for row, (picture, mask) in enumerate(zip(pictures, masks, strict=True)):
            place = f"{self.path}: split {table.split!r}, row {row}, column"
            if picture is None:
                raise CompressError(f"{place} {table.image!r}: holds no picture; remove the row")
            yield Pair(f"{place} {table.image!r}", picture, f"{place} {table.label!r}", mask)
