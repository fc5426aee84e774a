"""A given teacher that is fed otherwise than it was trained is told the true cause, and the advice keeps its promise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.errors import CompressError
from compress.input_probes import CAFFE, IMAGENET, Convention, list_conventions
from compress.models import InputFormat, Network, adapt_input, reorder_classes
from compress.training.given_teacher import Finding, HeldOut, InputNow, check_given_teacher, find_teacher_problem
from tests.training.prototypes import CLASSES, NOW, build, make_data

GRAY = Convention("", (0.45,), (0.25,))
KNOWN = {
    "0 to 1": Convention("", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "0 to 255": Convention("", (0.0, 0.0, 0.0), (1 / 255,) * 3),
    "-1 to 1": Convention("", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "ImageNet": Convention("", *IMAGENET),
    "BGR": NOW._replace(bgr=True),
    "0 to 1, BGR": Convention("", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), bgr=True),
    "Caffe": Convention("", *CAFFE, bgr=True),
    "BGR, with numbers of RGB": Convention("", NOW.mean[::-1], NOW.std[::-1], bgr=True),
}


def measure(network: Network, held_out: HeldOut, now: Convention) -> float:
    logits = network(torch.from_numpy(now.apply(held_out.shares)))
    return 100 * float((logits.argmax(dim=1).detach().numpy() == held_out.labels).mean())


def follow(network: Network, finding: Finding, held_out: HeldOut, now: Convention = NOW) -> float:
    """Return the accuracy of the teacher when what was advised is done."""
    if (wanted := finding.convention) is not None:
        step = -1 if wanted.bgr else 1
        formats = (
            InputFormat(now.mean, now.std, "rgb"),
            InputFormat(wanted.mean[::step], wanted.std[::step], "bgr" if wanted.bgr else "rgb"),
        )
        network = adapt_input(network, given=formats[0], wanted=formats[1])
    if finding.order is not None:
        image = torch.from_numpy(now.apply(held_out.shares[:1]))
        network = reorder_classes(network, np.argsort(finding.order.order).tolist(), image)
    return measure(network, held_out, now)


@pytest.mark.parametrize("name", KNOWN)
def test_the_true_normalisation_is_named(name: str) -> None:
    """Values, mean and std, and the order of channels are found, and following the advice gives what was promised."""
    prototypes, held_out = make_data()
    network = build(prototypes, KNOWN[name])
    before, best = measure(network, held_out, NOW), measure(network, held_out, KNOWN[name])
    finding = find_teacher_problem("teacher", network, held_out, CLASSES, InputNow(NOW))
    assert best - before > 5
    assert finding is not None
    assert finding.is_refused
    assert f"{before:.1f} % top-1 on 240 held-out images, but {best:.1f} %" in finding.text
    assert finding.order is None
    assert "class order" not in finding.text
    assert ("channels: bgr" in finding.text) is KNOWN[name].bgr
    assert follow(network, finding, held_out) == pytest.approx(best)
    with pytest.raises(CompressError, match="add to its section of the recipe: mean: "):
        check_given_teacher("teacher", network, held_out, CLASSES, InputNow(NOW))


class Contrasts(nn.Module):
    """Answers with the class whose prototype points in the direction of the image, so that brighter ones change nothing."""

    def __init__(self, prototypes: np.ndarray, size: float) -> None:
        super().__init__()
        flat = torch.from_numpy(prototypes.reshape(len(prototypes), -1)).double()
        self.weight = nn.Parameter(size * flat / flat.norm(dim=1, keepdim=True))

    def forward(self, images: Tensor) -> Tensor:
        return (images.flatten(1).double() @ self.weight.T).float()


@pytest.mark.parametrize("size", [0.01, 1.0], ids=["unsure", "sure"])
def test_numbers_that_are_only_larger_are_not_taken_for_a_surer_answer(size: float) -> None:
    """Fed with numbers from 0 to 255 an unsure teacher, as after a short training, gives larger logits and not truer ones."""
    prototypes, held_out = make_data(noise=0.05)
    now = KNOWN["ImageNet"]
    network = Network(Contrasts(now._replace(bgr=True).apply(prototypes), size), taps=())
    finding = find_teacher_problem("teacher", network, held_out, CLASSES, InputNow(now))
    assert finding is not None
    assert (
        "when the channels are fed in BGR order: it was most likely trained with another order of the channels;" in finding.text
    )


def test_colours_that_tell_the_classes_are_not_taken_for_a_class_order() -> None:
    """Where blue for red permutes the answers exactly, the order of channels is the cause, and not that of the classes."""
    tints = np.array([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9]], np.float32)
    prototypes = np.broadcast_to(tints[:, :, None, None], (3, 3, 8, 8)).copy()
    labels = np.arange(90) % 3
    noise = np.random.default_rng(0).normal(0, 0.1, (90, 3, 8, 8))
    held_out = HeldOut((prototypes[labels] + noise).astype(np.float32), labels)
    finding = find_teacher_problem("t", build(prototypes, NOW._replace(bgr=True)), held_out, "rgb", InputNow(NOW))
    assert finding is not None
    assert "BGR" in finding.text
    assert "class order" not in finding.text


def test_a_class_order_alone_is_named() -> None:
    """Natural order is no matter of the images."""
    prototypes, held_out = make_data(noise=0.05)
    order = np.array([CLASSES.index(str(number)) for number in range(12)])
    network = build(prototypes, NOW, order)
    finding = find_teacher_problem("teacher", network, held_out, CLASSES, InputNow(NOW))
    assert finding is not None
    assert finding.convention is None
    assert "classes: natural" in finding.text
    assert follow(network, finding, held_out) > 95


def test_both_causes_together_are_named() -> None:
    """A teacher on values from 0 to 1 that counts 1, 2, 10 gets both lines."""
    prototypes, held_out = make_data(noise=0.05)
    order = np.array([CLASSES.index(str(number)) for number in range(12)])
    network = build(prototypes, KNOWN["-1 to 1"], order)
    finding = find_teacher_problem("teacher", network, held_out, CLASSES, InputNow(NOW))
    assert finding is not None
    assert finding.convention is not None
    assert "classes: natural" in finding.text
    assert follow(network, finding, held_out) > 95


def test_mirrored_images_are_named() -> None:
    """A teacher of mirrored pictures is no matter of its classes."""
    prototypes, held_out = make_data(noise=0.05)
    prototypes = np.tile(prototypes[:1], (12, 1, 1, 1)) + 0.3 * np.random.default_rng(1).normal(size=prototypes.shape).astype(
        np.float32
    )
    shares = (prototypes[held_out.labels] + np.random.default_rng(2).normal(0, 0.1, held_out.shares.shape)).astype(np.float32)
    network = build(prototypes[..., ::-1], NOW)
    finding = find_teacher_problem("teacher", network, held_out._replace(shares=shares), CLASSES, InputNow(NOW))
    assert finding is not None
    assert "mirrored" in finding.text


def test_inverted_images_are_no_class_order() -> None:
    """White on black for black on white exchanges the answers of some networks exactly, and their classes are as they were."""
    prototypes = np.stack([np.full((3, 8, 8), level, np.float32) for level in (0.1, 0.5, 0.9)])
    labels = np.arange(90) % 3
    held_out = HeldOut(
        (prototypes[labels] + np.random.default_rng(0).normal(0, 0.05, (90, 3, 8, 8))).astype(np.float32), labels
    )
    finding = find_teacher_problem("t", build(1 - prototypes, NOW), held_out, "abc", InputNow(NOW))
    assert finding is not None
    assert finding.is_refused
    assert "when the images are inverted (dark for bright): it was most likely trained with images that were" in finding.text
    assert finding.text.endswith("invert the images as it was trained on them, or take another teacher")


def test_a_teacher_of_gray_images_is_told() -> None:
    """It takes three channels that are alike; what colours do to it, it never learnt."""

    class OfGray(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, images: Tensor) -> Tensor:
            mean, std = (torch.tensor(values)[:, None, None] for values in (NOW.mean, NOW.std))
            shares = images * std + mean
            colour = shares - shares.mean(dim=1, keepdim=True)
            return self.inner(images - 5 * colour.roll(1, dims=1))  # type: ignore[no-any-return]

    levels = np.linspace(0.1, 0.9, 6, dtype=np.float32)[:, None, None, None]
    tints = np.array([0.2, 0.0, -0.1], np.float32)[:, None, None]
    labels = np.arange(120) % 6
    shares = np.broadcast_to(levels, (6, 3, 8, 8))[labels] + tints * np.random.default_rng(0).normal(size=(120, 1, 1, 1))
    held_out = HeldOut(shares.astype(np.float32), labels)
    network = Network(OfGray(build(np.broadcast_to(levels, (6, 3, 8, 8)).copy(), NOW).module), taps=())
    finding = find_teacher_problem("t", network, held_out, "abcdef", InputNow(NOW))
    assert finding is not None
    assert (
        "when the images are gray: it was most likely trained with images that were gray; make the images gray" in finding.text
    )


def test_an_order_that_explains_little_is_not_advised_blindly() -> None:
    """Logits of the wrong sign make every order of the classes better than theirs, and none of them right."""
    prototypes, held_out = make_data(noise=0.15)
    network = build(prototypes, NOW)
    for parameter in network.parameters():
        parameter.data.neg_()
    finding = find_teacher_problem("teacher", network, held_out, CLASSES, InputNow(NOW))
    assert finding is not None
    assert "do not: then something else permutes its answers" in finding.text


@pytest.mark.parametrize("noise", [0.05, 0.3, 0.6, 1.5])
@pytest.mark.parametrize("now", [NOW, NOW._replace(bgr=True), *list(KNOWN.values())])
def test_a_teacher_that_is_fed_rightly_passes(noise: float, now: Convention) -> None:
    """However good or bad it is, and whatever it takes, nothing is said of a teacher that is fed as it was trained."""
    prototypes, held_out = make_data(noise=noise)
    assert check_given_teacher("teacher", build(prototypes, now), held_out, CLASSES, InputNow(now)) == ""


def test_a_gray_teacher_is_tried_on_gray_images() -> None:
    """Colours become gray for it in every trial."""
    prototypes, held_out = make_data(noise=0.05)
    luma = np.tensordot(prototypes, np.array([0.299, 0.587, 0.114], np.float32), axes=(1, 0))[:, None].astype(np.float32)
    wanted = Convention("", (0.0,), (1.0,))
    network = adapt_input(
        build(luma, wanted), given=InputFormat(NOW.mean, NOW.std, "rgb"), wanted=InputFormat(GRAY.mean, GRAY.std, "gray")
    )
    finding = find_teacher_problem("teacher", network, held_out, CLASSES, InputNow(GRAY, is_gray=True))
    assert finding is not None
    assert "mean: [0], std: [1]" in finding.text


def test_exchanged_classes_are_confirmed_on_training_images() -> None:
    """One held-out image of a class cannot prove an exchange; training images of the two can."""
    prototypes = make_data()[0]
    labels = np.arange(12)

    def take(classes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        repeated = np.repeat(classes, 8)
        return prototypes[repeated], repeated

    few = HeldOut(prototypes[labels], labels, take)
    order = np.arange(12)
    order[[3, 7]] = 7, 3
    with pytest.raises(CompressError, match=rf"exchanged.*classes: {{'3': '{CLASSES[7]}', '7': '{CLASSES[3]}'}}"):
        check_given_teacher("teacher", build(prototypes, NOW, order), few, CLASSES, InputNow(NOW))


def test_the_present_convention_is_not_tried_again() -> None:
    """What is fed already is no alternative, also where it is a usual one."""
    for depth, now in ((3, KNOWN["ImageNet"]), (3, KNOWN["0 to 1"]), (1, GRAY)):
        others = list_conventions(now.mean, now.std, depth)
        assert all((each.mean, each.std, each.bgr) != (now.mean, now.std, False) for each in others)


def test_a_class_that_is_always_taken_for_another_is_told() -> None:
    """No order of the classes mends it and few images are lost, so it is a warning that names both classes."""
    prototypes, held_out = make_data(noise=0.05)
    merged = prototypes.copy()
    merged[4] += 100  # no image is near it
    label, other = 4, 7
    shares = np.where((held_out.labels == label)[:, None, None, None], prototypes[other], held_out.shares)
    finding = find_teacher_problem("teacher", build(merged, NOW), held_out._replace(shares=shares), CLASSES, InputNow(NOW))
    count = int((held_out.labels == label).sum())
    assert finding is not None
    assert not finding.is_refused
    assert f"{count} of {count} images of {CLASSES[label]!r} are {CLASSES[other]!r} to it" in finding.text
