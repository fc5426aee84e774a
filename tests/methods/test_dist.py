"""The method around the correlation losses: its weights, its options, several teachers, and batches that are too small."""

from __future__ import annotations

import logging
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

from compress.methods import Setting
from compress.methods.dist import Dist
from compress.models import Network
from tests.losses import reference
from tests.tiny import batch, setting


def arrays(method: Dist, size: int = 16) -> tuple[dict[str, float], reference.Array, list[reference.Array], list[int]]:
    """Return the terms of one batch, the student's logits, the teachers', and the labels."""
    data = batch(size)
    step = method.eval().step(data)
    terms = {name: value.item() for name, value in method(step).items()}
    teachers = [step.teacher(i).logits for i in range(len(method.teachers))]
    student, *others = (logits.detach().double().numpy() for logits in (step.student.logits, *teachers))
    return terms, student, others, data.labels.tolist()


@pytest.mark.parametrize("teachers", [1, 3])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("tau2", [True, False])
def test_terms_are_those_of_the_equation_weighted_once(
    tau2: bool, activation: Literal["softmax", "sigmoid"], teachers: int
) -> None:
    """Each weight multiplies its own term once, temperature² only where asked for, and teachers count by their mean."""
    method = Dist(
        setting(teachers), temperature=3.0, ce_weight=0.5, inter_weight=2.0, intra_weight=7.0, tau2=tau2, activation=activation
    )
    terms, student, others, labels = arrays(method)
    relations = [reference.dist_relations(student, teacher, 3.0, activation) for teacher in others]
    inter, intra = np.mean(relations, axis=0) * (9 if tau2 else 1)
    entropy = -reference.log_softmax(student)[np.arange(len(labels)), labels].mean()
    assert terms == pytest.approx({"ce": 0.5 * entropy, "inter": 2 * inter, "intra": 7 * intra}, rel=1e-4)  # float32


@pytest.mark.parametrize(("preset", "factor"), [("ours", 1), ("paper", 16)])
def test_temperature_cross_entropy_and_weights_are_the_released_codes(preset: Literal["ours", "paper"], factor: int) -> None:
    """Temperature 4, cross-entropy 1, and 2 for each relation; the square of the temperature is in the preset alone."""
    terms, student, (teacher,), labels = arrays(Dist(setting(), preset=preset))
    entropy = -reference.log_softmax(student)[np.arange(len(labels)), labels].mean()
    relations = reference.dist(student, teacher, 4.0) / 16  # the released code's, which has the square
    assert sum(terms.values()) == pytest.approx(entropy + 2 * factor * relations, rel=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 8.0])
def test_the_gradient_at_the_start_does_not_depend_on_the_temperature(temperature: float) -> None:
    """For logits as small as those of an untrained network a correlation is the same however they are softened."""
    gradients = []
    for each in (temperature, 4.0):
        torch.manual_seed(0)
        method = Dist(setting(), temperature=each).eval()
        step = method.step(batch())
        terms = method(step)
        weight = method.student.classifier.weight
        gradients.append(torch.autograd.grad(terms["inter"] + terms["intra"], weight)[0].norm().item())
    assert gradients[0] == pytest.approx(gradients[1], rel=0.3)  # with the factor it would be 4 to 16 times as large


@pytest.mark.parametrize(("classes", "temperature"), [(10, 4.0), (199, 4.0), (200, 1.0), (1000, 1.0)])
def test_many_classes_are_not_softened(classes: int, temperature: float) -> None:
    """As the authors, 4 on a hundred classes and 1 on a thousand, unless a temperature is given."""
    networks = [nn.Sequential(nn.Flatten(), nn.Linear(64, classes)) for _ in range(2)]
    student, teacher = (Network(network, taps=()) for network in networks)
    where = Setting(student, (teacher,), torch.zeros(1, 1, 8, 8), classes)
    assert Dist(where).temperature == temperature
    assert Dist(where, temperature=2.5).temperature == 2.5


def test_a_student_that_is_constant_at_the_start_has_no_exploding_gradient() -> None:
    """A zero-initialised classifier starts from the labels alone; without the guard the released code's gradient is back."""
    sizes = {}
    for guard in (True, False):
        where = setting()
        where.student.classifier.weight.data.zero_()
        where.student.classifier.bias.data.zero_()
        method = Dist(where, preset="paper", guard=guard).eval()
        terms = method(method.step(batch()))
        bias = where.student.classifier.bias
        (gradient,) = torch.autograd.grad(terms["inter"] + terms["intra"], bias)
        sizes[guard] = gradient.abs().max().item()
        assert terms["inter"].item() + terms["intra"].item() == pytest.approx(16 * 2 * 2)
    assert sizes[True] == 0
    assert sizes[False] > 1e3


@pytest.mark.parametrize(("size", "options", "lines"), [(8, {}, 0), (7, {}, 1), (1, {}, 1), (1, {"intra_weight": 0.0}, 0)])
def test_a_batch_too_small_for_relations_between_samples_is_said_once(
    size: int, options: dict[str, Any], lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Fewer than eight samples surprise, so they are said, once, unless no relation between samples is asked for."""
    method = Dist(setting(), **options).eval()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            method(method.step(batch(size)))
    assert len(caplog.messages) == lines
    assert all(f"a batch has {size} samples" in message and "raise train.batch_size" in message for message in caplog.messages)


def test_pixels_of_dense_logits_are_samples(caplog: pytest.LogCaptureFixture) -> None:
    """A network that labels every pixel is taught with pixels as samples, so that two images are no small batch."""
    student, teacher = (Network(nn.Conv2d(1, 4, 3, padding=1), taps=()) for _ in range(2))
    method = Dist(Setting(student, (teacher,), torch.zeros(1, 1, 8, 8), 4), temperature=1.0).eval()
    data = batch(2)._replace(labels=torch.randint(4, (2, 8, 8)))
    step = method.step(data)
    terms = method(step)
    dense = [logits.detach().double().numpy() for logits in (step.student.logits, step.teacher().logits)]
    inter, intra = reference.dist_relations(*map(reference.pixels, dense), 1.0)
    assert (terms["inter"].item(), terms["intra"].item()) == pytest.approx((2 * inter, 2 * intra), rel=1e-4)  # float32
    assert not caplog.messages
