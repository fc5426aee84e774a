"""What must hold of the losses, whatever the numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from compress import losses
from compress.losses import correlations
from tests.losses.cases import FEATURES, LOGITS, Case
from tests.losses.reference import pair


def logits(count: int = 12, classes: int = 6) -> tuple[Tensor, Tensor]:
    student, teacher = pair(count, classes)
    return torch.tensor(student), torch.tensor(teacher)


def maps() -> tuple[Tensor, Tensor]:
    student, teacher = pair(3, 4, 5, 5)
    return torch.tensor(student), torch.tensor(teacher)


@pytest.mark.parametrize("case", [*LOGITS, *FEATURES], ids=str)
def test_a_student_that_equals_its_teacher_costs_nothing_and_is_left_alone(case: Case) -> None:
    """Identical inputs have loss 0 and gradient 0, at few classes where no column vanishes."""
    same = (logits() if case in LOGITS else maps())[0].requires_grad_()
    value = case.loss(same, same.detach().clone())
    (gradient,) = torch.autograd.grad(value, same)
    assert value.item() == pytest.approx(0, abs=1e-4)  # DIST's constant beside small norms, times 16
    assert gradient.abs().max() < 1e-4


@pytest.mark.parametrize("case", [*LOGITS, *FEATURES], ids=str)
def test_the_order_of_samples_does_not_matter(case: Case) -> None:
    """A shuffled batch has the same loss, as every loss averages over samples."""
    student, teacher = logits() if case in LOGITS else maps()
    order = torch.randperm(len(student))
    torch.testing.assert_close(case.loss(student[order], teacher[order]), case.loss(student, teacher))


@pytest.mark.parametrize("case", LOGITS, ids=str)
def test_the_order_of_classes_does_not_matter(case: Case) -> None:
    """Renaming the classes for both changes nothing."""
    student, teacher = logits()
    order = torch.randperm(student.shape[1])
    torch.testing.assert_close(case.loss(student[:, order], teacher[:, order]), case.loss(student, teacher))


@pytest.mark.parametrize("case", [case for case in LOGITS if "sigmoid" not in case.name], ids=str)
def test_an_offset_of_a_samples_logits_does_not_matter(case: Case) -> None:
    """What softmax does not see, no loss of softened predictions sees."""
    student, teacher = logits()
    moved = student + torch.randn(len(student), 1, dtype=student.dtype)
    torch.testing.assert_close(case.loss(moved, teacher), case.loss(student, teacher))


@pytest.mark.parametrize("case", [*LOGITS, *FEATURES], ids=str)
def test_a_batch_twice_over_costs_what_it_costs_once(case: Case) -> None:
    """Losses are means: doubling the batch with itself leaves them as they are."""
    student, teacher = logits() if case in LOGITS else maps()
    doubled = case.loss(torch.cat([student, student]), torch.cat([teacher, teacher]))
    torch.testing.assert_close(doubled, case.loss(student, teacher), rtol=1e-6, atol=0)  # DIST's constant weighs less


def test_kd_is_never_negative_and_its_gradient_keeps_its_size_at_high_temperature() -> None:
    """Temperature² makes up for the softened gradient: it tends to that of matching centred logits."""
    student, teacher = logits()
    assert all(losses.kd(s[None], t[None], temperature=1.0) > 0 for s, t in zip(student, teacher, strict=True))
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(losses.kd(student, teacher, temperature=1e6), student)
    difference = student.detach() - teacher
    limit = (difference - difference.mean(dim=1, keepdim=True)) / student.numel()
    torch.testing.assert_close(gradient, limit, rtol=1e-3, atol=1e-6)  # first order in 1/temperature


def test_correlation_ignores_scale_and_offset_and_knows_its_sign() -> None:
    """The relation of two vectors does not change when one is stretched and moved; it is symmetric and within ±1."""
    u, v = torch.rand(8, 6, dtype=torch.float64), torch.rand(8, 6, dtype=torch.float64)
    for dim in (0, 1):
        whole = correlations._correlate(u, v, dim=dim, guard=True)
        close = {"rtol": 1e-5, "atol": 1e-7}  # the constant in the denominator is not scaled
        torch.testing.assert_close(correlations._correlate(3 * u + 7, v, dim=dim, guard=True), whole, **close)
        torch.testing.assert_close(correlations._correlate(-2 * u, v, dim=dim, guard=True), -whole, **close)
        torch.testing.assert_close(correlations._correlate(v, u, dim=dim, guard=True), whole, **close)
        assert whole.abs().max() <= 1


def test_opposite_predictions_are_as_far_apart_as_can_be() -> None:
    """A relation is at most 2, which it reaches where the student says the opposite of its teacher."""
    rising = torch.tensor([[0.0, 0.5, 1.0], [1.0, 0.0, 0.5], [0.5, 1.0, 0.0]], dtype=torch.float64)
    probabilities = rising.softmax(dim=1)
    opposite = (2 / 3 - probabilities).log()  # the same spread the other way round, and still rows that sum to 1
    inter, intra = losses.dist_relations(opposite, rising, temperature=1.0)
    assert (inter.item(), intra.item()) == pytest.approx((2, 2), abs=1e-6)


@pytest.mark.parametrize("loss", [losses.factor_l1, losses.attention_transfer])
def test_the_size_of_a_map_does_not_matter_where_it_is_normalised(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Factor and attention transfer compare directions: each sample may be scaled by a number of its own."""
    student, teacher = maps()
    scales = torch.tensor([0.5, 3.0, 100.0], dtype=torch.float64)[:, None, None, None]
    torch.testing.assert_close(loss(student * scales, teacher), loss(student, teacher))


def test_attention_sees_neither_sign_nor_order_of_channels() -> None:
    """Squares lose the sign, the mean loses the order."""
    student, teacher = maps()
    shuffled = -student[:, torch.randperm(student.shape[1])]
    torch.testing.assert_close(losses.attention_transfer(shuffled, teacher), losses.attention_transfer(student, teacher))


def test_drift_adds_up_over_tensors() -> None:
    """Drift of two lists is the sum of their drifts, in float32 also for half-precision weights."""
    first, second = (torch.randn(3), torch.randn(3)), (torch.randn(2, 2), torch.randn(2, 2))
    apart = losses.drift([first[0]], [first[1]]) + losses.drift([second[0]], [second[1]])
    torch.testing.assert_close(losses.drift([first[0], second[0]], [first[1], second[1]]), apart)
    assert losses.drift([first[0].half()], [first[1].half()]).dtype == torch.float32


def test_softmax_weights_sum_to_one_favour_the_larger_and_carry_no_gradient() -> None:
    """Weights are an allocation: they sum to one, ignore a common offset, soften with temperature, and are no target."""
    values = torch.tensor([1.0, 3.0, 2.0], requires_grad=True)
    weights = losses.softmax_weights(values)
    assert not weights.requires_grad
    assert weights.sum().item() == pytest.approx(1)
    assert weights.argsort().tolist() == [0, 2, 1]
    torch.testing.assert_close(losses.softmax_weights(values + 5), weights)
    assert losses.softmax_weights(values, temperature=10.0).std() < weights.std()
    assert losses.softmax_weights(values.half()).dtype == torch.float32
