"""A network that would train, or teach, with a wrong result and without a word is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.errors import CompressError
from compress.models import Network
from compress.training.network_checks import Found, check_network, check_outputs
from tests.tiny import Tiny

IMAGES = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Around(nn.Module):
    """The tiny network, run by a function of it, the images, and whether it trains."""

    def __init__(self, run: Callable[[nn.Module, Tensor, bool], Any]) -> None:
        super().__init__()
        self.inner, self.run = Tiny(2), run

    def forward(self, images: Tensor) -> Any:
        return self.run(self.inner, images, self.training)


def _grow(network: nn.Module, images: Tensor, _: bool) -> Any:
    network.register_parameter(f"late{len(list(network.parameters()))}", nn.Parameter(torch.zeros(1)))
    return network(images)


def check(run: Callable[[nn.Module, Tensor, bool], Any], *, trains: bool = True) -> Found:
    torch.manual_seed(0)
    return check_network("student", Network(Around(run), taps=()), IMAGES, trains=trains)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        pytest.param(lambda n, x, _: n(x).softmax(1), "its outputs come out of a softmax; take", id="softmax"),
        pytest.param(
            lambda n, x, trains: n(x) if trains else n(x).softmax(1), "come out of a softmax", id="softmax in evaluation alone"
        ),
        pytest.param(lambda n, x, trains: n(x).softmax(1) if trains else n(x), "are probabilities", id="in training alone"),
        pytest.param(lambda n, x, _: F.dropout(n(x)), r"answers differ .* F.dropout does without training=", id="dropout"),
        pytest.param(lambda n, x, _: n(x) - n(x).mean(0), "depends on the images beside it", id="mean of the batch"),
        pytest.param(
            lambda n, x, trains: (n(x), n(x)) if trains else n(x),
            r"gives a tuple of \[4, 4\], \[4, 4\] while it trains and \[4, 4\] in .* logits=lambda output: output\[0\],",
            id="deep supervision",
        ),
        pytest.param(
            lambda n, x, trains: {"out": n(x), "aux": n(x)} if trains else n(x), "gives a dict of out, aux while", id="dict"
        ),
        pytest.param(lambda n, x, trains: n(x)[:, :3] if trains else n(x), r"\[4, 3\] while it trains", id="other classes"),
        pytest.param(lambda n, x, trains: n(x, x) if trains else n(x), "fails in training mode .*TypeError", id="two inputs"),
        pytest.param(lambda n, x, _: n(0 * x), "the same on each of 4 images, also with other weights", id="constant"),
        pytest.param(lambda n, x, _: n(x).argmax(1), r"gives int64 \[4\]", id="classes"),
        pytest.param(lambda n, x, _: n(x).argmax(1).view(4, 1), r"gives int64 \[4, 1\]", id="classes in a column"),
        pytest.param(lambda n, x, _: n(x[:1]), r"gives \[1, 4\] for 4 images", id="one answer"),
        pytest.param(lambda n, x, _: n(x).to_sparse(), "gives a tensor of layout sparse_coo; it must give plain", id="sparse"),
        pytest.param(lambda n, x, _: n(x).to("meta"), "gives numbers that are nowhere", id="meta"),
        pytest.param(_grow, r"adds or removes parameters or buffers \(module\.inner\.late\d", id="grows"),
    ],
)
def test_a_student_is_refused_with_the_cause(run: Callable[[nn.Module, Tensor, bool], Any], message: str) -> None:
    """Each message names the network, what it does, and what to do about it."""
    with pytest.raises(CompressError, match=rf"(?s)^student: .*{message}"):
        check(run)


def test_only_what_is_trained_must_hold_in_training_mode() -> None:
    """A teacher is never in training mode, so auxiliary outputs there are nobody's concern."""
    assert check(lambda n, x, trains: (n(x), n(x)) if trains else n(x), trains=False).classes == 4


def test_a_classifier_that_starts_with_zeros_may_learn() -> None:
    """The same logits for every image are no fault of a network that other weights cure."""

    def run(network: nn.Module, images: Tensor, _: bool) -> Any:
        return network(images)

    torch.manual_seed(0)
    module = Around(run)
    nn.init.zeros_(module.inner.linear.weight)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert check_network("student", Network(module, taps=()), IMAGES, trains=True) == Found(4, changes_input=False, note="")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_log_probabilities_are_told_and_accepted() -> None:
    """Their softmax is that of the logits, so nobody is stopped for them."""
    found = check(lambda n, x, _: n(x).log_softmax(1))
    assert "student: its outputs are log-probabilities" in found.note
    assert check(lambda n, x, _: n(x)).note == ""


@pytest.mark.parametrize("mode", ["both", "training", "evaluation"])
def test_a_changed_input_is_found_in_either_mode_and_leaves_the_images(mode: str) -> None:
    """The images that were given are not the ones that are changed."""
    before = IMAGES.clone()

    def run(network: nn.Module, images: Tensor, trains: bool) -> Any:
        wanted = {"both": True, "training": trains, "evaluation": not trains}[mode]
        return network(images.sub_(1.5)) if wanted else network(images)

    assert check(run).changes_input
    assert torch.equal(IMAGES, before)


def test_nothing_is_left_behind() -> None:
    """Statistics, modes and the random state are as they were."""
    torch.manual_seed(1)
    network = Network(Tiny(2), taps=("first",))
    network.module.dropout.eval()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    random, modes = torch.get_rng_state(), [module.training for module in network.modules()]
    assert check_network("student", network, IMAGES, trains=True).classes == 4
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in network.modules()] == modes


@pytest.mark.parametrize(
    ("dtype", "name"), [(torch.float16, "float16"), (torch.bfloat16, "bfloat16"), (torch.float64, "float64")]
)
def test_a_network_in_another_precision_is_to_be_cast(dtype: torch.dtype, name: str) -> None:
    """The advice concerns the network, and not the images, which are as they should be."""
    with pytest.raises(CompressError, match=rf"^teacher 0: .*its weights are {name}, .*cast it: teacher\.float\(\)"):
        check_network("teacher 0", Network(Tiny(2).to(dtype), taps=()), IMAGES, trains=False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: np.exp(x) / np.exp(x).sum(axis=1, keepdims=True), "teacher: its outputs are probabilities"),
        (lambda x: 1 / (1 + np.exp(-x)), "teacher: its outputs lie between 0 and 1 on every image, as after a sigmoid"),
        (lambda x: np.repeat(x[:1], len(x), axis=0), "teacher: its outputs are the same on each of 100 images"),
        (lambda x: np.full_like(x, 0.7), "teacher: its outputs are the same on each of 100 images"),
    ],
)
def test_outputs_of_a_teacher_on_the_whole_split_are_looked_at(make: Callable[[Any], Any], message: str) -> None:
    """What a few images may hide, a split shows; the message says the cause, and not that the teacher knows little."""
    logits = np.random.default_rng(0).normal(size=(100, 5)).astype(np.float32)
    check_outputs("teacher", logits)
    with pytest.raises(CompressError, match=f"^{message}"):
        check_outputs("teacher", make(logits).astype(np.float32))
