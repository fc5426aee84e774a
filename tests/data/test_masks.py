"""Pictures with masks in folders: what is read, that it lies where it lay, and what is refused in which words."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress.data import IGNORED
from compress.data._masks import resize_mask
from compress.data.masks import Masks
from compress.errors import CompressError, Unreachable
from compress.records import Preprocess


def contract(height=10, width=12, interpolation="nearest", **geometry):
    return Preprocess(
        height=height, width=width, channels="gray", interpolation=interpolation, mean=(0.0,), std=(1.0,), **geometry
    )


@pytest.fixture
def root(mask_folder):
    return Path(mask_folder)


def write_mask(root, values, *, split="train", name="0", mode=None):
    image = Image.fromarray(np.asarray(values, np.uint8))
    (image.convert(mode) if mode else image).save(root / split / "masks" / f"{name}.png")


def test_masks_are_what_the_files_hold(root):
    """In their own size, masks come as they were written, 255 among them, in the order of the pictures' names."""
    dataset = Masks(path=str(root)).load(contract())
    assert dataset.train.labels.dtype == np.uint8
    assert dataset.train.labels.shape == (4, 10, 12)
    for row in range(4):
        assert np.array_equal(dataset.train.labels[row], np.asarray(Image.open(root / "train" / "masks" / f"{row}.png")))
    assert IGNORED in dataset.test.labels


def test_a_palette_is_not_expanded(root):
    """In a mask with a palette, the value and not its colour is the class."""
    values = np.arange(120, dtype=np.uint8).reshape(10, 12) % 3
    image = Image.fromarray(values)
    image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    image.save(root / "train" / "masks" / "0.png")
    with Image.open(root / "train" / "masks" / "0.png") as written:
        assert written.mode == "P"
    assert np.array_equal(Masks(path=str(root)).load(contract()).train.labels[0], values)


@pytest.mark.parametrize("geometry", [{}, {"geometry": "center_crop", "crop_fraction": 0.8}, {"geometry": "letterbox"}])
@pytest.mark.parametrize("size", [(5, 6), (20, 24), (7, 9), (33, 12)])
def test_picture_and_mask_are_placed_alike(root, size, geometry):
    """A picture whose pixels are its mask is, resized by the nearest pixel, still its mask; what is filled is ignored."""
    for number in range(4):
        mask = np.asarray(Image.open(root / "train" / "masks" / f"{number}.png"))
        Image.fromarray(mask).save(root / "train" / "images" / f"{number}.png")
    options = geometry | ({"fill": IGNORED} if geometry.get("geometry") == "letterbox" else {})
    dataset = Masks(path=str(root), channels="gray").load(contract(*size, **options))
    assert np.array_equal(dataset.train.images[..., 0], dataset.train.labels)
    assert set(np.unique(dataset.train.labels)) <= {0, 1, 2, IGNORED}


def test_the_interpolation_of_pictures_does_not_mix_classes(root):
    """Bicubic pictures have nearest masks."""
    smooth, nearest = (Masks(path=str(root)).load(contract(7, 7, kind)) for kind in ("bicubic", "nearest"))
    assert np.array_equal(smooth.train.labels, nearest.train.labels)
    assert not np.array_equal(smooth.train.images, nearest.train.images)


def test_a_turned_picture_and_an_upright_mask_lie_on_each_other(root):
    """A picture that EXIF turns has a mask of the turned size, and none of the size before."""
    upright = np.asarray(Image.open(root / "train" / "masks" / "0.png"))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side: turn by 90 degrees to see it upright
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(root / "train" / "images" / "0.png", exif=exif)
    dataset = Masks(path=str(root), channels="gray").load(contract())
    assert np.array_equal(dataset.train.images[0, ..., 0], dataset.train.labels[0])
    write_mask(root, np.rot90(upright))
    with pytest.raises(
        CompressError, match=r"0\.png: has 10 × 12 pixels and its picture 12 × 10, which its EXIF orientation 6"
    ):
        Masks(path=str(root)).summary()


def test_resizing_takes_the_nearest_pixel():
    """Twice as large, each pixel is four; half as large, each is one of the four."""
    mask = np.array([[0, 1], [2, IGNORED]], np.uint8)
    large = resize_mask(mask, contract(4, 4))
    assert np.array_equal(large, mask.repeat(2, 0).repeat(2, 1))
    assert np.array_equal(resize_mask(large, contract(2, 2)), mask)


def test_class_names_in_the_recipe_come_first(root):
    """`classes` replaces the file."""
    assert Masks(path=str(root), classes=("a", "b", "c")).summary().classes == ("a", "b", "c")
    assert Masks(path=str(root)).summary().classes == ("wall", "floor", "lamp")


def make_all_ignored(root):
    write_mask(root, np.full((10, 12), IGNORED))


def make_other_size(root):
    write_mask(root, np.zeros((10, 11)))


def make_unknown_value(root):
    write_mask(root, np.full((10, 12), 3))


