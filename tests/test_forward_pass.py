"""What a few forward passes show of a network: probabilities, answers that change, an input that is changed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress import forward_pass

IMAGES = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))


class Ends(nn.Module):
    """A linear network with something behind its logits."""

    def __init__(self, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.end = nn.Linear(16, 5), end

    def forward(self, images: Tensor) -> Tensor:
        return self.end(self.linear(images.flatten(1)))


def find(end: Callable[[Tensor], Tensor]) -> str:
    network = Ends(end)
    return forward_pass.find_probabilities(network, IMAGES, network(IMAGES))


@pytest.mark.parametrize(
    ("end", "how"),
    [
        pytest.param(lambda x: x.softmax(1), "come out of a softmax", id="softmax"),
        pytest.param(lambda x: x.softmax(1).view(-1, 5).clone(), "come out of a softmax", id="softmax, reshaped"),
        pytest.param(lambda x: x.exp() / x.exp().sum(1, keepdim=True), "those of each image sum to 1", id="by hand"),
        pytest.param(lambda x: 100 * x.softmax(1), "those of each image sum to 100", id="percent"),
        pytest.param(lambda x: (x.softmax(1) + (2 * x).softmax(1)) / 2, "those of each image sum to 1", id="mean of two"),
        pytest.param(lambda x: (x / 0.01).softmax(1).round(), "those of each image sum to 1", id="one-hot"),
        pytest.param(lambda x: x.softmax(1).bfloat16() * 1, "those of each image sum to 1", id="bfloat16"),
        pytest.param(lambda x: x.softmax(0) * 1, r"over the images of the batch", id="over the batch"),
        pytest.param(torch.sigmoid, "come out of a sigmoid", id="sigmoid"),
        pytest.param(F.logsigmoid, "come out of a log-sigmoid", id="log-sigmoid"),
        pytest.param(F.hardsigmoid, "come out of a hard sigmoid", id="hard sigmoid"),
    ],
)
def test_probabilities_are_seen_whatever_made_them(end: Callable[[Tensor], Tensor], how: str) -> None:
    """The end of the graph or the numbers give them away."""
    assert how in find(end)


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda x: x, id="logits"),
        pytest.param(torch.abs, id="logits above 0"),
        pytest.param(lambda x: x.log_softmax(1), id="log-softmax"),
        pytest.param(lambda x: 30 * torch.tanh(x / 30), id="softly capped"),
        pytest.param(lambda x: 0 * x + 0.3, id="the same for all"),
        pytest.param(lambda x: torch.from_numpy(x.detach().numpy() + 1), id="without gradients"),
    ],
)
def test_logits_are_not_taken_for_probabilities(end: Callable[[Tensor], Tensor]) -> None:
    """What is above 0, or limited, or constant, is not for that a probability."""
    assert find(end) == ""


def test_log_probabilities_are_told_apart() -> None:
    """They are no probabilities, and logits are none of them."""
    logits = torch.randn(8, 5)
    assert "log-probabilities" in forward_pass.find_log_probabilities(logits.log_softmax(1))
    assert forward_pass.find_log_probabilities(logits) == ""
    assert forward_pass.find_log_probabilities(-logits.abs()) == ""


def test_a_trained_sigmoid_is_seen_by_its_range() -> None:
    """All of many outputs between 0 and 1, some of them sure: no trained network gives such logits."""
    logits = torch.randn(100, 5)
    assert "between 0 and 1" in forward_pass.find_shares(logits.sigmoid())
    assert forward_pass.find_shares(logits) == ""


def changed(end: Callable[[Tensor], Tensor]) -> str:
    network = Ends(end).eval()
    with torch.no_grad():
        return forward_pass.find_changed_answers(network, IMAGES, network(IMAGES))


@pytest.mark.parametrize(
    ("end", "operation"),
    [
        pytest.param(F.dropout, "bernoulli_", id="dropout"),
        pytest.param(lambda x: x + 0.01 * torch.randn_like(x), "randn_like", id="noise"),
        pytest.param(lambda x: x[:, torch.randperm(5)], "randperm", id="shuffled"),
        pytest.param(F.gumbel_softmax, "exponential_", id="Gumbel"),
    ],
)
def test_random_answers_are_seen_and_the_operation_is_named(end: Callable[[Tensor], Tensor], operation: str) -> None:
    """Two passes differ, and the message says which operation draws the numbers."""
    assert f"it draws random numbers ({operation})" in changed(end)


def test_a_state_that_moves_in_evaluation_is_seen() -> None:
    """What a network keeps from one pass to the next is no random number, and still another answer."""
    calls: list[int] = []
    assert "keeps something from one pass to the next" in changed(lambda x: calls.append(0) or x + len(calls))
    assert changed(lambda x: x) == ""


def test_looking_draws_no_random_numbers() -> None:
    """What is trained afterwards is the same, whether or not a network was looked at."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with forward_pass.keep_random_state():
        changed(F.dropout)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "mixing", [nn.BatchNorm1d(5, track_running_stats=False), lambda x: x - x.mean(0), lambda x: 10 * x.softmax(0)]
)
def test_an_answer_that_depends_on_other_images_is_seen(mixing: Callable[[Tensor], Tensor]) -> None:
    """Statistics of the batch, or a softmax over it, mix the images."""
    network = Ends(mixing).eval()
    with torch.no_grad():
        assert "depends on the images beside it" in forward_pass.find_mixed_images(network, IMAGES, network(IMAGES))


def test_images_that_answer_for_themselves_are_not_called_mixed() -> None:
    """Also where a batch holds one picture again and again, which shows nothing."""
    network = Ends(nn.LayerNorm(5)).eval()
    with torch.no_grad():
        assert forward_pass.find_mixed_images(network, IMAGES, network(IMAGES)) == ""
        same = IMAGES[:1].expand(4, -1, -1, -1)
        assert forward_pass.find_mixed_images(lambda x: x.flatten(1).softmax(0), same, same.flatten(1).softmax(0)) == ""


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (lambda x: x.sub_(1), True),
        (lambda x: x.view(-1).mul_(2), True),
        (lambda x: x.data.sub_(1), True),
        (lambda x: x.numpy().__isub__(1), True),
        (lambda x: x.unsqueeze_(0), True),
        (lambda x: x - 1, False),
    ],
    ids=["in place", "through a view", "through .data", "through NumPy", "its shape", "not at all"],
)
def test_a_changed_input_is_seen_by_whatever_way(change: Callable[[Tensor], object], *, seen: bool) -> None:
    """Torch counts some changes; the numbers show the others."""
    copy = IMAGES.clone()
    change(copy)
    assert forward_pass.changes(copy, IMAGES) is seen


def test_images_with_nan_are_not_called_changed() -> None:
    """NaN differs from itself; it is a fault of the images, and not of the network."""
    broken = IMAGES.clone()
    broken[0, 0, 0, 0] = float("nan")
    assert not forward_pass.changes(broken.clone(), broken)
    assert forward_pass.changes(broken.nan_to_num(), broken)
