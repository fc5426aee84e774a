"""What is looked at before and after training, so that nothing is shipped that knows nothing."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.errors import CompressError
from compress.methods import Setting, Step
from compress.methods.supervised import Supervised
from compress.training import preflight
from tests.tiny import batch, setting

LABELS = np.repeat(np.arange(4), [40, 20, 20, 20])


def says(predicted: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return logits whose largest is that of a class."""
    return np.eye(4, dtype=np.float32)[predicted]


@pytest.mark.parametrize(
    "predicted",
    [
        pytest.param(np.zeros(100, np.int64), id="the commonest class"),
        pytest.param(np.full(100, 3), id="another class"),
        pytest.param(np.random.default_rng(0).permutation(LABELS), id="anything"),
    ],
)
def test_a_student_that_guesses_is_told(predicted: NDArray[np.int64]) -> None:
    """No better than always answering the commonest class: the sentence has both numbers and what to do."""
    found = preflight.describe_guessing("student", says(predicted), LABELS)
    assert "of 100" not in found
    assert "on 100 validation images, not clearly more than the 40.0 % of always" in found
    assert "train it longer" in found


def test_a_student_that_knows_something_is_not() -> None:
    """Clearly better than the commonest class is enough."""
    predicted = np.where(np.arange(100) % 5 < 3, LABELS, (LABELS + 1) % 4)
    assert preflight.describe_guessing("student", says(predicted), LABELS) == ""


def test_images_of_one_class_judge_nobody() -> None:
    """The images are at fault, and neither the teacher's weights nor its training."""
    with pytest.raises(CompressError, match=r"^teacher: cannot be judged, as all 6 validation images are of class 'good'"):
        preflight.check_teacher("teacher", np.eye(2, dtype=np.float32)[[0] * 6], np.zeros(6, np.int64), ("good", "defective"))


@pytest.mark.parametrize(("defects", "found", "alarms"), [(15, 14, 16), (15, 7, 5), (30, 29, 300)])
def test_a_detector_of_rare_defects_is_useful(defects: int, found: int, alarms: int) -> None:
    """Less top-1 than "always good" is no reason to refuse a teacher whose answers depend on what is shown."""
    labels = np.repeat([0, 1], [1000 - defects, defects])
    predicted = np.repeat([1, 0, 1, 0], [alarms, 1000 - defects - alarms, found, defects - found])
    accuracy = preflight.check_teacher("teacher", np.eye(2, dtype=np.float32)[predicted], labels, ("good", "defective"))
    assert accuracy.top1_percent < 100 * (1000 - defects) / 1000 or alarms < defects
    assert accuracy.is_uneven
    assert accuracy.recall_percent[1] == pytest.approx(100 * found / defects)


class _Plain(Supervised):
    """Plain training, as somebody's own method might spoil it."""

    def pick(self, _step: Step) -> Tensor:
        raise NotImplementedError

    def losses(self, step: Step) -> dict[str, Tensor]:
        return {"own": self.pick(step)}


class _Misfitting(_Plain):
    def pick(self, step: Step) -> Tensor:
        return (step.student.logits - step.batch.images).sum()


class _Detached(_Plain):
    def pick(self, step: Step) -> Tensor:
        return step.student.logits.detach().sum()


class _Several(_Plain):
    def pick(self, step: Step) -> Tensor:
        return step.student.logits.sum(dim=1)


class _Twice(Supervised):
    def phases(self) -> dict[str, list[nn.Parameter]]:
        own = next(iter(super().phases().values()))
        return {"a": own, "b": own[:1]}


class _Moving(Supervised):
    """Holds a frozen layer that keeps statistics all the same."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.aid = nn.BatchNorm2d(1).requires_grad_(False)

    def losses(self, step: Step) -> dict[str, Tensor]:
        self.aid.train()(step.batch.images)
        return super().losses(step)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (_Misfitting, r"stage 'student', phase 'student': the losses do not fit \(images \[16, 1, 8, 8\]\): "),
        (_Detached, "stage 'student', phase 'student': no loss depends on what it trains"),
        (_Several, r"stage 'student': term 'own' has shape \[16\]; a term is one number"),
        (_Twice, r"stage 'student': student\S* is trained twice, in 'a' and 'b'"),
        (_Moving, "stage 'student': aid.running_mean is frozen, yet one pass changed it"),
    ],
)
def test_a_method_of_ones_own_that_cannot_train_is_told_before(method: type[Supervised], message: str) -> None:
    """What would end in a traceback, or train nothing, is one message that names stage and phase."""
    with pytest.raises(CompressError, match=message):
        preflight.check_structure(method(setting()), batch())
