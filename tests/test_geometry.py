"""Placement of pictures: whole sizes, torchvision's own where it has the same, and masks that follow."""

import itertools
import json

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from compress.data import EncodedDataset, EncodedSplit, decode_to_disk, decode_to_memory
from compress.errors import CompressError
from compress.geometry import RESAMPLING, apply_placement, place_picture
from compress.plan.pictures import make_preprocess
from compress.preprocess import decode
from compress.recipe import parse
from compress.records import Preprocess
from tests.encoded_pictures import encode_random

SIZES = [(1, 1), (7, 300), (300, 7), (48, 48), (54, 54), (55, 54), (49, 31), (640, 480), (101, 203)]


def contract(height=48, width=48, **further):
    return Preprocess(height=height, width=width, channels="rgb", mean=(0.5,) * 3, std=(0.25,) * 3, **further)


def picture(size):
    return Image.fromarray(np.random.default_rng(size).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.mark.parametrize("interpolation", sorted(RESAMPLING))
@pytest.mark.parametrize("fraction", [0.875, 0.95, 1.0])
def test_center_crop_is_torchvisions(interpolation, fraction):
    """Bit for bit what `Resize` and `CenterCrop` give, which timm's `crop_pct` and torchvision's weights mean."""
    preprocess = contract(geometry="center_crop", crop_fraction=fraction, interpolation=interpolation)
    theirs = transforms.Compose(
        [
            transforms.Resize(int(48 / fraction), transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(48),
        ]
    )
    for size in SIZES:
        ours = decode(picture(size), preprocess, "picture")
        assert np.array_equal(ours, np.asarray(theirs(picture(size)))), size


@pytest.mark.parametrize("geometry", ["squeeze", "center_crop", "letterbox"])
def test_every_shape_comes_to_the_size(geometry):
    """Whatever the shapes of picture and rectangle, the size is right; a crop covers it, a letterbox fits in and touches."""
    for own, (height, width) in itertools.product(SIZES, [(48, 48), (20, 90), (90, 20), (1, 1)]):
        preprocess = contract(height, width, geometry=geometry)
        (wide, high), (left, top) = place_picture(own, preprocess)
        assert decode(picture(own), preprocess, "picture").shape == (height, width, 3)
        if geometry == "center_crop":
            assert (wide >= width, high >= height, left <= 0, top <= 0) == (True,) * 4
            assert abs(width - wide - 2 * left) <= 1
        if geometry == "letterbox":
            assert 1 <= wide <= width
            assert 1 <= high <= height
            assert wide == width or high == height
        if geometry != "squeeze" and min(wide, high) > 1:
            assert wide / high == pytest.approx(own[0] / own[1], rel=1 / min(wide, high))


def test_a_letterbox_is_filled_around_the_picture():
    """A white picture of half the height lies in the middle, and the rest has the value of `fill`."""
    odd = decode(Image.new("RGB", (7, 8), "white"), contract(8, 8, geometry="letterbox", fill=7), "picture")
    assert (odd[:, 7] == 7).all()  # one column is left over
    found = decode(Image.new("RGB", (80, 40), "white"), contract(40, 40, geometry="letterbox", fill=7), "picture")
    assert (found[10:30] == 255).all()
    assert (found[:10] == 7).all()
    assert (found[30:] == 7).all()


@pytest.mark.parametrize("geometry", ["squeeze", "center_crop", "letterbox"])
def test_a_mask_follows_its_picture(geometry):
    """The mask of a picture's bright half, placed alike without interpolating, is the mask of the placed picture."""
    values = np.zeros((61, 90), np.uint8)
    values[:, 33:] = 255
    preprocess = contract(32, 40, geometry=geometry, fill=0)
    placed = decode(Image.fromarray(values).convert("RGB"), preprocess, "picture")[..., 0]
    labels = Image.fromarray((values > 0).astype(np.uint8))
    mask = np.asarray(apply_placement(labels, place_picture((90, 61), preprocess), preprocess, fill=255, nearest=True))
    assert set(np.unique(mask)) <= {0, 1, 255}
    inside = mask != 255
    assert ((placed > 127) == (mask == 1))[inside].mean() > 0.97  # the edge may lie a pixel off
    assert inside.all() == (geometry != "letterbox")


def test_a_picture_that_is_too_long_to_be_cut_is_refused():
    """Scaling a line of pixels until it covers a square would take gigabytes; the message says what to do instead."""
    with pytest.raises(CompressError, match=r"30000 × 1 pixels.*letterbox"):
        decode(Image.new("RGB", (30000, 1)), contract(224, 224, geometry="center_crop"), "long.png")


def test_a_contract_without_geometry_reads_and_writes_as_before():
    """Bundles from before say nothing of a geometry and mean squeeze; what is not used is not written."""
    old = contract().model_dump(mode="json")
    assert not {"geometry", "crop_fraction", "fill"} & set(old)
    assert Preprocess.model_validate_json(json.dumps(old)) == contract()
    assert contract(geometry="letterbox").model_dump()["fill"] == 114
    assert "crop_fraction" not in contract(geometry="letterbox").model_dump()
    with pytest.raises(ValueError, match="crop_fraction"):
        contract(geometry="center_crop", crop_fraction=0)


RECIPE = "name: a\ndata: {{source: digits, {}}}\nteacher: resnet_cifar.resnet20\nstudent: resnet_cifar.resnet8\nmethod: kd\n"


def test_a_recipe_says_height_and_width():
    """One number is both sides, a pair is height and width; the contract holds what the recipe says."""
    section = parse(RECIPE.format("image_size: [24, 40], geometry: center_crop, crop_fraction: 0.9").encode(), "r.yaml").data
    found = make_preprocess(section, "gray")
    assert (found.height, found.width, found.geometry, found.crop_fraction) == (24, 40, "center_crop", 0.9)
    assert parse(RECIPE.format("image_size: 16").encode(), "r.yaml").data.sides == (16, 16)


@pytest.mark.parametrize("size", ["0", "[8]", "[8, 8, 8]", "[8, 0]", "wide", "true", "[]"])
def test_a_size_that_is_none_is_refused_in_one_sentence(size):
    """Zero, one or three sides, words: a single line that says what may stand there."""
    with pytest.raises(CompressError, match=r"data.image_size: must be .*\[height, width\]") as refusal:
        parse(RECIPE.format(f"image_size: {size}").encode(), "r.yaml")
    assert str(refusal.value).count("image_size") == 1


def test_pictures_on_disk_are_those_in_memory(tmp_path):
    """Each geometry has its own decoded images in the cache, and they are those of memory."""
    names = [f"{seed}.png" for seed in range(4)]
    for seed, name in enumerate(names):
        (tmp_path / name).write_bytes(encode_random(seed))
    split = EncodedSplit(np.array([0, 0, 1, 1]), lambda: ((name, tmp_path / name) for name in names))
    encoded = EncodedDataset(split, split, {name: tmp_path / name for name in names}, "")
    for geometry in ("squeeze", "center_crop", "letterbox"):
        preprocess = contract(4, 8, geometry=geometry)
        memory, disk = decode_to_memory(encoded, preprocess), decode_to_disk(encoded, preprocess, tmp_path / "cache")
        assert np.array_equal(memory.train.images, disk.train.images[:])
    assert len([path for path in (tmp_path / "cache").iterdir() if (path / "images.json").is_file()]) == 3
