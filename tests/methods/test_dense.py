"""What every method promises where labels are masks: it trains a dense student of another size, or says why it cannot."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress import losses, plugins
from compress.data import Batch
from compress.errors import CompressError
from compress.methods import Method, Setting, Step
from compress.models import Auxiliary, Network, count_parameters
from compress.recipe import TrainSection
from compress.tasks import load_task
from compress.training import loop, preflight
from tests.tiny import Repeated

CLASSES, SIZE = 4, 16
REFUSED = {
    "simkd": "ships the teacher's linear classifier",
    "atsc": "ships the teacher's linear classifier",
    "dkd": "parts the labelled class",
    "rkd": "compares one embedding an image",
}
SUPPORTED = sorted(set(plugins.list_names("methods")) - set(REFUSED))


class Dense(nn.Module):
    """Two stages and a 1×1 classifier, at the stride that is given."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(1, width, 3, stride, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.classifier = nn.Conv2d(2 * width, CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.stage2(self.stage1(images)))
        return logits


def network(width: int, stride: int) -> Network:
    return Network(Dense(width, stride), taps=["stage1", "stage2"])


def setting() -> Setting:
    """Return a student at stride 4 and a teacher at stride 2, so that every method must bring them together."""
    image = torch.randn(1, 1, SIZE, SIZE)
    return Setting(network(4, 4), (network(6, 2),), image, CLASSES, lambda _role: network(4, 4), load_task("segmentation"))


def batch() -> Batch:
    images = torch.randn(6, 1, SIZE, SIZE)
    labels = (images[:, 0] > 0).to(torch.uint8)  # what a network can learn
    labels[:, 0] = 255
    return Batch(images, labels)


def build(name: str) -> Method:
    method: Method = plugins.load("methods", name)(setting())
    return method


@pytest.mark.parametrize("name", SUPPORTED)
def test_a_dense_student_is_trained(name: str) -> None:
    """The structural check accepts every stage, training lowers its loss, and validation gives an mIoU."""
    method, shown = build(name), batch()
    preflight.check_structure(method, shown)
    for stage in method.stages():
        fit = loop.fit(
            stage, Repeated(shown, 6), Repeated(shown, 1), settings=TrainSection(epochs=2, lr=0.01, schedule="constant")
        )
        assert fit.epochs[-1].losses["total"] < fit.epochs[0].losses["total"], stage.stage
        assert {each.metric for each in fit.validation.values()} <= {"miou"}
        stage.analyse(Repeated(shown, 1), Repeated(shown, 1))


@pytest.mark.parametrize("name", REFUSED)
def test_a_method_that_needs_one_class_an_image_is_refused(name: str) -> None:
    """The message says what it needs and what to use."""
    with pytest.raises(CompressError, match=f"method.{name}: {REFUSED[name]}.*; .*use"):
        build(name)


def test_cwd_is_refused_where_classes_have_no_place() -> None:
    """One class an image is nowhere in the image."""
    with pytest.raises(CompressError, match=r"method\.cwd: .*use kd or dist"):
        plugins.load("methods", "cwd")(setting()._replace(task=load_task("classification")))


@pytest.mark.parametrize(
    ("name", "wanted"), [("kd", {"temperature": 1.0}), ("dist", {"temperature": 1.0, "inter_scale": 1.0, "intra_scale": 1.0})]
)
def test_defaults_are_those_of_dense_logits(name: str, wanted: dict[str, float]) -> None:
    """Temperature 1 and weights 1, as released for segmentation, and not those of classification."""
    method = build(name)
    assert {option: getattr(method, option) for option in wanted} == wanted


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_cwd_is_the_divergence_of_positions(temperature: float) -> None:
    """Equal to its equations in float64, where each class of each image is a distribution over positions."""
    student, teacher = np.random.default_rng(0).normal(size=(2, 3, 5, 4, 6)) * 3
    total = 0.0
    for one, other in zip(student.reshape(15, -1) / temperature, teacher.reshape(15, -1) / temperature, strict=True):
        ours, theirs = (np.exp(each - each.max()) / np.exp(each - each.max()).sum() for each in (one, other))
        total += float((theirs * np.log(theirs / ours)).sum())
    found = losses.cwd(torch.tensor(student), torch.tensor(teacher), temperature=temperature)
    assert float(found) == pytest.approx(temperature**2 * total / 15, rel=1e-9)
    assert torch.isfinite(losses.cwd(torch.tensor(student * 1e3).float(), torch.tensor(teacher).float(), temperature=1.0))


