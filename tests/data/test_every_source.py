"""The contract of a data source, over every source: a new file is tested the moment it exists."""

import subprocess
import sys

import numpy as np
import pytest

from compress import plugins
from compress.data import IGNORED, check_dataset, hash_dataset, name_task
from compress.records import Preprocess
from compress.tasks import load_task
from tests.data.boxed_pictures import write_coco, write_yolo

NAMES = plugins.list_names("data")
SMALL = {
    "digit_scenes": {"size": 48, "train_scenes": 40, "test_scenes": 40},
    "huggingface_masks": {"classes": ("wall", "floor", "lamp")},
}
"""Options that make a source quick to load, or that it needs beside a path."""


@pytest.fixture(params=NAMES)
def source(request):
    """Build each source; one that needs options takes a small folder, of pictures if that is what it reads."""
    required = [
        name for name, option in plugins.describe("data", request.param).options.items() if option.default is plugins.REQUIRED
    ]
    layout = {
        "folder": "pictures", "masks": "mask_folder", "huggingface_masks": "mask_parquet", "idx": "idx_folder",
        "csv": "csv_file", "webdataset": "shards", "coco": "coco_folder", "yolo": "yolo_folder",
    }  # fmt: skip
    options = SMALL.get(request.param, {})
    if "path" in required:
        options = options | {"path": request.getfixturevalue(layout.get(request.param, "folder"))}
    return plugins.load("data", request.param)(**options)


@pytest.fixture
def coco_folder(tmp_path):
    return str(write_coco(tmp_path / "coco"))


@pytest.fixture
def yolo_folder(tmp_path):
    return str(write_yolo(tmp_path / "yolo"))


def contract(size=8, channels="rgb", interpolation="bilinear"):
    count = 1 if channels == "gray" else 3
    return Preprocess(
        height=size, width=size, channels=channels, interpolation=interpolation, mean=(0.5,) * count, std=(0.5,) * count
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_described(name):
    """`compress list data` and editors have a line for the source and for each of its options."""
    plugin = plugins.describe("data", name)
    assert plugin.summary
    assert all(option.description for option in plugin.options.values())


def test_the_summary_is_what_is_loaded(source):
    """Sizes and the number of classes, told without decoding, are those of the images."""
    summary = source.summary()
    dataset = source.load(contract())
    task = load_task(name_task(source))
    check_dataset(dataset, len(summary.classes), task)
    assert (len(dataset.train.labels), len(dataset.test.labels)) == (summary.train_images, summary.test_images)
    labels = [split.labels[..., 4] if task.boxes else split.labels for split in dataset]
    found = np.unique(np.concatenate([each.ravel() for each in labels]))
    assert {label for label in found if label >= 0} - {IGNORED} == set(range(len(summary.classes)))


@pytest.mark.parametrize("channels", ["gray", "rgb"])
def test_images_have_the_shape_asked_for(source, channels):
    """Whatever the source's own depth and size, images come as uint8 [N, H, W, C] of the contract."""
    dataset = source.load(contract(11, channels))
    depth = {"gray": 1, "rgb": 3}[channels]
    assert dataset.train.images.shape[1:] == dataset.test.images.shape[1:] == (11, 11, depth)


def test_loading_twice_gives_equal_bytes(source):
    """Data is a pure function of the options and the size."""
    assert hash_dataset(source.load(contract())) == hash_dataset(source.load(contract()))
    assert hash_dataset(source.load(contract())) != hash_dataset(source.load(contract(9)))


def test_interpolation_reaches_the_images(source):
    """The recipe's interpolation changes resized images."""
    results = [source.load(contract(11, source.channels, kind)).train.images for kind in ("nearest", "bicubic")]
    assert not np.array_equal(*results)


def test_no_test_image_is_trained_on(source):
    """No row of the test split stands in the training split as well, pixel for pixel."""
    dataset = source.load(contract(8, source.channels, "nearest"))
    seen = {image.tobytes() for image in dataset.train.images}
    assert not any(image.tobytes() in seen for image in dataset.test.images)


@pytest.mark.parametrize("name", NAMES)
def test_describing_and_importing_load_no_engine(name):
    """`compress check` reads a source without torch, and its module brings no heavy package by itself."""
    script = (
        "import sys; from compress import plugins; plugins.load('data', sys.argv[1])\n"
        "print({'torch', 'sklearn', 'pyarrow', 'huggingface_hub'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", script, name], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"
