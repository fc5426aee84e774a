"""`compress.distill` tries given teachers as the command line does, and `compress.adapt_teacher` mends what it finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import compress
from compress.input_probes import Convention
from tests.training.prototypes import NOW, build, make_data

ZERO_ONE = Convention("", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), bgr=True)


def make_loader(seed: int, now: Convention = NOW) -> tuple[np.ndarray, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Return prototypes and batches as a user's loader gives them; black and white occur."""
    prototypes, held_out = make_data()
    shares = held_out.shares.clip(0, 1)
    images = torch.from_numpy(now.apply(shares))
    return prototypes, list(zip(images.split(40), torch.from_numpy(held_out.labels).split(40), strict=True))


def distill(teacher: nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    student = nn.Sequential(nn.Flatten(), nn.Linear(192, 12))
    compress.distill(teacher, student, train=batches, validation=batches, settings=compress.TrainSection(epochs=1, lr=0.01))


def test_a_teacher_that_is_fed_otherwise_is_refused_and_mended() -> None:
    """The message names the call; with it the teacher is accepted."""
    prototypes, batches = make_loader(0)
    teacher = build(prototypes, ZERO_ONE).module
    with pytest.raises(compress.CompressError, match=r"BGR.*compress.adapt_teacher\(teacher, loader_mean=.*channels='bgr'"):
        distill(teacher, batches)
    distill(
        compress.adapt_teacher(teacher, loader_mean=NOW.mean, loader_std=NOW.std, mean=[0] * 3, std=[1] * 3, channels="bgr"),
        batches,
    )


def test_a_class_order_is_mended_in_the_library() -> None:
    """Outputs for each label are named, and taken."""
    prototypes, batches = make_loader(0)
    order = np.roll(np.arange(12), 1)
    teacher = build(prototypes, NOW, order).module
    with pytest.raises(compress.CompressError, match=r"compress.adapt_teacher\(teacher, classes=\[1, 2, 3.*0\]\)"):
        distill(teacher, batches)
    distill(compress.adapt_teacher(teacher, classes=np.argsort(order).tolist()), batches)


def test_held_out_images_are_drawn_from_all_batches() -> None:
    """A validation loader that goes through the classes one after the other shows the last ones, too."""
    prototypes, held_out = make_data(count=600, noise=0.05)
    rows = np.argsort(held_out.labels, kind="stable")
    images = torch.from_numpy(NOW.apply(held_out.shares[rows].clip(0, 1)))
    batches = list(zip(images.split(50), torch.from_numpy(held_out.labels[rows]).split(50), strict=True))
    order = np.array([*range(10), 11, 10])
    with pytest.raises(compress.CompressError, match=r"its output 10 is '11', not '10', its output 11 is '10', not '11'"):
        distill(build(prototypes, NOW, order).module, batches)


def test_few_images_of_exchanged_classes_are_looked_for_in_the_whole_loader() -> None:
    """Two of twelve classes of which the first look shows an image or two."""
    prototypes, held_out = make_data(count=1200, noise=0.05)
    rare = np.isin(held_out.labels, (10, 11))
    rows = np.sort(np.concatenate([np.flatnonzero(~rare), np.flatnonzero(rare)[:12]]))
    images = torch.from_numpy(NOW.apply(held_out.shares[rows].clip(0, 1)))
    batches = list(zip(images.split(50), torch.from_numpy(held_out.labels[rows]).split(50), strict=True))
    order = np.array([*range(10), 11, 10])
    with pytest.raises(compress.CompressError, match=r"of the classes that it exchanges 0\.0 %, and 100\.0 %"):
        distill(build(prototypes, NOW, order).module, batches)


def test_a_class_that_is_taken_for_another_is_warned_of() -> None:
    """Also where there is no terminal, and so no progress."""
    prototypes, batches = make_loader(0)
    order = np.array([*range(11), 10])
    with pytest.warns(UserWarning, match=r"^teacher 0: .* images of '11' are '10' to it: it teaches the student the same"):
        distill(build(prototypes, NOW, order).module, batches)


@pytest.mark.parametrize("seed", range(3))
def test_images_of_one_class_accuse_no_class_order(seed: int) -> None:
    """Any answer is right in some order of the classes; the images are at fault."""
    torch.manual_seed(seed)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(192, 12))
    batches = [(torch.randn(32, 3, 8, 8), torch.full((32,), 4))]
    with pytest.raises(compress.CompressError, match="cannot be judged, as all 32 validation images are of class '4'"):
        distill(teacher, batches)


class Renamed(nn.Module):
    """A network whose last linear layer lies deep inside, and which gives a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"body": nn.Flatten(), "head": nn.Linear(192, 1000, bias=False)})

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"scores": self.inner["head"](self.inner["body"](images))}


def test_a_teacher_of_other_classes_is_probed_in_the_library() -> None:
    """It is refused as it is; its probed copy knows the classes and is accepted, and the network itself is left alone."""
    _, batches = make_loader(0)
    teacher = Renamed().train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    read = {"logits": lambda output: output["scores"]}
    probed = compress.probe_teacher(teacher, train=batches, validation=batches, events=compress.Events(), **read)
    images, labels = batches[0]
    assert (probed(images)["scores"].argmax(dim=1) == labels).float().mean() > 0.95
    assert probed.inner["head"].out_features == 12
    assert teacher.training
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    student = nn.Sequential(nn.Flatten(), nn.Linear(192, 12))
    short = {"train": batches, "validation": batches, "settings": compress.TrainSection(epochs=1, lr=0.01), **read}
    compress.distill(probed, student, **short)
    with pytest.raises(compress.CompressError, match="teacher 0 gives 1000 classes and the data has 12"):
        compress.distill(teacher, student, **short)


def test_what_cannot_be_probed_is_refused() -> None:
    """A network without a linear layer at its end, labels beyond the classes that are said, and what is no network."""
    _, batches = make_loader(0)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    pairs = {"train": batches, "validation": batches, "events": compress.Events()}
    with pytest.raises(compress.CompressError, match="names no classifier"):
        compress.probe_teacher(nn.Flatten(), **pairs)
    with pytest.raises(compress.CompressError, match=r"label 1[01]"):
        compress.probe_teacher(flat, classes=10, **pairs)
    with pytest.raises(compress.CompressError, match="teacher: is a str"):
        compress.probe_teacher("resnet18", **pairs)  # type: ignore[arg-type]
