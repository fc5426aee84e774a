"""A network from any module: what its taps and classifier promise, and what they refuse."""

import pytest
import torch
from torch import nn

from compress.errors import CompressError
from compress.models import Network, find_shapes


def sequence(*layers):
    return nn.Sequential(nn.Conv2d(3, 4, 3), *layers, nn.Flatten(), nn.LazyLinear(2))


def test_an_unknown_tap_lists_what_there_is():
    """A wrong name is told with the names that exist."""
    with pytest.raises(CompressError, match=r"Sequential has no submodule 'stage1'; it has: 0, 1, 2"):
        Network(sequence(), taps=["stage1"])


def test_a_tap_that_is_overwritten_is_refused():
    """An in-place ReLU after a tap would change the tapped map, so `outputs` stops."""
    network = Network(sequence(nn.ReLU(inplace=True)), taps=["0"])
    with pytest.raises(CompressError, match="tap '0' is overwritten in place"):
        network.outputs(torch.randn(1, 3, 8, 8))


def test_a_tap_that_runs_twice_is_refused():
    """A shared layer has no single feature map."""
    shared = nn.Conv2d(4, 4, 1)
    network = Network(sequence(shared, shared), taps=["1"])
    with pytest.raises(CompressError, match="tap '1' ran 2 times"):
        network.outputs(torch.randn(1, 3, 8, 8))


def test_hooks_are_removed_after_an_error():
    """A pass that fails leaves the module as it was."""
    network = Network(sequence(), taps=["0"])
    with pytest.raises(RuntimeError):
        network.outputs(torch.randn(1, 5, 8, 8))
    assert not network.module[0]._forward_hooks


@pytest.mark.parametrize(("classifier", "reason"), [(None, "names no classifier"), ("0", "is a Conv2d, not a linear layer")])
def test_a_classifier_must_be_named_and_linear(classifier, reason):
    """Methods that adapt the classifier get a linear layer or a message."""
    network = Network(sequence(), taps=["0"], classifier=classifier)
    with pytest.raises(CompressError, match=reason):
        _ = network.classifier


class _Moved(nn.Module):
    def __init__(self, *order):
        super().__init__()
        self.order = order

    def forward(self, x):
        return x.permute(0, *self.order)


def test_maps_with_channels_last_are_refused():
    """A map [B, h, w, c] would be read as [B, c, h, w] by every feature method, so its tap is refused; the other is fine."""
    image = torch.zeros(1, 3, 8, 8)
    last = Network(nn.Sequential(nn.Conv2d(3, 4, 3), _Moved(2, 3, 1), nn.Flatten(), nn.LazyLinear(2)), taps=["1"])
    with pytest.raises(CompressError, match=r"tap '1' gives maps \[1, 6, 6, 4\], which have their channels last"):
        find_shapes(last, image)
    assert find_shapes(Network(last.module, taps=["0"]), image).features[0].shape == (1, 4, 6, 6)
