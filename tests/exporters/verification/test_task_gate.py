"""What a user can rely on where a file gives maps: the gate lets good files pass, and no sabotage."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from compress.errors import CompressError
from compress.recipe import GateSection
from compress.records import Precision
from compress.tasks import load_task
from exporters import gate
from exporters.verification.rule import Recorded, record_any_differences

Maps = NDArray[np.float32]
TASK = load_task("segmentation")
CLASSES, SIZE, IMAGES = 5, 16, 60


@cache
def draw() -> tuple[Maps, NDArray[np.uint8]]:
    """Return logits of a network that finds most objects on an unsymmetric background, and masks; 86 % is background."""
    random = np.random.default_rng(3)
    labels = np.zeros((IMAGES, SIZE, SIZE), np.uint8)
    for mask in labels:
        top, left = random.integers(0, SIZE - 8), random.integers(0, SIZE - 7)
        mask[top : top + 8, left : left + 5] = random.integers(1, CLASSES)
    shown = np.eye(CLASSES, dtype=np.float32)[labels].transpose(0, 3, 1, 2)
    blurred = (shown + np.roll(shown, 1, 2) + np.roll(shown, 1, 3)) / 3
    noise = random.normal(size=shown.shape).astype(np.float32)
    return np.ascontiguousarray(6 * blurred + 0.7 * noise - 2).astype(np.float32), labels


def judge(candidate: Maps, precision: Precision = "fp32", *, recorded: Recorded | None = None) -> tuple[str, str]:
    network, labels = draw()
    verdict = gate(network, candidate, labels, settings=GateSection(), precision=precision, task=TASK, recorded=recorded)
    return verdict.status, verdict.reason


def blur(share: float, seed: int = 0) -> Callable[[Maps], Maps]:
    """Return noise of this share of the logits' RMS, as rounding makes it."""

    def change(network: Maps) -> Maps:
        noise = np.random.default_rng(seed).normal(size=network.shape) * share * np.sqrt(np.square(network).mean())
        return (network + noise).astype(np.float32)

    return change


@pytest.mark.parametrize(("precision", "share"), [("fp32", 5e-6), ("fp16", 1e-3), ("bf16", 5e-3), ("int8", 2e-2)])
def test_rounding_passes(precision: Precision, share: float) -> None:
    """A file that differs as files of its precision do passes, with drop, interval, agreement and RMS in the verdict."""
    network, labels = draw()
    found = gate(network, blur(share)(network), labels, settings=GateSection(), precision=precision, task=TASK)
    assert (found.status, found.reason) == ("passed", "")
    assert found.relative_rms == pytest.approx(share, rel=0.05)
    assert found.metric == "miou"
    assert found.drop_ci95 is not None
    assert found.drop_points is not None
    assert found.drop_ci95[0] <= found.drop_points <= found.drop_ci95[1]


def test_one_far_logit_among_many_is_no_fault() -> None:
    """Ranges that clip tails move single logits by more than the RMS of all, in int8 files that lose nothing."""
    network, _ = draw()
    candidate = blur(2e-2)(network)
    candidate[0, 0, 0, 0] += 1.3 * np.sqrt(np.square(network).mean())
    assert judge(candidate, "int8") == ("passed", "")
    assert judge(candidate, "bf16")[0] == "failed"


def background_everywhere(network: Maps) -> Maps:
    changed = np.full_like(network, -2)
    changed[:, 0] = 4
    return changed


def other_corners(network: Maps) -> Maps:
    """Return what a resize with the other align_corners does: values move by up to half a cell."""
    return np.ascontiguousarray((0.6 * network + 0.4 * np.roll(network, 1, 3)).astype(np.float32))


SABOTAGE: dict[str, Callable[[Maps], Maps]] = {
    "transposed": lambda network: np.ascontiguousarray(network.swapaxes(2, 3)),
    "mirrored": lambda network: np.ascontiguousarray(network[..., ::-1]),
    "classes shifted": lambda network: np.roll(network, 1, axis=1),
    "background everywhere": background_everywhere,
    "other corners": other_corners,
    "half the size": lambda network: np.ascontiguousarray(network[:, :, ::2, ::2]),
    "shifted by two pixels": lambda network: np.roll(network, 2, axis=3),
    "another image's answer": lambda network: np.roll(network, 1, axis=0),
    "noise": blur(0.2),
    "not finite": lambda network: np.where(network == network.max(), np.float32(np.inf), network),
}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
@pytest.mark.parametrize("name", SABOTAGE)
def test_no_sabotage_passes(name: str, precision: Precision) -> None:
    """Whatever its precision, a file with wrong maps fails, though most pixels of most of them are right."""
    status, reason = judge(SABOTAGE[name](draw()[0]), precision)
    assert (status, bool(reason)) == ("failed", True)


@pytest.mark.parametrize(
    ("name", "cause"), [("transposed", "transposed"), ("mirrored", "mirrored"), ("classes shifted", "shifted by one")]
)
def test_a_changed_layout_is_named(name: str, cause: str) -> None:
    """Who exported the maps the wrong way round reads which way that is."""
    assert cause in judge(SABOTAGE[name](draw()[0]), "int8")[1]


def test_what_was_recorded_bounds_a_file() -> None:
    """A file may differ by what it did when it was proved, and not by five times as much, however wide its precision is."""
    network, _ = draw()
    proved = blur(4e-3)(network)
    recorded = record_any_differences(network, proved)
    assert judge(proved, "int8", recorded=recorded)[0] == "passed"
    assert "when it was proved" in judge(blur(2e-2)(network), "int8", recorded=recorded)[1]


def test_a_network_that_is_not_finite_proves_nothing() -> None:
    """There is nothing to compare with."""
    network, labels = draw()
    with pytest.raises(CompressError, match="not finite"):
        gate(np.full_like(network, np.nan), network, labels, settings=GateSection(), precision="fp32", task=TASK)