def make_shades(root):
    write_mask(root, np.arange(120).reshape(10, 12))


def make_colours(root):
    write_mask(root, np.zeros((10, 12)), mode="RGB")


def make_16_bits(root):
    Image.fromarray(np.zeros((10, 12), np.uint16)).save(root / "train" / "masks" / "0.png")


def make_jpeg(root):
    path = root / "train" / "masks" / "0.png"
    Image.fromarray(np.zeros((10, 12), np.uint8)).save(path, format="JPEG")


def cut_off(root):
    path = root / "train" / "masks" / "0.png"
    path.write_bytes(path.read_bytes()[:60])


def remove_mask(root):
    (root / "train" / "masks" / "1.png").unlink()


def remove_picture(root):
    (root / "train" / "images" / "1.png").unlink()


def write_twice(root):
    Image.new("RGB", (12, 10)).save(root / "train" / "images" / "0.jpg")


def remove_class(root):
    for number in range(4):
        write_mask(root, np.asarray(Image.open(root / "train" / "masks" / f"{number}.png")) % 2, name=str(number))


def name_others(root):
    (root / "test" / "classes.txt").write_text("floor\nwall\nlamp\n")


def name_fewer(root):
    (root / "test" / "classes.txt").write_text("wall\nfloor\n")


def name_nothing(root):
    (root / "classes.txt").unlink()


def name_one(root):
    (root / "classes.txt").write_text("wall\n")


def name_twice(root):
    (root / "classes.txt").write_text("wall\nwall\nlamp\n")


def remove_masks(root):
    for path in (root / "train" / "masks").iterdir():
        path.unlink()
    (root / "train" / "masks").rmdir()


def remove_test(root):
    (root / "test").rename(root / "other")


EARLY = [
    (make_other_size, r"masks/0\.png: has 11 × 10 pixels and its picture 12 × 10; give a mask of the picture's size"),
    (make_colours, r"masks/0\.png: has colours \(mode RGB\), .* by the palette that made it"),
    (make_16_bits, r"masks/0\.png: has values of more than 8 bits \(mode I;16\)"),
    (remove_mask, r"images/1\.png: has no mask; add it as .*masks/1\.png, or remove the picture"),
    (remove_picture, r"masks/1\.png: is a mask without a picture; add the picture, or remove the mask"),
    (write_twice, r"images/0\.png: has the name of 0\.jpg"),
    (name_others, r"test/classes\.txt: calls value 0 'floor', and .*classes\.txt calls it 'wall'"),
    (name_fewer, r"test/classes\.txt: names 2 classes and .*classes\.txt 3"),
    (name_nothing, r"says nowhere what the values of the masks mean; .* data\.classes"),
    (name_one, r"classes\.txt: names 1 class; give 2 to 255"),
    (name_twice, r"classes\.txt: class name 'wall' stands for label 0 and for label 1"),
    (remove_masks, r"train/masks: there is no such folder; .* data\.masks_folder"),
    (remove_test, r"has 'other', 'train', and two splits are needed: train/images/ with train/masks/"),
]
LATE = [
    (make_all_ignored, r"masks/0\.png: all of its pixels are ignored \(255\)"),
    (make_unknown_value, r"masks/0\.png: has the value 3, and there are 3 classes, 0 to 2"),
    (make_shades, r"masks/0\.png: has the values 3, 4, 5, 6, 7 and others, .* looks like shades of gray"),
    (remove_class, r"no training mask has a pixel of 1 class: 'lamp'"),
    (make_jpeg, r"masks/0\.png: is no PNG"),
    (cut_off, r"masks/0\.png: cannot be decoded as a mask"),
]


@pytest.mark.parametrize(("damage", "message"), EARLY)
def test_what_names_and_headers_show_is_refused_by_check(root, damage, message):
    """Before anything is decoded, `compress check` says what is wrong, with the actual file and value, and so does loading."""
    damage(root)
    with pytest.raises(CompressError, match=message):
        Masks(path=str(root)).summary()
    with pytest.raises(CompressError, match=message):
        Masks(path=str(root)).load(contract())


@pytest.mark.parametrize(("damage", "message"), LATE)
def test_what_pixels_show_is_refused_before_training(root, damage, message):
    """When the data is loaded, values that are no classes are told by file."""
    damage(root)
    with pytest.raises(CompressError, match=message):
        Masks(path=str(root)).load(contract())


def test_several_problems_are_told_at_once(root):
    """A run is not needed for each of them."""
    make_unknown_value(root)
    write_mask(root, np.full((10, 12), IGNORED), name="2")
    with pytest.raises(CompressError, match=r"(?s)2 problems:.*0\.png: has the value 3.*2\.png: all of its pixels"):
        Masks(path=str(root)).load(contract())


def test_a_folder_that_is_not_there_cannot_be_reached(tmp_path):
    """Its path is named, with exit code 5."""
    with pytest.raises(Unreachable, match="there is no such folder"):
        Masks(path=str(tmp_path / "none")).summary()
