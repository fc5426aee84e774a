"""The budget of the drop can be about balanced accuracy, in which a rare class counts as much as a common one."""

from __future__ import annotations

import numpy as np
import pytest

from compress.recipe import GateSection
from compress.statistics.paired_drop import compute_balanced_drop
from exporters.verification.gate import gate
from exporters.verification.rule import Limits, Recorded, compare, find_logit_faults

LABELS = np.repeat([0, 1], [970, 30])
BALANCED = GateSection(metric="balanced_accuracy")


def answer(predicted: np.ndarray) -> np.ndarray:
    """Return logits, sharp enough that classes that change are no ties."""
    return (np.eye(2, dtype=np.float32) * 2)[predicted]


def miss(defects: int, good: int = 0) -> np.ndarray:
    """Return the logits of a file that misses so many defects and raises so many false alarms."""
    predicted = LABELS.copy()
    predicted[970 : 970 + defects] = 0
    predicted[:good] = 1
    return answer(predicted)


def judge(candidate: np.ndarray, settings: GateSection, original: np.ndarray | None = None):
    settings = settings.model_copy(update={"max_abs_diff": 10.0})
    return gate(answer(LABELS), candidate, LABELS, settings=settings, precision="int8", original=original)


def test_a_lost_rare_class_fails_by_balanced_accuracy_alone() -> None:
    """Six of thirty defects are 0.6 points of top-1, and 10 of balanced accuracy."""
    by_top1, by_balanced = judge(miss(6), GateSection()), judge(miss(6), BALANCED)
    assert by_top1.status == "passed"
    assert by_balanced.status == "failed"
    assert "balanced accuracy 90.00 % is 10.00 points below the network it came from" in by_balanced.reason
    assert (by_balanced.metric, by_balanced.drop_points) == ("balanced_accuracy", pytest.approx(10))
    assert by_balanced.drop_ci95 is not None
    assert by_balanced.drop_ci95[0] < 10 < by_balanced.drop_ci95[1]


def test_false_alarms_within_the_budget_pass_by_balanced_accuracy_alone() -> None:
    """Fifteen of 970 good parts are 1.5 points of top-1, and 0.8 of balanced accuracy."""
    assert judge(miss(0, 15), GateSection()).status == "failed"
    assert judge(miss(0, 15), BALANCED).status == "passed"


def test_an_adapted_file_is_compared_with_the_network_before() -> None:
    """After adaptation to int8 the drop is that against the student as it was."""
    found = judge(answer(LABELS), BALANCED, original=answer(LABELS))
    assert found.status == "passed"
    adapted = gate(miss(6), miss(6), LABELS, settings=BALANCED, precision="int8", original=answer(LABELS))
    assert adapted.status == "failed"


def test_balanced_drop_of_even_classes_is_that_of_top1() -> None:
    """Where all classes have as many images the two are one."""
    labels = np.arange(400) % 4
    draws = np.random.default_rng(0)
    one, other = (np.eye(4)[np.where(draws.random(400) < 0.2, draws.integers(4, size=400), labels)] for _ in range(2))
    seen = compare(one, other, labels)
    assert seen.balanced_drop_points == pytest.approx(seen.drop_points)
    drop, low, high = compute_balanced_drop(*seen.by_class[[0, 1, 3]].tolist())
    assert drop == pytest.approx(seen.drop_points)
    assert low < drop < high


def test_images_that_were_lost_before_do_not_count_again() -> None:
    """A bundle's file that lost an image of the rarest class when it was proved passes, and one that loses more does not."""
    recorded = Recorded(max_abs_diff=10.0, median_abs_diff=1.0, lost=1)
    limits = Limits("int8", 1.0, recorded=recorded, metric="balanced_accuracy", max_abs_diff=10.0)
    assert list(find_logit_faults(answer(LABELS), miss(1), LABELS, limits)) == []
    (fault,) = find_logit_faults(answer(LABELS), miss(2), LABELS, limits)
    assert "balanced accuracy" in fault