def test_pkd_is_one_minus_the_correlation() -> None:
    """Equal to Pearson's, channel by channel, so another scale and offset of the teacher change nothing."""
    student, teacher = np.random.default_rng(0).normal(size=(2, 4, 3, 5, 5))
    each = [np.corrcoef(student[:, c].ravel(), teacher[:, c].ravel())[0, 1] for c in range(3)]
    found = losses.pkd(torch.tensor(student), torch.tensor(teacher))
    assert float(found) == pytest.approx(float(np.mean([1 - r for r in each])) * 99 / 100, rel=1e-4)  # n - 1 in the deviation
    assert float(losses.pkd(torch.tensor(student), torch.tensor(5 * teacher + 2))) == pytest.approx(float(found), rel=1e-5)


class WithAuxiliary(Dense):
    """Its first stage is classified, too, by a second head that is not part of a forward pass."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__(width, stride)
        self.second = nn.Conv2d(width, CLASSES, 1)


def network_with_auxiliary(width: int, stride: int) -> Network:
    return Network(WithAuxiliary(width, stride), taps=["stage1", "stage2"], auxiliary=Auxiliary("stage1", "second"))


@pytest.mark.parametrize("by_teacher", [True, False], ids=["both", "student"])
def test_an_auxiliary_classifier_counts_four_tenths(by_teacher: bool) -> None:
    """The labels and the teacher's second head teach the student's with 0.4 of the weight; without that, the labels alone."""
    student, shown, task = network_with_auxiliary(4, 4), batch(), load_task("segmentation")
    teacher = network_with_auxiliary(6, 4) if by_teacher else network(6, 4)
    teacher.requires_grad_(requires_grad=False)
    image = torch.randn(1, 1, SIZE, SIZE)
    method = plugins.load("methods", "dist")(Setting(student, (teacher,), image, CLASSES, lambda _role: student, task))
    found = method.losses(Step(shown, student, (teacher,), phase="student", task=task))

    logits, (first, _) = student.outputs(shown.images)
    further = student.module.second(first)
    labels = [task.compute_loss(each, shown.labels, size=(SIZE, SIZE)) for each in (logits, further)]
    assert found["ce"].item() == pytest.approx((labels[0] + 0.4 * labels[1]).item(), rel=1e-5)
    theirs, (their_first, _) = teacher.outputs(shown.images)
    pairs = [losses.dist_relations(logits, theirs, temperature=1.0)]
    if by_teacher:
        pairs.append(losses.dist_relations(further, teacher.module.second(their_first), temperature=1.0))
    for place, name in enumerate(("inter", "intra")):
        wanted = sum(weight * pair[place].item() for weight, pair in zip((1, 0.4), pairs, strict=False))
        assert found[name].item() == pytest.approx(wanted, rel=1e-5)
    sum(found.values()).backward()
    assert student.module.second.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["supervised", "kd", "dist", "dih"])
def test_a_student_with_an_auxiliary_classifier_is_trained(name: str) -> None:
    """The structural check accepts it; the head is no part of what is shipped."""
    student, teacher = network_with_auxiliary(4, 4), network_with_auxiliary(6, 2)
    image, task = torch.randn(1, 1, SIZE, SIZE), load_task("segmentation")
    build_student = lambda _role: network_with_auxiliary(4, 4)  # noqa: E731
    method = plugins.load("methods", name)(Setting(student, (teacher,), image, CLASSES, build_student, task))
    preflight.check_structure(method, batch())
    assert count_parameters(student) == count_parameters(network(4, 4))
