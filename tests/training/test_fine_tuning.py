"""A backbone that is trained less than its classifier, or not at all."""

import pytest
import torch
from torch import nn

from compress.errors import CompressError
from compress.freezing import freeze_all_but
from compress.methods import Setting
from compress.methods.supervised import Supervised
from compress.models import Network
from compress.recipe import TrainSection
from compress.training import loop
from compress.training.updates import Updates
from tests.tiny import Tiny, data, held_out, setting, tiny, weights


def train(**settings):
    torch.manual_seed(0)
    method = Supervised(setting())
    before = weights(method)
    loop.fit(method, data(), held_out(), settings=TrainSection(epochs=1, batch_size=16, select="last", **settings), seed=7)
    return before, weights(method)


def test_a_frozen_backbone_keeps_every_bit():
    """With a scale of 0 no weight and no statistic before the classifier changes, and the classifier learns."""
    before, after = train(backbone_lr_scale=0.0)
    changed = {name for name in before if not torch.equal(before[name], after[name]) and name.startswith("student")}
    assert changed == {"student.module.linear.weight", "student.module.linear.bias"}


def test_a_scale_of_one_is_plain_training():
    """The default trains everything, to the same bytes as without the field."""
    plain, scaled = train()[1], train(backbone_lr_scale=1.0)[1]
    assert all(torch.equal(plain[name], scaled[name]) for name in plain)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_backbone_has_its_own_learning_rate(optimizer):
    """One step moves the backbone by a tenth of what it moves otherwise, and the classifier by as much."""
    moved = {}
    for scale in (1.0, 0.1):
        torch.manual_seed(0)
        network = tiny(4)
        method = Supervised(Setting(network, (), torch.zeros(1, 1, 8, 8), 4, lambda _: tiny(2)))
        settings = TrainSection(optimizer=optimizer, momentum=0, weight_decay=0, backbone_lr_scale=scale)
        updates = Updates(method, settings)
        freeze_all_but(method, updates.phases["all"] if "all" in updates.phases else next(iter(updates.phases.values())))
        updates.set_learning_rate(settings.lr / 2)
        start = {name: value.detach().clone() for name, value in network.named_parameters()}
        torch.manual_seed(1)
        updates.update(network(torch.randn(8, 1, 8, 8)).square().mean(), next(iter(updates.phases)))
        moved[scale] = {name: value.detach() - start[name] for name, value in network.named_parameters()}
    for name, full in moved[1.0].items():
        factor = 1 if name.startswith("module.linear") else 0.1
        torch.testing.assert_close(moved[0.1][name], factor * full, rtol=1e-3, atol=1e-7)


def test_a_network_without_a_classifier_has_no_backbone():
    """Nothing tells which layers are meant, so the field is refused."""
    network = Network(Tiny(2), taps=("first",))
    method = Supervised(Setting(network, (), torch.zeros(1, 1, 8, 8), 4, lambda _: tiny(2)))
    with pytest.raises(CompressError, match="backbone_lr_scale: the network names no classifier"):
        Updates(method, TrainSection(backbone_lr_scale=0.1))
    assert isinstance(network, nn.Module)
