"""Losses against several teachers at once: what the same losses give one by one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from compress import losses

One = Callable[[Tensor, Tensor], Tensor]

PAIRS: list[tuple[str, One, One]] = [
    ("kd", lambda s, t: losses.kd(s, t, temperature=4.0), lambda s, t: losses.kd_cohort(s, t, temperature=4.0)),
    ("dist", losses.dist, losses.dist_cohort),
    (
        "dist with every setting",
        lambda s, t: losses.dist(s, t, temperature=4.0, beta=2.0, gamma=3.0, tau2=False, activation="sigmoid"),
        lambda s, t: losses.dist_cohort(s, t, temperature=4.0, beta=2.0, gamma=3.0, tau2=False, activation="sigmoid"),
    ),
]  # fmt: skip


def each_and_together(one: One, together: One, student: Tensor, teachers: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return values [M] and the gradient of their weighted sum, one by one and in one pass."""
    weights = torch.arange(1, len(teachers) + 1)
    found = []
    for values in (torch.stack([one(student, teacher) for teacher in teachers]), together(student, teachers)):
        (gradient,) = torch.autograd.grad((values * weights).sum(), student)
        found.append([values.detach(), gradient])
    return found[0], found[1]


@pytest.mark.parametrize("shape", [(1, 7, 5), (4, 7, 5), (3, 1, 6), (3, 6, 2), (4, 32, 1000), (2, 2, 4, 3, 3)], ids=str)
@pytest.mark.parametrize(("name", "one", "together"), PAIRS, ids=[name for name, _, _ in PAIRS])
def test_a_cohort_is_its_members(name: str, one: One, together: One, shape: tuple[int, ...]) -> None:
    """Values and gradients equal those of the members one by one, to the rounding of float64."""
    student = torch.randn(shape[1:], dtype=torch.float64, requires_grad=True)
    teachers = 3 * torch.randn(shape, dtype=torch.float64)
    alone, whole = each_and_together(one, together, student, teachers)
    for left, right in zip(alone, whole, strict=True):
        torch.testing.assert_close(right, left, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("name", "one", "together"), PAIRS, ids=[name for name, _, _ in PAIRS])
def test_a_cohort_in_low_precision_is_computed_in_float32(name: str, one: One, together: One, dtype: torch.dtype) -> None:
    """Half precision is widened here as well, and a constant student has no gradient."""
    student, teachers = torch.randn(16, 10).to(dtype).requires_grad_(), torch.randn(3, 16, 10).to(dtype)
    alone, whole = each_and_together(one, together, student, teachers)
    assert whole[0].dtype == torch.float32
    torch.testing.assert_close(whole[0], alone[0])
    torch.testing.assert_close(whole[1], alone[1], rtol=1e-2, atol=1e-3)  # float16 and bfloat16 add the members up themselves


def test_a_constant_student_or_member_passes_no_gradient() -> None:
    """The guard acts for each member: the others still teach."""
    student = torch.randn(8, 5, requires_grad=True)
    teachers = torch.stack([torch.zeros(8, 5), torch.randn(8, 5)])
    values = losses.dist_cohort(student, teachers)
    assert values[0].item() == 2
    (silent,) = torch.autograd.grad(values[0], student, retain_graph=True)
    (loud,) = torch.autograd.grad(values[1], student)
    assert not silent.any()
    assert loud.any()
    constant = torch.zeros(8, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(losses.dist_cohort(constant, teachers).sum(), constant)
    assert not gradient.any()


@pytest.mark.parametrize("together", [lambda s, t: losses.kd_cohort(s, t, temperature=1.0), losses.dist_cohort])
def test_teachers_receive_no_gradient_and_must_fit(together: One) -> None:
    """Teachers are constants; an empty cohort and one of other shapes are refused."""
    student, teachers = torch.randn(4, 5, requires_grad=True), torch.randn(2, 4, 5, requires_grad=True)
    together(student, teachers).sum().backward()
    assert teachers.grad is None
    with pytest.raises(ValueError, match="the cohort is empty"):
        together(student, torch.randn(0, 4, 5))
    with pytest.raises(ValueError, match=r"\[4, 5\] and \[4, 6\] differ"):
        together(student, torch.randn(2, 4, 6))
    with pytest.raises(ValueError, match=r"\[4, 5\] and \[5\] differ"):
        together(student, torch.randn(4, 5))
