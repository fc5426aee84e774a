"""The embedded scenes: what is drawn where, from what, and that nothing else decides it."""

import subprocess
import sys

import numpy as np
import pytest

from compress.data import IGNORED
from compress.data._scenes import find_boxes, load_material, make_mask
from compress.data.digit_scenes import DigitScenes
from compress.errors import CompressError
from compress.records import Preprocess

SIZE = 48


def contract(size=SIZE, width=None):
    return Preprocess(height=size, width=width or size, channels="rgb", mean=(0.0,) * 3, std=(1.0,) * 3)


@pytest.fixture(scope="module")
def dataset():
    return DigitScenes(size=SIZE, train_scenes=200, test_scenes=200).load(contract())


@pytest.fixture(scope="module")
def box_dataset():
    return DigitScenes(task="detection", size=SIZE, train_scenes=60, test_scenes=60).load(contract())


def test_both_sides_have_digits_of_their_own():
    """All 1797 digits are used, each on one side; scikit-learn's set has no two that are equal pixel by pixel."""
    sides = [{ink.tobytes() for digit in load_material(split).digits for ink in digit} for split in ("train", "test")]
    assert not sides[0] & sides[1]
    assert sum(map(len, sides)) == 1797


def test_both_sides_have_parts_of_the_photographs_of_their_own():
    """The left 70 % and the right 30 % of each photograph put together are the photograph."""
    from sklearn.datasets import load_sample_images

    train, test = (load_material(split).photographs for split in ("train", "test"))
    for left, right, whole in zip(train, test, load_sample_images().images, strict=True):
        assert np.array_equal(np.hstack([left, right]), whole)
        assert left.width == round(0.7 * whole.shape[1])


def test_a_scene_does_not_depend_on_how_many_are_made(dataset):
    """Any number of scenes of a split begins with the same ones, however many the other split has."""
    few = DigitScenes(size=SIZE, train_scenes=3, test_scenes=5).load(contract())
    for split, other in zip(few, dataset, strict=True):
        assert np.array_equal(split.images, other.images[: len(split.images)])
        assert np.array_equal(split.labels, other.labels[: len(split.labels)])


def test_segmentation_and_detection_have_the_same_scenes(dataset, box_dataset):
    """The task decides what is known of a scene, not what is drawn."""
    assert np.array_equal(box_dataset.train.images, dataset.train.images[:60])


def test_another_seed_draws_other_scenes(dataset):
    """`scene_seed` changes them all."""
    other = DigitScenes(size=SIZE, train_scenes=5, test_scenes=1, scene_seed=1).load(contract())
    assert not any(np.array_equal(*pair) for pair in zip(other.train.images, dataset.train.images[:5], strict=True))


def test_every_class_is_common_enough_to_be_learnt(dataset):
    """Each digit has at least half a percent of the pixels of either split, contours a few, and the background most."""
    for split in dataset:
        shares = np.bincount(split.labels.ravel(), minlength=256) / split.labels.size
        assert shares[1:11].min() > 0.005
        assert 0.02 < shares[IGNORED] < 0.09
        assert 0.7 < shares[0] < 0.9
        assert shares[11:IGNORED].sum() == 0


def test_every_scene_has_a_digit(dataset):
    """No scene is background alone."""
    assert ((dataset.train.labels > 0) & (dataset.train.labels != IGNORED)).any(axis=(1, 2)).all()


def test_a_mask_is_where_the_ink_is():
    """On a mask's digits the picture differs from the same scene without digits, and away from any ink it does not."""
    source = DigitScenes(size=SIZE, distractors=0.0)
    scene = source.draw(0, 0)
    mask = make_mask(scene)
    contrast = [
        np.abs(scene.picture[where].astype(int) - np.median(scene.picture[mask == 0], axis=0)).mean()
        for where in (mask == 0, (mask > 0) & (mask != IGNORED))
    ]
    assert contrast[1] > 1.5 * contrast[0]


def test_contours_lie_between_digit_and_background():
    """Hardly a pixel of a digit touches the background: ink fades through the contour."""
    touching = total = 0
    for number in range(50):
        mask = make_mask(DigitScenes(size=96).draw(0, number))
        digit = (mask > 0) & (mask != IGNORED)
        touching += int((digit[:, 1:] & (mask[:, :-1] == 0)).sum())
        total += int((digit[:, 1:] & ~digit[:, :-1]).sum())
    assert touching < 0.1 * total


