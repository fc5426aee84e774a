"""Decoupled distillation: its terms, its weights, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from compress import losses
from compress.errors import CompressError
from compress.methods.dkd import Dkd
from tests.tiny import batch, setting


@pytest.mark.parametrize("standardise", [False, True])
def test_terms_are_the_mean_over_teachers_of_the_weighted_parts(standardise: bool) -> None:
    """Cross-entropy, target and rest have the weights that were asked for."""
    method = Dkd(setting(2), temperature=2.0, ce_weight=0.5, target_weight=3.0, rest_weight=7.0, standardise=standardise).eval()
    step = method.step(batch())
    terms = method(step)
    student, labels = step.student.logits, step.batch.labels
    logits = [step.teacher(0).logits, step.teacher(1).logits]
    if standardise:
        student, logits = losses.standardise(student), [losses.standardise(each) for each in logits]
    parts = [losses.dkd(student, each, labels, temperature=2.0) for each in logits]
    torch.testing.assert_close(terms["target"], 3 * (parts[0][0] + parts[1][0]) / 2)
    torch.testing.assert_close(terms["rest"], 7 * (parts[0][1] + parts[1][1]) / 2)
    torch.testing.assert_close(terms["ce"], 0.5 * torch.nn.functional.cross_entropy(step.student.logits, labels))


def test_defaults_are_the_released_codes() -> None:
    """Weights 1, 1, 8 at temperature 4."""
    method = Dkd(setting())
    assert (method.ce_weight, method.target_weight, method.rest_weight, method.temperature) == (1.0, 1.0, 8.0, 4.0)
    assert not method.standardise


def test_a_silent_teacher_and_two_classes_are_refused() -> None:
    """Weights of 0, and data without a third class, end in advice."""
    with pytest.raises(CompressError, match="the teacher is ignored"):
        Dkd(setting(), target_weight=0.0, rest_weight=0.0)
    with pytest.raises(CompressError, match="with two classes nothing is left"):
        Dkd(setting()._replace(classes=2))
