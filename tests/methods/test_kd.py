"""The method around the divergence: its weights and several teachers."""

from __future__ import annotations

import numpy as np
import pytest

from compress.methods.kd import Kd
from tests.losses import reference
from tests.tiny import batch, setting


@pytest.mark.parametrize("teachers", [1, 3])
@pytest.mark.parametrize(("ce_weight", "kd_weight", "temperature"), [(1.0, 1.0, 4.0), (0.1, 0.9, 4.0), (0.9, 0.1, 5.0)])
def test_terms_are_those_of_the_equation(ce_weight: float, kd_weight: float, temperature: float, teachers: int) -> None:
    """The weights of the code bases that the docstring names give their losses; teachers count by their mean."""
    method = Kd(setting(teachers), ce_weight=ce_weight, kd_weight=kd_weight, temperature=temperature).eval()
    data = batch()
    step = method.step(data)
    terms = {name: value.item() for name, value in method(step).items()}
    student = step.student.logits.detach().double().numpy()
    each = [reference.kd(student, step.teacher(i).logits.detach().double().numpy(), temperature) for i in range(teachers)]
    entropy = -reference.log_softmax(student)[np.arange(len(data.labels)), data.labels.numpy()].mean()
    expected = {"ce": ce_weight * entropy, "kd": kd_weight * np.mean(each)}
    assert terms == pytest.approx(expected, rel=1e-4, abs=1e-6)  # float32; a random teacher is almost uniform


def test_defaults_are_one_one_and_four() -> None:
    """Cross-entropy 1, divergence 1, temperature 4."""
    method = Kd(setting())
    assert (method.ce_weight, method.kd_weight, method.temperature) == (1.0, 1.0, 4.0)


@pytest.mark.parametrize(
    ("preset", "numbers"),
    [
        ("simkd", (1, 1, 4)),
        ("repdistiller", (0.1, 0.9, 4)),
        ("dih", (0.9, 0.1, 5)),
        ("dist_imagenet", (0.9, 1, 4)),
        ("standardised", (0.1, 9, 2)),
    ],
)
def test_a_preset_gives_the_numbers_of_a_code_base(preset: str, numbers: tuple[float, ...]) -> None:
    """Weights and temperature are the preset's, but for what is given beside it, 0 included."""
    method = Kd(setting(), preset=preset)
    assert (method.ce_weight, method.kd_weight, method.temperature) == numbers
    other = Kd(setting(), preset=preset, temperature=2.0, ce_weight=0.0)
    assert (other.ce_weight, other.kd_weight, other.temperature) == (0, numbers[1], 2)


def test_standardised_logits_ask_for_no_size() -> None:
    """The divergence is that of logits with mean 0 and deviation 1, so their size does not count."""
    method = Kd(setting(2), standardise=True, temperature=2.0).eval()
    step = method.step(batch())
    terms = method(step)
    student, *teachers = (
        logits.detach().double().numpy() for logits in (step.student.logits, *(step.teacher(i).logits for i in (0, 1)))
    )
    standard = [
        (each - each.mean(axis=1, keepdims=True)) / each.std(axis=1, ddof=1, keepdims=True) for each in (student, *teachers)
    ]
    expected = np.mean([reference.kd(standard[0], each, 2.0) for each in standard[1:]])
    assert terms["kd"].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert not Kd(setting()).standardise
    assert Kd(setting(), preset="standardised").standardise
