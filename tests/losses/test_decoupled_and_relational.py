"""The decoupled divergence, relations among samples, and standardised logits against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress import losses
from tests.losses import reference
from tests.losses.reference import Array, pair


def decoupled(student: Array, teacher: Array, labels: Array, temperature: float) -> tuple[float, float]:
    """Return the divergence of (p of the label, 1 - p), and that of the other classes among themselves, from probabilities."""
    p, q = reference.softmax(teacher / temperature), reference.softmax(student / temperature)
    of_target, of_rest = 0.0, 0.0
    for row, label in enumerate(labels.astype(int)):
        hit_p, hit_q = p[row, label], q[row, label]
        of_target += hit_p * np.log(hit_p / hit_q) + (1 - hit_p) * np.log((1 - hit_p) / (1 - hit_q))
        others = [column for column in range(p.shape[1]) if column != label]
        among_p, among_q = p[row, others] / p[row, others].sum(), q[row, others] / q[row, others].sum()
        of_rest += (among_p * np.log(among_p / among_q)).sum()
    return of_target * temperature**2 / len(p), of_rest * temperature**2 / len(p)


def huber(left: Array, right: Array) -> float:
    apart = np.abs(left - right)
    return float(np.where(apart < 1, apart**2 / 2, apart - 0.5).mean())


def distances(embeddings: Array) -> Array:
    found = np.array([[np.linalg.norm(a - b) for b in embeddings] for a in embeddings])
    return found / found[~np.eye(len(found), dtype=bool)].mean()


def angles(embeddings: Array) -> Array:
    """Return the cosine at j between i and k, by [j, i, k]; 0 where two of them are one sample."""
    count = len(embeddings)
    cosines = np.zeros((count, count, count))
    for at in range(count):
        for left in range(count):
            for right in range(count):
                if at not in (left, right):
                    u, v = embeddings[left] - embeddings[at], embeddings[right] - embeddings[at]
                    cosines[at, left, right] = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
    return cosines


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("classes", [3, 10, 200])
def test_the_divergence_is_decoupled_as_in_the_equations(temperature: float, classes: int) -> None:
    """Both parts equal an implementation by probabilities, row by row."""
    student, teacher = pair(6, classes)
    labels = np.arange(6) % classes
    found = losses.dkd(torch.tensor(student), torch.tensor(teacher), torch.tensor(labels), temperature=temperature)
    assert [value.item() for value in found] == pytest.approx(decoupled(student, teacher, labels, temperature), rel=1e-8)


def test_the_parts_make_up_the_plain_divergence() -> None:
    """The divergence is the first part plus the second, weighed in each sample by what the teacher gives the other classes."""
    student, teacher = (torch.tensor(x) for x in pair(1, 5))
    labels = torch.tensor([2])
    of_target, of_rest = losses.dkd(student, teacher, labels, temperature=2.0)
    share = 1 - torch.softmax(teacher / 2, dim=1)[0, 2]
    torch.testing.assert_close(of_target + share * of_rest, losses.kd(student, teacher, temperature=2.0))


def test_a_sure_teacher_leaves_no_number_that_is_not_finite() -> None:
    """Logits of a teacher and a student that are certain keep value and gradient finite in float32."""
    student = torch.tensor([[80.0, -80.0, 0.0]]).requires_grad_()
    parts = losses.dkd(student, torch.tensor([[-90.0, 90.0, 1.0]]), torch.tensor([1]), temperature=1.0)
    (gradient,) = torch.autograd.grad(sum(parts), student)  # type: ignore[arg-type]
    assert all(torch.isfinite(value) for value in parts)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("shape", [(3, 4), (7, 2), (5, 16)])
def test_relations_are_those_of_the_equations(shape: tuple[int, int]) -> None:
    """Distances and angles equal an implementation by loops."""
    student, teacher = pair(*shape)
    found = losses.rkd(torch.tensor(student), torch.tensor(teacher))
    expected = huber(distances(student), distances(teacher)), huber(angles(student), angles(teacher))
    assert [value.item() for value in found] == pytest.approx(expected, rel=1e-6)


def test_relations_see_neither_size_nor_place_nor_direction() -> None:
    """A teacher whose embeddings are moved, turned and enlarged teaches the same."""
    student, teacher = (torch.tensor(x) for x in pair(6, 4))
    turn, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))
    moved = 7 * teacher @ turn + 3
    torch.testing.assert_close(losses.rkd(student, moved), losses.rkd(student, teacher))


@pytest.mark.parametrize("loss", ["decoupled", "relational", "standardised"])
def test_gradients_are_those_of_differences(loss: str) -> None:
    """Autograd equals differences, also where two samples are the same."""
    student, teacher = (torch.tensor(x) for x in pair(5, 6))
    labels = torch.arange(5)
    functions = {
        "decoupled": lambda s: sum(losses.dkd(s, teacher, labels, temperature=3.0)),
        "relational": lambda s: sum(losses.rkd(s, teacher)),
        "standardised": lambda s: losses.kd(losses.standardise(s), losses.standardise(teacher), temperature=2.0),
    }
    assert torch.autograd.gradcheck(functions[loss], student.clone().requires_grad_())
    twice = student.clone()
    twice[1] = twice[0]
    (gradient,) = torch.autograd.grad(functions[loss](twice.requires_grad_()), twice)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("axis", [1, 2])
def test_standardised_logits_have_mean_0_and_deviation_1(axis: int) -> None:
    """Over the classes of each sample; one that knows nothing becomes 0, not infinite."""
    logits = 5 * torch.randn(4, 7, 9).movedim(2, axis) + 3
    found = losses.standardise(logits, axis=axis)
    torch.testing.assert_close(found.mean(dim=axis), torch.zeros_like(found.mean(dim=axis)), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.std(dim=axis), torch.ones_like(found.std(dim=axis)))
    assert not losses.standardise(torch.full((2, 5), 3.0)).any()
    with pytest.raises(ValueError, match="one class, and its deviation is not defined"):
        losses.standardise(torch.ones(4, 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.dkd(torch.ones(4, 2), torch.ones(4, 2), torch.zeros(4).long(), temperature=1.0), "at least 3"),
        (lambda: losses.dkd(torch.ones(4, 3), torch.ones(4, 5), torch.zeros(4).long(), temperature=1.0), "differ"),
        (lambda: losses.dkd(torch.ones(4, 3), torch.ones(4, 3), torch.zeros(4).long(), temperature=0.0), "above 0"),
        (lambda: losses.rkd(torch.ones(2, 3), torch.ones(2, 3)), "N at least 3"),
        (lambda: losses.rkd(torch.ones(4, 3), torch.ones(5, 3)), "embeddings have shapes"),
    ],
)
def test_what_has_no_value_is_refused(call: object, message: str) -> None:
    """Two classes, two samples, other shapes and a temperature of 0 end in a message."""
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
