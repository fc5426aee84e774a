"""What a user can rely on of the gate where files give boxes: what is harmless passes, and what ruins a detector does not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from compress.recipe import GateSection
from compress.records import Gate, Precision
from compress.tasks import load_task
from exporters import gate
from exporters.verification.model_file import Interface, Port, Wanted, find_violations
from exporters.verification.rule import make_comparable

TASK = load_task("detection")
CLASSES, SIDE, STRIDE = 4, 96, 8
Answers = NDArray[np.float32]


def draw(images: int = 24) -> tuple[Answers, NDArray[np.float32]]:
    """Return the answers of a detector that finds two objects in each image, and the labels."""
    random = np.random.default_rng(0)
    centres = (np.stack(np.meshgrid(*[np.arange(SIDE // STRIDE)] * 2), axis=2).reshape(-1, 2) + 0.5) * STRIDE
    answers = np.empty((images, len(centres), CLASSES + 4), np.float32)
    answers[..., :CLASSES] = random.normal(-6, 1, (images, len(centres), CLASSES))
    answers[..., CLASSES:] = np.concatenate([centres - 16, centres + 16], axis=1) + random.normal(
        0, 3, (images, len(centres), 4)
    )
    labels = np.zeros((images, 2, 5), np.float32)
    for image in range(images):
        for box in range(2):
            left, top = random.uniform(0, 10) + 45 * box, random.uniform(0, 40)
            sides = np.array([left, top, left + random.uniform(20, 38), top + random.uniform(25, 45)])
            kind = int(random.integers(CLASSES))
            labels[image, box] = (*sides, kind)
            inside = np.abs(centres - (sides[:2] + sides[2:]) / 2).max(axis=1) < 1.5 * STRIDE
            answers[image, inside, kind] = random.normal(1.5, 1, inside.sum())
            answers[image, inside, CLASSES:] = sides + random.normal(0, 1.5, (inside.sum(), 4))
    return answers, labels


def judge(change: Callable[[Answers], object], precision: Precision) -> Gate:
    """Return the verdict on a file whose answers are the network's after a change."""
    answers, labels = draw()
    changed = answers.copy()
    change(changed)
    return gate(answers, changed, labels, settings=GateSection(), precision=precision, task=TASK)


def add_noise(logits: float, pixels: float) -> Callable[[Answers], object]:
    """Return a change by rounding of so much, as RMS."""

    def change(answers: Answers) -> None:
        random = np.random.default_rng(1)
        answers[..., :CLASSES] += random.normal(0, logits, answers[..., :CLASSES].shape)
        answers[..., CLASSES:] += random.normal(0, pixels, answers[..., CLASSES:].shape)

    return change


@pytest.mark.parametrize(("precision", "logits", "pixels"), [("fp32", 1e-6, 1e-5), ("fp16", 3e-3, 0.03), ("int8", 0.06, 0.3)])
def test_rounding_passes(precision: Precision, logits: float, pixels: float) -> None:
    """As much as files of this precision were seen to differ: nearly all is found as before."""
    found = judge(add_noise(logits, pixels), precision)
    assert found.status == "passed", found.reason
    assert found.agreement_percent is not None
    assert found.agreement_percent > 85
    assert found.metric == "map"


def quantize_together(answers: Answers) -> None:
    """What int8 does to scores that lie in one tensor with boxes."""
    step = np.float32((answers.max() - answers.min()) / 255)
    answers[...] = np.round(answers / step) * step


def shift_classes(answers: Answers) -> None:
    answers[..., :CLASSES] = np.roll(answers[..., :CLASSES], 1, axis=2)


def exchange_axes(answers: Answers) -> None:
    answers[..., CLASSES:] = answers[..., CLASSES:][..., [1, 0, 3, 2]]


def move_boxes(answers: Answers) -> None:
    answers[..., CLASSES:] += STRIDE


def take_half(answers: Answers) -> None:
    answers[..., CLASSES:] /= 2


def find_nothing(answers: Answers) -> None:
    answers[..., :CLASSES] = -6


def turn_cells(answers: Answers) -> None:
    side = SIDE // STRIDE
    answers[...] = answers.reshape(-1, side, side, CLASSES + 4).swapaxes(1, 2).reshape(answers.shape)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(
    "change", [quantize_together, shift_classes, exchange_axes, move_boxes, take_half, find_nothing, turn_cells]
)
def test_what_ruins_a_detector_fails(change: Callable[[Answers], object], precision: Precision) -> None:
    """In any precision: coarse scores, other classes, boxes elsewhere or in another unit, nothing found, cells turned."""
    assert judge(change, precision).status == "failed"


def test_a_box_that_is_not_finite_fails_wherever_it_is() -> None:
    """Also in a cell in which nothing is found, where boxes are otherwise not compared."""

    def spoil(answers: Answers) -> None:
        answers[0, answers[0, :, :CLASSES].max(axis=1).argmin(), -1] = np.nan

    assert "not finite on 1 of 24 images" in judge(spoil, "int8").reason


def test_boxes_are_compared_where_something_is_found() -> None:
    """Elsewhere nobody looks at them; two pixels weigh as much as 1 of a logit."""
    answers, _ = draw(2)
    moved = answers.copy()
    moved[..., CLASSES:] += 4
    ours, theirs = make_comparable(answers, moved, 4)
    shown = answers[..., :CLASSES].max(axis=2) > np.log(0.05 / 0.95)
    assert np.allclose((theirs - ours)[..., CLASSES:][shown], 2, atol=1e-5)
    assert (theirs[..., CLASSES:][~shown] == 0).all()
    assert 5 < shown.sum() < shown.size / 2
    assert make_comparable(answers, moved, 0) == (answers, moved)


def test_a_file_of_a_detector_has_two_outputs() -> None:
    """Logits and boxes of the manifest's cells, each with its shape."""
    preprocess = {"height": SIDE, "width": SIDE, "mean": [0.5] * 3}
    wanted = Wanted(preprocess, tuple("abcd"), "fp32", logits_shape=(144, 8), boxes=4)
    fed = (Port("images", "float32", (None, 3, SIDE, SIDE)),)
    about = {"classes": '["a", "b", "c", "d"]', "preprocess": "{}", "preprocess_by": "caller"}
    good = (Port("logits", "float32", (None, 144, 4)), Port("boxes", "float32", (None, 144, 4)))
    said = [fault for fault in find_violations(Interface(fed, good, about, "fp32"), wanted) if "prepared" not in fault]
    assert said == []
    (fault,) = [each for each in find_violations(Interface(fed, good[:1], about, "fp32"), wanted) if "output" in each]
    assert fault == "has 1 outputs (logits); logits, boxes are expected"
