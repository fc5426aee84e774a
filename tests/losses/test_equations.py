"""Values and gradients of all losses against second implementations in NumPy float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress import losses
from tests.losses import reference
from tests.losses.cases import FEATURES, LOGITS, Case
from tests.losses.reference import Array, numeric_gradient, pair

SHAPES = [(5, 4), (6, 2), (1, 7), (1, 2), (3, 40)]
MAPS = [(2, 3, 2, 2), (1, 4, 3, 2), (3, 1, 2, 2), (2, 3, 1, 1)]
EVERY = [(case, shape) for cases, shapes in ((LOGITS, SHAPES), (FEATURES, MAPS)) for case in cases for shape in shapes]


def check(
    case: Case, student: Array, teacher: Array, dtype: torch.dtype, *, rel: float, grad_rel: float, grad_abs: float = 1e-12
) -> None:
    """Compare value and gradient in `dtype` with the reference in float64; gradients to a share of the largest."""
    s = torch.tensor(student).to(dtype).requires_grad_()
    t = torch.tensor(teacher).to(dtype).requires_grad_()
    value = case.loss(s, t)
    value.backward()
    rounded = s.detach().double().numpy(), t.detach().double().numpy()
    assert value.item() == pytest.approx(case.value(*rounded), rel=rel, abs=rel)
    expected = case.gradient(*rounded)
    assert s.grad is not None
    assert s.grad.dtype == dtype
    np.testing.assert_allclose(
        s.grad.double().numpy(), expected, rtol=grad_rel, atol=grad_rel * np.abs(expected).max() + grad_abs
    )
    assert t.grad is None


@pytest.mark.parametrize(("case", "shape"), EVERY, ids=str)
def test_value_and_gradient_are_those_of_the_equation(case: Case, shape: tuple[int, ...]) -> None:
    """Value and gradient equal an independent implementation, and the teacher receives no gradient."""
    check(case, *pair(*shape), torch.float64, rel=1e-9, grad_rel=1e-7)  # eps beside a vanishing norm costs digits


@pytest.mark.parametrize(("case", "shape"), EVERY, ids=str)
def test_gradients_of_the_reference_are_its_differences(case: Case, shape: tuple[int, ...]) -> None:
    """The gradients that were derived by hand are those of the values that they are compared with."""
    student, teacher = pair(*shape)
    expected = numeric_gradient(lambda x: case.value(x, teacher), student)
    np.testing.assert_allclose(case.gradient(student, teacher), expected, rtol=1e-5, atol=1e-8)  # central differences


@pytest.mark.parametrize("case", LOGITS, ids=str)
@pytest.mark.parametrize("classes", [2, 100, 1000])
def test_float32_follows_at_any_number_of_classes(case: Case, classes: int) -> None:
    """Confident predictions over many classes, whose columns almost vanish, keep value and gradient in float32."""
    check(
        case, *pair(32, classes, scale=4.0), torch.float32, rel=1e-4, grad_rel=5e-3, grad_abs=1e-6
    )  # near-constant rows cancel


@pytest.mark.parametrize("case", [*LOGITS, *FEATURES], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(case: Case, dtype: torch.dtype) -> None:
    """A loss of half-precision tensors is that of the same numbers in float64; only the gradient is rounded at the end."""
    shape = (16, 10) if case in LOGITS else (4, 3, 5, 5)
    check(case, *pair(*shape), dtype, rel=1e-5, grad_rel=1e-2)  # bfloat16 has 8 bits
    tensor = torch.ones(shape, dtype=dtype)
    assert case.loss(tensor, tensor).dtype == torch.float32


@pytest.mark.parametrize("case", [*LOGITS, *FEATURES], ids=str)
def test_mixed_precision_around_a_loss_does_not_enter_it(case: Case) -> None:
    """Within autocast a loss gives what it gives outside."""
    student, teacher = (torch.tensor(x, dtype=torch.float32) for x in pair(*((16, 10) if case in LOGITS else (4, 3, 5, 5))))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = case.loss(student, teacher)
    assert torch.equal(inside, case.loss(student, teacher))


def test_relations_are_the_two_halves_of_dist() -> None:
    """The relations come without temperature² and weights, so that a method can weigh each once."""
    student, teacher = pair(6, 5)
    s, t = torch.tensor(student), torch.tensor(teacher)
    inter, intra = losses.dist_relations(s, t, temperature=4.0)
    assert (inter.item(), intra.item()) == pytest.approx(reference.dist_relations(student, teacher, 4.0), rel=1e-9)
    whole = losses.dist(s, t, temperature=4.0, beta=2.0, gamma=3.0)
    torch.testing.assert_close(whole, 16 * (2 * inter + 3 * intra))
    plain = losses.dist(s, t, temperature=4.0, beta=2.0, gamma=3.0, tau2=False)
    torch.testing.assert_close(plain, 2 * inter + 3 * intra)


def test_attention_map_is_the_mean_of_squares_over_channels_with_norm_one() -> None:
    """Every map has a row of pixels with norm 1, in reading order."""
    features, _ = pair(2, 3, 4, 5)
    found = losses.attention_map(torch.tensor(features))
    assert found.shape == (2, 20)
    np.testing.assert_allclose(found.numpy(), reference.attention_map(features), rtol=1e-12)
    assert losses.attention_map(torch.tensor(features).half()).dtype == torch.float32


def test_attention_transfer_compares_maps_of_different_widths() -> None:
    """Student and teacher need the same pixels only, not the same channels."""
    (student, _), (teacher, _) = pair(2, 3, 4, 4), pair(2, 8, 4, 4)
    s = torch.tensor(student, requires_grad=True)
    value = losses.attention_transfer(s, torch.tensor(teacher))
    value.backward()
    assert value.item() == pytest.approx(reference.attention_transfer(student, teacher), rel=1e-9)
    assert s.grad is not None
    np.testing.assert_allclose(s.grad.numpy(), reference.attention_transfer_gradient(student, teacher), rtol=1e-7, atol=1e-12)


def test_drift_is_the_sum_of_squares_and_moves_only_the_parameters() -> None:
    """Drift sums squares over all tensors, whatever their shape; the anchors receive nothing."""
    arrays = [pair(3, 2), pair(4), pair(2, 1, 3, 3)]
    parameters = [torch.tensor(here, requires_grad=True) for here, _ in arrays]
    anchors = [torch.tensor(there, requires_grad=True) for _, there in arrays]
    value = losses.drift(parameters, anchors)
    value.backward()
    numbers = [here for here, _ in arrays], [there for _, there in arrays]
    assert value.item() == pytest.approx(reference.drift(*numbers), rel=1e-12)
    for parameter, anchor, expected in zip(parameters, anchors, reference.drift_gradient(*numbers), strict=True):
        assert parameter.grad is not None
        np.testing.assert_allclose(parameter.grad.numpy(), expected, rtol=1e-12)
        assert anchor.grad is None


@pytest.mark.parametrize("temperature", [0.5, 1.0, 10.0])
@pytest.mark.parametrize("values", [[1.0], [1.0, 3.0], [0.2, 0.2, 5.0], [1e4, 0.0, 1e4]])
def test_softmax_weights_are_the_softmax_of_the_losses(values: list[float], temperature: float) -> None:
    """Weights are a softmax over the losses, whether these come as scalars or as one tensor."""
    expected = reference.softmax_weights(np.array(values), temperature)
    scalars = losses.softmax_weights([torch.tensor(value) for value in values], temperature=temperature)
    np.testing.assert_allclose(scalars.numpy(), expected, rtol=1e-6)  # float32
    assert torch.equal(scalars, losses.softmax_weights(torch.tensor(values), temperature=temperature))
