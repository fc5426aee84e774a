"""What every method promises where labels are boxes: it trains a detector, or says why it cannot."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress import losses, plugins
from compress.data import Batch
from compress.errors import CompressError
from compress.methods import Method, Setting
from compress.models import Network
from compress.recipe import TrainSection
from compress.tasks import load_task
from compress.training import loop, preflight
from tests.tiny import Repeated

REFUSED = {
    "atsc": "ships the teacher's linear classifier",
    "cwd": "compares maps of logits",
    "dih": "trains heads on inner layers",
    "dkd": "parts the labelled class",
    "dskd": "trains heads on inner layers",
    "rkd": "compares one embedding an image",
    "simkd": "ships the teacher's linear classifier",
}
SUPPORTED = [name for name in plugins.list_names("methods") if name not in REFUSED]
CLASSES, SIZE = 3, 32


def network(width: int, levels: int = 2) -> Network:
    built: Network = plugins.load("models", "detector.tiny")(CLASSES, 1, width=width, levels=levels)
    return built


def setting(student: Network | None = None) -> Setting:
    torch.manual_seed(0)
    image = torch.randn(1, 1, SIZE, SIZE)
    return Setting(student or network(2), (network(3),), image, CLASSES, lambda _role: network(2), load_task("detection"))


def batch() -> Batch:
    random = np.random.default_rng(0)
    images = np.zeros((6, 1, SIZE, SIZE), np.float32)
    labels = load_task("detection").make_labels(6, CLASSES, (SIZE, SIZE))
    labels[:, 0, :4] += random.integers(-7, 8, (6, 1)).astype(np.float32)
    for image, (left, top, right, bottom, kind) in zip(images, labels[:, 0].astype(int), strict=True):
        image[0, top:bottom, left:right] = kind + 1
    return Batch(torch.from_numpy(images), torch.from_numpy(labels))


def build(name: str, where: Setting | None = None) -> Method:
    method: Method = plugins.load("methods", name)(where or setting())
    return method


@pytest.mark.parametrize("name", SUPPORTED)
def test_a_detector_is_trained(name: str) -> None:
    """The structural check accepts every stage, training lowers its loss, and validation gives an average precision."""
    method, shown = build(name), batch()
    preflight.check_structure(method, shown)
    for stage in method.stages():
        fit = loop.fit(
            stage, Repeated(shown, 4), Repeated(shown, 1), settings=TrainSection(epochs=2, lr=0.003, schedule="constant")
        )
        assert fit.epochs[-1].losses["total"] < fit.epochs[0].losses["total"], stage.stage
        assert {each.metric for each in fit.validation.values()} <= {"map"}


@pytest.mark.parametrize("name", REFUSED)
def test_a_method_that_a_detector_has_not_what_it_needs_for_is_refused(name: str) -> None:
    """The message says what it needs and what to use."""
    with pytest.raises(CompressError, match=f"method.{name}: {REFUSED[name]}.*; .*use"):
        build(name)


@pytest.mark.parametrize("name", ["kd", "dist"])
def test_a_teacher_with_other_cells_is_refused(name: str) -> None:
    """Answers are compared one by one; the message says how many each gives."""
    with pytest.raises(CompressError, match=rf"method\.{name}: teacher 0 answers for 20 cells and the student for 16"):
        build(name, setting(network(2, levels=1)))


def test_kd_is_the_divergence_of_independent_classes() -> None:
    """Equal to its equation in float64, and nothing between equals; for a batch divided by how many cells have a box."""
    student, teacher = np.random.default_rng(0).normal(size=(2, 5, 4)) * 3
    ours, theirs = (1 / (1 + np.exp(-each / 2)) for each in (student, teacher))
    each = theirs * np.log(theirs / ours) + (1 - theirs) * np.log((1 - theirs) / (1 - ours))
    found = losses.binary_kd(torch.tensor(student), torch.tensor(teacher), temperature=2.0)
    assert float(found) == pytest.approx(4 * each.sum(), rel=1e-5)
    assert float(losses.binary_kd(torch.tensor(teacher), torch.tensor(teacher), temperature=2.0)) == pytest.approx(0, abs=1e-5)
    method = build("kd")
    with torch.no_grad():
        step = method.step(batch())
        whole = losses.binary_kd(step.student.logits[..., :-4], step.teacher().logits[..., :-4], temperature=1.0)
        positives = load_task("detection").assign(step.student.logits, step.batch.labels, (SIZE, SIZE)).positive.sum()
        assert method.losses(step)["kd"] == pytest.approx(float(whole / positives), rel=1e-3)  # a sum of small differences


def test_dist_is_summed_over_the_maps() -> None:
    """Each map has its own rows and columns, sigmoid, temperature 1 and weights 1."""
    method = build("dist")
    with torch.no_grad():
        step = method.step(batch())
        pairs = [step.student.logits[..., :-4], step.teacher().logits[..., :-4]]
        parts = [[each[:, :16].reshape(-1, CLASSES), each[:, 16:].reshape(-1, CLASSES)] for each in pairs]
        wanted = sum(losses.dist(*level, activation="sigmoid") for level in zip(*parts, strict=True))
        found = method.losses(step)
    assert float(found["inter"] + found["intra"]) == pytest.approx(float(wanted), rel=1e-5)
