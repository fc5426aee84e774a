"""Constant rows, zero maps, a batch of one, huge and broken numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from compress import losses
from tests.losses import reference
from tests.losses.cases import FEATURES, LOGITS, Case
from tests.losses.reference import pair

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def gradient_of(value: Tensor, student: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(value, student)
    return gradient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_dist_of_a_constant_student_is_two_with_no_gradient(dtype: torch.dtype, classes: int) -> None:
    """A zero-initialised head has the reference's value, and not the reference's exploding or NaN gradient."""
    student = torch.zeros(8, classes, dtype=dtype, requires_grad=True)
    value = losses.dist(student, torch.randn(8, classes).to(dtype))
    assert value.item() == pytest.approx(2)
    assert not gradient_of(value, student).any()


def test_the_released_gradient_of_a_constant_student_is_there_for_who_wants_it() -> None:
    """Without the guard the value stays and the gradient is the teacher's centred row by the constant of the denominator."""
    student, teacher = np.zeros((8, 4)), pair(8, 4)[1]  # a quarter has no rounding, so the centred row is exactly zero
    s = torch.tensor(student, requires_grad=True)
    value = losses.dist(s, torch.tensor(teacher), guard=False)
    assert value.item() == pytest.approx(2)
    expected = reference.dist_gradient(student, teacher, 1.0, guard=False)
    assert np.abs(expected).max() > 1e5
    np.testing.assert_allclose(gradient_of(value, s).numpy(), expected, rtol=1e-9)


def test_the_guard_changes_nothing_where_nothing_is_constant() -> None:
    """With ordinary predictions the guarded loss is the released one, bit for bit."""
    student, teacher = (torch.tensor(x, requires_grad=True) for x in pair(8, 10))
    guarded, released = losses.dist(student, teacher), losses.dist(student, teacher, guard=False)
    assert torch.equal(guarded, released)
    assert torch.equal(gradient_of(guarded, student), gradient_of(released, student))


@pytest.mark.parametrize("who", ["student", "teacher"])
@pytest.mark.parametrize("axis", [0, 1])
def test_one_constant_row_or_column_silences_itself_alone(who: str, axis: int) -> None:
    """A constant row or column counts as correlation 0 and leaves the others their gradient."""
    student, teacher = pair(6, 5)
    spoilt = student if who == "student" else teacher
    if axis == 0:
        spoilt[2] = 0.5
    else:
        spoilt[:] = np.log(np.insert(reference.softmax(spoilt[:, 1:]) * 0.8, 0, 0.2, axis=1))  # column 0 always has 0.2
    s = torch.tensor(student, requires_grad=True)
    value = losses.dist(s, torch.tensor(teacher))
    assert value.item() == pytest.approx(reference.dist(student, teacher, 1.0), rel=1e-9)
    np.testing.assert_allclose(gradient_of(value, s).numpy(), reference.dist_gradient(student, teacher, 1.0), atol=1e-9)
    assert gradient_of(losses.dist(s, torch.tensor(teacher)), s).abs().max() < 1


def test_dist_gradient_stays_bounded_near_a_constant_row() -> None:
    """Rows that differ from constant by rounding alone do not send large gradients."""
    student = (torch.ones(8, 10) + 1e-7 * torch.randn(8, 10)).requires_grad_()
    assert gradient_of(losses.dist(student, torch.randn(8, 10)), student).abs().max() < 1


@pytest.mark.parametrize("case", [case for case in LOGITS if "dist" in case.name], ids=str)
def test_one_sample_has_no_relation_between_samples(case: Case) -> None:
    """With one sample the intra-class term is the constant 1 and passes no gradient."""
    student, teacher = (torch.tensor(x, requires_grad=True) for x in pair(1, 6))
    _, intra = losses.dist_relations(student, teacher, temperature=1.0)
    assert intra.item() == 1
    assert not gradient_of(intra, student).any()
    assert case.loss(student, teacher).isfinite()


