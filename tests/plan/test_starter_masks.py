"""`compress init --task segmentation`: what it writes is a good recipe, for the embedded scenes and for folders with masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress import plugins
from compress.errors import CompressError
from compress.plan import starter
from compress.recipe import Recipe, load


def write_masked(root: Path, width: int, height: int) -> Path:
    """Write pictures with masks of two classes."""
    for split in ("train", "test"):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for number in range(3):
            values = np.random.default_rng(number).integers(0, 2, (height, width), np.uint8)
            Image.fromarray(values).save(root / split / "masks" / f"{number}.png")
            Image.fromarray(values * 255).convert("RGB").save(root / split / "images" / f"{number}.jpg")
    (root / "classes.txt").write_text("road\nsky\n")
    return root


def init(tmp_path: Path, data: Path | None = None) -> tuple[Recipe, tuple[str, ...]]:
    """Write a recipe and return it, read back, with what was seen."""
    path = tmp_path / "mine.yaml"
    seen = starter.write(path, data=data, task="segmentation")
    return load(path), seen


def test_without_data_it_is_for_the_embedded_scenes(tmp_path: Path) -> None:
    """The recipe can be read, and all that it names is there."""
    recipe, seen = init(tmp_path)
    assert seen == ()
    assert recipe.data.source == "digit_scenes"
    assert plugins.load("data", recipe.data.source)(**recipe.data.options(tmp_path)).task == "segmentation"
    for model in (recipe.teacher[0].model, recipe.student.model):
        plugins.load("models", model)(11, 3)


@pytest.mark.parametrize(("width", "height", "side"), [(40, 30, 64), (100, 130, 96), (640, 480, 320)])
def test_the_size_fits_the_pictures(tmp_path: Path, width: int, height: int, side: int) -> None:
    """A multiple of 32 near the shorter side, within what networks and processors bear; what was seen is said."""
    recipe, seen = init(tmp_path, write_masked(tmp_path / "data", width, height))
    assert recipe.data.image_size == side
    assert seen[0] == "6 pictures with masks of 2 classes; 3 of them are the test split."
    assert f"{width} × {height}" in seen[1]
    source = plugins.load("data", recipe.data.source)(**recipe.data.options(tmp_path))
    assert source.summary().classes == ("road", "sky")


def test_a_folder_without_masks_is_refused(tmp_path: Path) -> None:
    """The message says what was looked for, and nothing is written."""
    (tmp_path / "data" / "cats").mkdir(parents=True)
    with pytest.raises(CompressError, match="two splits are needed: train/images/ with train/masks/"):
        init(tmp_path, tmp_path / "data")
    assert not (tmp_path / "mine.yaml").exists()


def test_options_of_parquet_files_are_refused(tmp_path: Path) -> None:
    """A subset beside a folder of masks would be without effect."""
    data = write_masked(tmp_path / "data", 8, 8)
    with pytest.raises(CompressError, match="--subset: with --task segmentation"):
        starter.write(tmp_path / "mine.yaml", data=data, task="segmentation", parquet={"subset": "a"})