def test_boxes_hold_their_digits_exactly():
    """Each box is the smallest around the pixels that the mask gives its digit."""
    for number in range(40):
        scene = DigitScenes(size=SIZE, digits=1).draw(1, number)
        ((left, top, right, bottom, digit),) = find_boxes(scene).astype(int)
        rows, columns = np.nonzero(make_mask(scene) == digit + 1)
        assert (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1) == (top, left, bottom, right)


def test_boxes_are_padded_and_lie_in_the_picture(box_dataset):
    """Labels are [N, M, 5], of class -1 where a scene has fewer digits; real ones have an area and lie within the picture."""
    labels = box_dataset.train.labels
    assert labels.shape == (60, 2, 5)
    assert labels.dtype == np.float32
    real = labels[labels[..., 4] >= 0]
    assert len(labels) <= len(real) < labels.shape[0] * labels.shape[1]
    assert (labels[labels[..., 4] < 0][:, :4] == 0).all()
    assert (real[:, :2] >= 0).all()
    assert (real[:, 2:4] <= SIZE).all()
    assert (real[:, 2:4] > real[:, :2]).all()
    assert set(real[:, 4]) <= set(range(10))


def test_masks_and_boxes_follow_the_size_of_the_input():
    """In an input of another shape masks have that shape, of the same classes, and boxes are stretched along."""
    options = {"size": 64, "train_scenes": 4, "test_scenes": 1}
    masks = DigitScenes(**options).load(contract(96, 32)).train.labels
    assert masks.shape == (4, 96, 32)
    small, large = (DigitScenes(task="detection", **options).load(contract(*size)).train.labels for size in ((64,), (96, 32)))
    np.testing.assert_allclose(large[..., :4], small[..., :4] * [0.5, 1.5, 0.5, 1.5])
    assert np.array_equal(large[..., 4], small[..., 4])


@pytest.mark.parametrize("geometry", ["squeeze", "center_crop", "letterbox"])
def test_boxes_are_placed_like_masks(geometry):
    """Whatever the geometry, a box is where the pixels of its digit are, to the pixel that resizing rounds."""
    options = {"size": 64, "train_scenes": 12, "test_scenes": 1, "digits": 1, "distractors": 0.0}
    placed = contract(48, 80).model_copy(update={"geometry": geometry})
    masks, boxes = (DigitScenes(task=task, **options).load(placed).train.labels for task in ("segmentation", "detection"))
    for mask, (box,) in zip(masks, boxes, strict=True):
        rows, columns = np.nonzero((mask > 0) & (mask != IGNORED))
        if len(rows):
            assert np.abs(box[:4] - [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).max() <= 2


def test_options_make_scenes_harder():
    """More digits crowd a scene, and distractors add ink that is background."""
    crowded = DigitScenes(size=SIZE, digits=6)
    assert max(len(crowded.draw(0, number).digits) for number in range(20)) > 4
    plain, distracted = (DigitScenes(size=SIZE, distractors=share).draw(0, 1) for share in (0.0, 1.0))
    assert not np.array_equal(plain.picture, distracted.picture)


@pytest.mark.parametrize(
    ("options", "message"), [({"size": 10}, "data.size: .* 10 pixels"), ({"digits": 30}, "data.digits: 30")]
)
def test_scenes_that_cannot_be_drawn_are_refused(options, message):
    """What does not fit is said before anything is drawn."""
    with pytest.raises(CompressError, match=message):
        DigitScenes(**options).summary()


def test_the_smallest_scene_holds_the_largest_digit():
    """At the least size and with the most digits scenes are drawn."""
    for number in range(10):
        assert DigitScenes(size=24, digits=9).draw(0, number).picture.shape == (24, 24, 3)


def test_the_summary_needs_no_scikit_learn():
    """`compress check` stays quick; the background is a class of masks and none of boxes."""
    script = (
        "import sys; from compress.data.digit_scenes import DigitScenes as S\n"
        "print([len(S(task=t).summary().classes) for t in ('segmentation', 'detection')], 'sklearn' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert found == "[11, 10] False\n"
