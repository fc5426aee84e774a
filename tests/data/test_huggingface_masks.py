"""Pictures with masks in parquet files."""

import numpy as np
import pytest

from compress.data.huggingface_masks import HuggingfaceMasks
from compress.data.masks import Masks
from compress.errors import CompressError
from compress.records import Preprocess

NAMES = ("wall", "floor", "lamp")
PREPROCESS = Preprocess(height=7, width=9, channels="rgb", mean=(0.0,) * 3, std=(1.0,) * 3)


def load(source):
    """Load a source as a run does, whose sizes are asked for first."""
    source.summary()
    return source.load(PREPROCESS)


def test_it_is_what_the_folder_with_the_same_files_is(mask_folder, mask_parquet):
    """Pixels, masks, classes and sizes of parquet files are those of the folder whose files they hold."""
    folder, files = Masks(path=mask_folder), HuggingfaceMasks(path=mask_parquet, classes=NAMES)
    assert folder.summary() == files.summary()
    for one, other in zip(folder.load(PREPROCESS), files.load(PREPROCESS), strict=True):
        assert np.array_equal(one.images, other.images)
        assert np.array_equal(one.labels, other.labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_column": "depth"}, r"has no mask column 'depth'; columns that can be one: image .*, annotation"),
        ({"classes": ("a", "b")}, r"split 'train', row 0, column 'annotation': has the value 2, and there are 2 classes"),
        ({"classes": (*NAMES, "door")}, r"no training mask has a pixel of 1 class: 'door'"),
        ({"classes": ("a",)}, r"data\.classes: names 1; give 2 to 255"),
        ({"image_column": "annotation", "mask_column": "image"}, r"column 'image': has colours \(mode RGB\)"),
    ],
)
def test_what_does_not_fit_is_refused(mask_parquet, options, message):
    """Columns, classes and masks that cannot be are told by split, row and column."""
    with pytest.raises(CompressError, match=message):
        load(HuggingfaceMasks(**({"path": mask_parquet, "classes": NAMES} | options)))


def test_columns_that_could_be_either_are_refused(mask_parquet, tmp_path):
    """Two columns of pictures of which none is named like masks are told, with the option that chooses."""
    from pyarrow import parquet

    for path in (tmp_path / "mask_parquet").iterdir():
        table = parquet.read_table(path)
        parquet.write_table(table.rename_columns(["first", "second"]), path)
    with pytest.raises(CompressError, match=r"no mask column"):
        HuggingfaceMasks(path=mask_parquet, classes=NAMES).summary()
    chosen = HuggingfaceMasks(path=mask_parquet, classes=NAMES, mask_column="second")
    assert chosen.summary().train_images == 4
