"""What a recipe declares of a given teacher holds in the run: how it takes images, and in which order it knows the classes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from compress import recipe
from compress.errors import CompressError
from compress.events import Events
from compress.models import Adapted
from compress.models.resnet_cifar import resnet8
from compress.plan.plan import make_plan
from compress.run.build import load_given_teacher
from compress.run.context import Run, open_run
from compress.teachers.identity import hash_module
from compress.training import checkpoint

DECLARED = "channels: bgr, mean: [0.1, 0.2, 0.3], std: 0.5, classes: [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    checkpoint.save_weights(tmp_path / "rgb.safetensors", resnet8(10, 3), metadata={})
    return tmp_path / "rgb.safetensors"


@pytest.fixture
def context(tmp_path: Path, tiny_recipe: str, weights: Path) -> Iterator[Run]:
    """A run on gray digits with two teachers on the same weights, one of which declares how it sees them."""
    teachers = ", ".join(
        f"{{model: resnet_cifar.resnet8, weights: {weights}, {declared}}}" for declared in ("channels: rgb", DECLARED)
    )
    parsed = recipe.parse(tiny_recipe.encode(), "tiny.yaml", [f"teacher=[{teachers}]"])
    make_plan(parsed, base=tmp_path, runs=tmp_path)
    with open_run(parsed, base=tmp_path, runs=tmp_path, events=Events()) as run:
        yield run


def test_a_teacher_gets_what_its_section_declares(context: Run, weights: Path) -> None:
    """Gray digits are repeated, normalised as declared and in BGR, and logits come in the order of the data's classes."""
    plain = resnet8(10, 3).eval()
    checkpoint.load_weights(plain, weights)
    pixels = context.data.validation.images[:8].transpose(0, 3, 1, 2).astype(np.float32) / 255  # [8, 1, H, W]
    batch = next(context.batch_in_order(context.data.validation).epoch(0)).images[:8]
    first, second = context.recipe.teacher
    given = load_given_teacher(context, second, "teacher1")
    prepared = (torch.from_numpy(pixels).expand(-1, 3, -1, -1) - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)) / 0.5
    with torch.no_grad():
        expected = plain(prepared)[:, list(range(9, -1, -1))]
        torch.testing.assert_close(given.network.eval()(batch), expected, rtol=1e-3, atol=1e-4)
    other = load_given_teacher(context, first, "teacher0").network
    assert isinstance(other, Adapted)
    assert hash_module(other) != hash_module(given.network)  # outputs that are stored are told apart
    assert given.network.classifier.out_features == 10


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("mean: [0.1, 0.2]", r"teacher.mean: has 2 values, and the teacher takes 1 channels"),
        ("channels: bgr, std: [1, 1]", r"teacher.std: has 2 values, and the teacher takes 3 channels"),
        ("classes: [0, 1]", r"teacher.classes: does not name '2', '3', '4' and 5 more"),
        ("classes: none.txt", r"teacher.classes: .*none.txt: cannot be read"),
    ],
)
def test_contradictions_are_refused_by_the_plan(
    tiny_recipe: str, tmp_path: Path, weights: Path, declared: str, message: str
) -> None:
    """What cannot be is told before anything is loaded."""
    teacher = f"teacher={{model: resnet_cifar.resnet8, weights: {weights}, {declared}}}"
    parsed = recipe.parse(tiny_recipe.encode(), "tiny.yaml", [teacher])
    with pytest.raises(CompressError, match=message):
        make_plan(parsed, base=tmp_path, runs=tmp_path)


def test_a_teacher_that_is_trained_here_has_no_order_of_its_own(tiny_recipe: str, tmp_path: Path) -> None:
    """Its classes are those of the data."""
    parsed = recipe.parse(tiny_recipe.encode(), "tiny.yaml", ["teacher={model: resnet_cifar.resnet8, classes: natural}"])
    with pytest.raises(CompressError, match=r"teacher.classes: is for a teacher that is given"):
        make_plan(parsed, base=tmp_path, runs=tmp_path)