@pytest.mark.parametrize("case", LOGITS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_huge_logits_have_a_finite_loss_and_gradient(case: Case, dtype: torch.dtype) -> None:
    """Logits of 1e4, where predictions are exactly 0 and 1, give the equation's value and a finite gradient."""
    random = np.random.default_rng(0)
    student, teacher = (random.choice([-1e4, 0.0, 1e4], size=(6, 5)) for _ in range(2))
    if "sigmoid" in case.name:
        student, teacher = student / 20, teacher / 20  # NumPy's own exponential ends at 700
    s = torch.tensor(student).to(dtype).requires_grad_()
    t = torch.tensor(teacher).to(dtype)
    value = case.loss(s, t)
    expected = case.value(s.detach().double().numpy(), t.double().numpy())
    assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert gradient_of(value, s).isfinite().all()


@pytest.mark.parametrize("gap", [20.0, 58.0, 100.0, 150.0])
def test_a_class_that_nobody_believes_in_breaks_nothing(gap: float) -> None:
    """A column of probabilities down to where float32 ends gives the reference's value and a finite gradient."""
    student, teacher = pair(8, 6)
    student[:, 3] -= gap
    s = torch.tensor(student, dtype=torch.float32, requires_grad=True)
    value = losses.dist(s, torch.tensor(teacher, dtype=torch.float32))
    assert value.item() == pytest.approx(reference.dist(student, teacher, 1.0), rel=1e-5)
    np.testing.assert_allclose(gradient_of(value, s).numpy(), reference.dist_gradient(student, teacher, 1.0), atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dead", ["student", "teacher", "both", "one sample"])
@pytest.mark.parametrize("case", FEATURES, ids=str)
def test_a_dead_map_is_finite_and_its_gradient_bounded(case: Case, dead: str, dtype: torch.dtype) -> None:
    """An all-zero map gives the equation's value and a bounded gradient."""
    student, teacher = pair(2, 4, 3, 3)
    if dead == "one sample":
        student[0] = 0
    if dead in ("student", "both"):
        student[:] = 0
    if dead in ("teacher", "both"):
        teacher[:] = 0
    s = torch.tensor(student).to(dtype).requires_grad_()
    t = torch.tensor(teacher).to(dtype)
    value = case.loss(s, t)
    expected = case.value(s.detach().double().numpy(), t.double().numpy())
    assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-9)
    bound = 1 / losses.NORM_FLOOR / student.size
    assert gradient_of(value, s).double().abs().max() <= 1.01 * max(bound, 1)  # half precision rounds up


@pytest.mark.parametrize("scale", [1e-2, 1e-4, 1e-6, 1e-8])
def test_a_faint_map_has_the_gradient_of_the_equation(scale: float) -> None:
    """Attention of a fading map is finite all the way down, and its gradient never exceeds the floor's share."""
    student, teacher = pair(2, 3, 2, 2)
    student *= scale
    s = torch.tensor(student, requires_grad=True)
    value = losses.attention_transfer(s, torch.tensor(teacher))
    assert value.item() == pytest.approx(reference.attention_transfer(student, teacher), rel=1e-9)
    expected = reference.attention_transfer_gradient(student, teacher)
    np.testing.assert_allclose(gradient_of(value, s).numpy(), expected, rtol=1e-7)
    assert np.abs(expected).max() < 4 / losses.NORM_FLOOR


def test_attention_of_large_half_precision_maps_does_not_overflow() -> None:
    """Squares of 300, which float16 cannot hold, are taken in float32."""
    found = losses.attention_map(torch.full((1, 2, 2, 2), 300.0, dtype=torch.float16))
    torch.testing.assert_close(found, torch.full((1, 4), 0.5))


@pytest.mark.parametrize("case", [*LOGITS, *FEATURES], ids=str)
def test_a_number_that_is_not_finite_is_not_hidden(case: Case) -> None:
    """NaN in the student or the teacher comes out as NaN, so that training stops."""
    for broken in (0, 1):
        tensors = [torch.tensor(x) for x in pair(*((6, 5) if case in LOGITS else (2, 3, 2, 2)))]
        tensors[broken].view(-1)[3] = torch.nan
        assert case.loss(*tensors).isnan()


def test_floors_under_the_norms_part_from_the_product_only_where_norms_vanish() -> None:
    """Ordinary predictions get the same from both; of confident ones with many classes the floors keep the correlation."""
    ordinary = [torch.tensor(x) for x in pair(8, 10)]
    norms, product = (losses.dist(*ordinary, denominator=kind) for kind in ("norms", "product"))
    torch.testing.assert_close(norms, product, rtol=1e-6, atol=1e-9)
    confident = torch.tensor(pair(6, 1000)[0] * 3)
    assert losses.dist(confident, confident, denominator="product").item() > 0.5  # the authors' loss of a perfect student
    assert losses.dist(confident, confident, denominator="norms").item() < 0.1
    u, v = (torch.softmax(x, dim=1).numpy() for x in ordinary)
    rows = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(u, v, strict=True)])
    columns = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(u.T, v.T, strict=True)])
    assert norms.item() == pytest.approx(rows + columns, rel=1e-9)


