"""What is looked at before and after training, so that nothing is shipped that knows nothing."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from compress.training import preflight

LABELS = np.repeat(np.arange(4), [40, 20, 20, 20])


def says(predicted: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return logits whose largest is that of a class."""
    return np.eye(4, dtype=np.float32)[predicted]


@pytest.mark.parametrize(
    "predicted",
    [
        pytest.param(np.zeros(100, np.int64), id="the commonest class"),
        pytest.param(np.full(100, 3), id="another class"),
        pytest.param(np.random.default_rng(0).permutation(LABELS), id="anything"),
    ],
)
def test_a_student_that_guesses_is_told(predicted: NDArray[np.int64]) -> None:
    """No better than always answering the commonest class: the sentence has both numbers and what to do."""
    found = preflight.describe_guessing("student", says(predicted), LABELS)
    assert "of 100" not in found
    assert "on 100 validation images, not clearly more than the 40.0 % of always" in found
    assert "train it longer" in found


def test_a_student_that_knows_something_is_not() -> None:
    """Clearly better than the commonest class is enough."""
    predicted = np.where(np.arange(100) % 5 < 3, LABELS, (LABELS + 1) % 4)
    assert preflight.describe_guessing("student", says(predicted), LABELS) == ""
