"""Dense logits, ignored pixels, the outputs of detectors, and shapes that do not pair up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from compress import losses
from tests.losses import reference
from tests.losses.cases import LOGITS, Case
from tests.losses.reference import Array, pair, pixels

Masked = Callable[[Tensor, Tensor, Tensor], Tensor]


def dense_gradient(case: Case, student: Array, teacher: Array) -> Array:
    """Return the gradient by dense logits: that by the pixels, put back."""
    count, classes, height, width = student.shape
    rows = case.gradient(pixels(student), pixels(teacher))
    return rows.reshape(count, height, width, classes).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("case", LOGITS, ids=str)
def test_dense_logits_count_every_pixel_as_a_sample(case: Case) -> None:
    """[N, K, H, W] has the value and gradient of its pixels as rows: the mean is over N·H·W, not over N."""
    student, teacher = pair(2, 5, 3, 4)
    s = torch.tensor(student, requires_grad=True)
    value = case.loss(s, torch.tensor(teacher))
    value.backward()
    assert value.item() == pytest.approx(case.value(pixels(student), pixels(teacher)), rel=1e-9)
    assert s.grad is not None
    np.testing.assert_allclose(s.grad.numpy(), dense_gradient(case, student, teacher), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("case", LOGITS, ids=str)
def test_dense_logits_of_one_pixel_are_logits(case: Case) -> None:
    """A map of one pixel is what the same numbers are without the pixel."""
    student, teacher = (torch.tensor(x) for x in pair(6, 4))
    assert torch.equal(case.loss(student[:, :, None, None], teacher[:, :, None, None]), case.loss(student, teacher))


def test_a_detectors_raw_output_is_one_long_class_axis() -> None:
    """Anchors and classes of the classification convolution are one axis, each answer on its own by sigmoid."""
    anchors, classes = 3, 4
    student, teacher = pair(2, anchors * classes, 5, 5)
    levels = [losses.dist(torch.tensor(student), torch.tensor(teacher), activation="sigmoid")]
    rows = [x.transpose(0, 3, 2, 1).reshape(-1, anchors * classes) for x in (student, teacher)]  # as released: H and W swapped
    assert levels[0].item() == pytest.approx(reference.dist(*rows, 1.0, activation="sigmoid"), rel=1e-9)


MASKED: list[Masked] = [
    lambda s, t, valid: losses.kd(s, t, temperature=4.0, valid=valid),
    lambda s, t, valid: losses.dist(s, t, temperature=4.0, valid=valid),
    lambda s, t, valid: torch.stack(losses.dist_relations(s, t, temperature=1.0, valid=valid)).sum(),
]


@pytest.mark.parametrize("loss", MASKED)
def test_masked_pixels_count_for_nothing(loss: Masked) -> None:
    """What `valid` leaves out has no influence and no gradient; what it keeps is treated as if it were all there is."""
    student, teacher = (torch.tensor(x) for x in pair(2, 5, 3, 4))
    valid = torch.rand(2, 3, 4) < 0.6
    student.requires_grad_()
    value = loss(student, teacher, valid)
    kept = [x.detach().movedim(1, -1)[valid] for x in (student, teacher)]
    torch.testing.assert_close(value, loss(*kept, torch.ones(len(kept[0]), dtype=torch.bool)))
    (gradient,) = torch.autograd.grad(value, student)
    touched = gradient.movedim(1, -1).abs().sum(dim=-1) > 0
    assert torch.equal(touched, valid)
    broken = torch.where(valid[:, None], teacher, torch.nan)
    assert torch.equal(loss(student, broken, valid), value)


@pytest.mark.parametrize("loss", MASKED)
def test_without_a_mask_all_pixels_count(loss: Masked) -> None:
    """A mask that keeps everything is the default, which is what the authors of DIST do."""
    student, teacher = (torch.tensor(x) for x in pair(2, 5, 3, 4))
    whole = loss(student, teacher, torch.ones(2, 3, 4, dtype=torch.bool))
    assert torch.equal(whole, loss(student, teacher, None))  # type: ignore[arg-type]


def test_masks_that_say_nothing_useful_are_refused() -> None:
    """A mask of the wrong type or shape, or one that leaves nobody, is an error that says what is right."""
    logits = torch.randn(2, 5, 3, 4)
    with pytest.raises(ValueError, match=r"torch.int64 \[2, 3, 4\]; it must be torch.bool \[2, 3, 4\]"):
        losses.dist(logits, logits, valid=torch.ones(2, 3, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"must be torch.bool \[2, 3, 4\]"):
        losses.dist(logits, logits, valid=torch.ones(2, 5, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="none of 24 samples"):
        losses.kd(logits, logits, temperature=1.0, valid=torch.zeros(2, 3, 4, dtype=torch.bool))


def test_an_unknown_activation_is_refused() -> None:
    """A misspelt activation is not taken for another."""
    with pytest.raises(ValueError, match="'sigmod' is not known; use 'softmax' or 'sigmoid'"):
        losses.dist(torch.randn(3, 4), torch.randn(3, 4), activation="sigmod")  # type: ignore[arg-type]


def test_shapes_that_would_only_broadcast_are_refused() -> None:
    """A teacher of another shape is an error with both shapes, not a loss against repeated numbers."""
    student = torch.randn(4, 6)
    for teacher in (torch.randn(1, 6), torch.randn(4, 1), torch.randn(6)):
        for loss in (lambda s, t: losses.kd(s, t, temperature=1.0), losses.dist, losses.feature_mse, losses.factor_l1):
            with pytest.raises(ValueError, match=r"\[4, 6\] and .* differ"):
                loss(student, teacher)
    with pytest.raises(ValueError, match=r"attention maps: \[2, 9\] and \[2, 4\] differ"):
        losses.attention_transfer(torch.randn(2, 3, 3, 3), torch.randn(2, 3, 2, 2))
    with pytest.raises(ValueError, match="a parameter and its anchor"):
        losses.drift([torch.randn(3)], [torch.randn(1)])


def test_nothing_to_compare_is_refused() -> None:
    """Lists of different lengths and empty ones have no drift and no weights."""
    with pytest.raises(ValueError, match="zip"):
        losses.drift([torch.randn(3)], [])
    with pytest.raises(ValueError, match="no parameters"):
        losses.drift([], [])
    with pytest.raises(ValueError, match="no losses"):
        losses.softmax_weights([])