def test_an_unknown_denominator_is_refused() -> None:
    """A misspelt option is an error and not the default."""
    with pytest.raises(ValueError, match="'norm' is not known; use 'product' or 'norms'"):
        losses.dist(*(torch.tensor(x) for x in pair(4, 3)), denominator="norm")  # type: ignore[arg-type]


SOFTENED = {
    "kd": lambda t: losses.kd(torch.ones(2, 3), torch.ones(2, 3), temperature=t),
    "kd_cohort": lambda t: losses.kd_cohort(torch.ones(2, 3), torch.ones(1, 2, 3), temperature=t),
    "dist": lambda t: losses.dist(torch.ones(2, 3), torch.ones(2, 3), temperature=t),
    "dist sigmoid": lambda t: losses.dist(torch.ones(2, 3), torch.ones(2, 3), temperature=t, activation="sigmoid"),
    "dist_relations": lambda t: losses.dist_relations(torch.ones(2, 3), torch.ones(2, 3), temperature=t),
    "dist_cohort": lambda t: losses.dist_cohort(torch.ones(2, 3), torch.ones(1, 2, 3), temperature=t),
    "softmax_weights": lambda t: losses.softmax_weights([1.0, 2.0], temperature=t),
}
"""Every loss that has a temperature."""


@pytest.mark.parametrize("name", SOFTENED)
@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_softens_nothing_is_refused(name: str, temperature: float) -> None:
    """Zero, negative and broken temperatures are an error, and not a NaN or a mirrored prediction."""
    with pytest.raises(ValueError, match=r"temperature is .*; give a finite number above 0"):
        SOFTENED[name](temperature)


@pytest.mark.parametrize("loss", [losses.kd, losses.dist, losses.dist_relations])
@pytest.mark.parametrize("shape", [(), (5,)])
def test_logits_without_a_class_axis_are_refused(loss: Callable[..., object], shape: tuple[int, ...]) -> None:
    """A single row is told to be one, by the promised exception."""
    with pytest.raises(ValueError, match=r"logits have shape .*; give \[N, K\]"):
        loss(torch.ones(shape), torch.ones(shape), temperature=1.0)


@pytest.mark.parametrize("loss", [losses.kd_cohort, losses.dist_cohort])
def test_a_cohort_without_a_class_axis_is_refused(loss: Callable[..., object]) -> None:
    """So is the row of a cohort, and a teacher that is one number."""
    with pytest.raises(ValueError, match=r"logits have shape \[5\]"):
        loss(torch.ones(5), torch.ones(2, 5), temperature=1.0)
    with pytest.raises(ValueError, match="the cohort is empty"):
        loss(torch.ones(5), torch.ones(()), temperature=1.0)


@pytest.mark.parametrize("case", [*LOGITS, *FEATURES], ids=str)
def test_an_empty_batch_is_refused(case: Case) -> None:
    """The mean over nothing is an error and not NaN."""
    nothing = torch.ones((0, 5) if case in LOGITS else (0, 3, 2, 2))
    with pytest.raises(ValueError, match="the mean over none is not defined; skip the batch"):
        case.loss(nothing, nothing)
