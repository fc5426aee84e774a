"""The losses against second implementations in NumPy float64, written from the equations, and against the laws they obey."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress import losses

Array = NDArray[np.float64]


def softmax(logits: Array) -> Array:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def reference_kd(student: Array, teacher: Array, temperature: float) -> float:
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    return float((p * (np.log(p) - np.log(q))).sum(axis=1).mean() * temperature**2)


def correlation(u: Array, v: Array) -> float:
    u, v = u - u.mean(), v - v.mean()
    return float(u @ v / (np.linalg.norm(u) * np.linalg.norm(v) + 1e-8))


def reference_dist(student: Array, teacher: Array, temperature: float) -> float:
    p, q = softmax(student / temperature), softmax(teacher / temperature)
    inter = 1 - np.mean([correlation(p[row], q[row]) for row in range(len(p))])
    intra = 1 - np.mean([correlation(p[:, column], q[:, column]) for column in range(p.shape[1])])
    return float(temperature**2 * (inter + intra))


def reference_factor(student: Array, teacher: Array) -> float:
    unit = [x.reshape(len(x), -1) / np.linalg.norm(x.reshape(len(x), -1), axis=1, keepdims=True) for x in (student, teacher)]
    return float(np.abs(unit[0] - unit[1]).mean())


def numeric_gradient(function: Callable[[Array], float], at: Array, step: float = 1e-5) -> Array:
    gradient = np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        here = at.copy()
        here[index] += step
        above = function(here)
        here[index] -= 2 * step
        gradient[index] = (above - function(here)) / (2 * step)
    return gradient


def pair(*shape: int, scale: float = 2.0) -> tuple[Array, Array]:
    random = np.random.default_rng(sum(shape))
    return random.normal(scale=scale, size=shape), random.normal(scale=scale, size=shape)


CASES: list[tuple[str, Callable[[Tensor, Tensor], Tensor], Callable[[Array, Array], float], tuple[int, ...]]] = [
    ("kd T1", lambda s, t: losses.kd(s, t, temperature=1.0), lambda s, t: reference_kd(s, t, 1.0), (5, 4)),
    ("kd T4", lambda s, t: losses.kd(s, t, temperature=4.0), lambda s, t: reference_kd(s, t, 4.0), (5, 4)),
    ("kd 2 classes", lambda s, t: losses.kd(s, t, temperature=2.0), lambda s, t: reference_kd(s, t, 2.0), (6, 2)),
    ("dist T1", losses.dist, lambda s, t: reference_dist(s, t, 1.0), (5, 4)),
    ("dist T4", lambda s, t: losses.dist(s, t, temperature=4.0), lambda s, t: reference_dist(s, t, 4.0), (5, 4)),
    ("dist 2 classes", losses.dist, lambda s, t: reference_dist(s, t, 1.0), (6, 2)),
    ("feature_mse", losses.feature_mse, lambda s, t: float(((s - t) ** 2).mean()), (2, 3, 2, 2)),
    ("factor_l1", losses.factor_l1, reference_factor, (2, 3, 2, 2)),
]


@pytest.mark.parametrize(("name", "loss", "reference", "shape"), CASES, ids=[case[0] for case in CASES])
def test_value_and_gradient_are_those_of_the_equation(
    name: str, loss: Callable[[Tensor, Tensor], Tensor], reference: Callable[[Array, Array], float], shape: tuple[int, ...]
) -> None:
    """Value and gradient equal an independent implementation, and the teacher receives no gradient."""
    student, teacher = pair(*shape)
    s = torch.tensor(student, requires_grad=True)
    t = torch.tensor(teacher, requires_grad=True)
    value = loss(s, t)
    value.backward()
    assert value.item() == pytest.approx(reference(student, teacher), rel=1e-9)  # both in float64
    expected = numeric_gradient(lambda x: reference(x, teacher), student)
    assert s.grad is not None
    np.testing.assert_allclose(s.grad.numpy(), expected, rtol=1e-5, atol=1e-8)  # central differences are good to about 1e-8
    assert t.grad is None


@pytest.mark.parametrize("classes", [10, 100, 1000])
def test_dist_follows_the_reference_at_many_classes_in_float32(classes: int) -> None:
    """The constant in the denominator sits where the authors put it, which shows at 1000 classes."""
    student, teacher = pair(32, classes, scale=4.0)
    value = losses.dist(torch.tensor(student, dtype=torch.float32), torch.tensor(teacher, dtype=torch.float32))
    assert value.item() == pytest.approx(reference_dist(student, teacher, 1.0), rel=1e-4)  # float32 sums over 1000 classes


@pytest.mark.parametrize(
    "loss", [lambda s, t: losses.kd(s, t, temperature=4.0), lambda s, t: losses.dist(s, t, temperature=4.0)]
)
def test_dense_logits_count_every_pixel_as_a_sample(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """[N, K, H, W] gives what the same pixels give as [N * H * W, K]."""
    student, teacher = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4)
    flat = [x.permute(0, 2, 3, 1).reshape(-1, 5) for x in (student, teacher)]
    torch.testing.assert_close(loss(student, teacher), loss(*flat))


def test_identical_predictions_cost_nothing() -> None:
    """A student that equals its teacher has no loss, at few classes where no column vanishes."""
    logits = torch.randn(16, 10)
    assert losses.kd(logits, logits, temperature=4.0).item() == pytest.approx(0, abs=1e-6)
    assert losses.dist(logits, logits, temperature=4.0).item() == pytest.approx(0, abs=1e-4)  # 16 × float32 rounding
    assert losses.feature_mse(logits, logits).item() == 0
    assert losses.factor_l1(logits, logits).item() == 0


def test_correlation_ignores_scale_and_offset_of_probabilities() -> None:
    """The relation of two vectors does not change when one is stretched and moved."""
    u, v = torch.rand(8, 6), torch.rand(8, 6)
    torch.testing.assert_close(losses._correlation(u, v), losses._correlation(3 * u + 7, v), rtol=1e-4, atol=1e-5)


def test_kd_survives_huge_logits() -> None:
    """Logits of 1e4 give a finite loss and gradient."""
    student = torch.full((2, 3), -1e4).requires_grad_()
    teacher = torch.tensor([[1e4, 0.0, -1e4], [0.0, 1e4, 0.0]])
    value = losses.kd(student, teacher, temperature=1.0)
    value.backward()
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dist_of_a_constant_student_is_two_with_no_gradient(dtype: torch.dtype) -> None:
    """A zero-initialised head has the reference's value, and not the reference's exploding or NaN gradient."""
    student = torch.zeros(8, 10, dtype=dtype, requires_grad=True)
    value = losses.dist(student, torch.randn(8, 10).to(dtype))
    value.backward()
    assert value.item() == pytest.approx(2)
    assert student.grad is not None
    assert torch.equal(student.grad, torch.zeros_like(student.grad))


def test_dist_of_one_sample_has_no_relation_between_samples() -> None:
    """With one sample the intra-class term is the constant 1 and passes no gradient."""
    student = torch.randn(1, 6, requires_grad=True)
    _, intra = losses.dist_relations(student, torch.randn(1, 6), temperature=1.0)
    assert intra.item() == 1
    (gradient,) = torch.autograd.grad(intra, student)
    assert not gradient.any()


def test_dist_gradient_stays_bounded_near_a_constant_row() -> None:
    """Rows that differ from constant by rounding alone do not send large gradients."""
    student = (torch.ones(8, 10) + 1e-7 * torch.randn(8, 10)).requires_grad_()
    losses.dist(student, torch.randn(8, 10)).backward()
    assert student.grad is not None
    assert student.grad.abs().max() < 1


def test_factor_of_a_dead_map_is_finite() -> None:
    """An all-zero map gives a finite loss and a bounded gradient."""
    student = torch.zeros(2, 4, 3, 3, requires_grad=True)
    value = losses.factor_l1(student, torch.randn(2, 4, 3, 3))
    value.backward()
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.abs().max() <= 1 / losses.NORM_FLOOR


def test_losses_of_half_precision_are_computed_in_float32() -> None:
    """Half-precision inputs give the value of the same numbers in float32."""
    student, teacher = torch.randn(16, 100).half(), torch.randn(16, 100).half()
    for loss in (lambda s, t: losses.kd(s, t, temperature=4.0), losses.dist, losses.feature_mse, losses.factor_l1):
        value = loss(student, teacher)
        assert value.dtype == torch.float32
        assert value.item() == loss(student.float(), teacher.float()).item()


def test_drift_is_the_sum_of_squares_and_moves_only_the_parameters() -> None:
    """Drift sums squares over all tensors; the anchors receive nothing."""
    parameters = [torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([[3.0]], requires_grad=True)]
    anchors = [torch.tensor([0.0, 0.0], requires_grad=True), torch.tensor([[1.0]], requires_grad=True)]
    value = losses.drift(parameters, anchors)
    value.backward()
    assert value.item() == 1 + 4 + 4
    assert parameters[0].grad is not None
    assert torch.equal(parameters[0].grad, torch.tensor([2.0, 4.0]))
    assert anchors[0].grad is None
    with pytest.raises(ValueError, match="zip"):
        losses.drift(parameters, anchors[:1])
    with pytest.raises(ValueError, match="no parameters"):
        losses.drift([], [])


def test_softmax_weights_favour_the_larger_loss_and_are_detached() -> None:
    """Weights sum to one, follow the losses, soften with temperature, and carry no gradient."""
    values = [torch.tensor(1.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)]
    weights = losses.softmax_weights(values)
    assert not weights.requires_grad
    np.testing.assert_allclose(weights.numpy(), softmax(np.array([[1.0, 3.0]]))[0], rtol=1e-6)
    softer = losses.softmax_weights(torch.tensor([1.0, 3.0]), temperature=10.0)
    assert weights[1] > softer[1] > 0.5
