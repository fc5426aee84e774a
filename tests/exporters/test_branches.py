"""Networks whose branches are merged before they are written: fewer convolutions, and the same answers."""

import pytest
import torch
from torch import Tensor, nn

from compress.errors import CompressError
from exporters._torch.trace import copy_network, trace

SHAPE = (2, 3, 32, 32)


class Block(nn.Module):
    """Two branches that add up, as RepVGG's are."""

    def __init__(self, *, factor: float = 1.0) -> None:
        super().__init__()
        self.wide, self.narrow, self.factor = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1), factor

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.wide(images)
        return found if self.narrow is None else found + self.narrow(images)

    def switch_to_deploy(self) -> None:
        with torch.no_grad():
            self.wide.weight[:, :, 1:2, 1:2] += self.factor * self.narrow.weight
            self.wide.bias += self.narrow.bias
        self.narrow = None


def build(**options: float) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Block(**options), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()


def test_a_block_of_the_user_is_merged_in_the_copy_alone() -> None:
    """The traced program has one convolution where the network has two, the same answers, and the network stays as it was."""
    network, images = build(), torch.randn(*SHAPE)
    program = trace(network, torch.zeros(1, *SHAPE[1:]))
    assert [node.target for node in program.graph.nodes].count(torch.ops.aten.conv2d.default) == 1
    torch.testing.assert_close(program.module()(images), network(images), rtol=1e-4, atol=1e-5)
    assert network[0].narrow is not None


def test_a_merge_that_changes_the_answers_is_refused() -> None:
    """A block that merges wrongly never gets into a file."""
    with pytest.raises(CompressError, match="its branches cannot be merged: afterwards its logits differ by"):
        copy_network(build(factor=1.5), SHAPE)


@pytest.mark.parametrize("architecture", ["repvgg_a0", "mobileone_s0", "repvit_m0_9", "ghostnet_100", "mobilenetv3_small_050"])
def test_networks_of_timm_are_merged_and_answer_the_same(architecture: str) -> None:
    """Of those with branches fewer modules are left; the answers are those of the network as it was trained."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = nn.Sequential(timm.create_model(architecture, num_classes=5)).eval()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
    images = torch.randn(*SHAPE)
    copied = copy_network(network, SHAPE)
    convolutions = [sum(isinstance(part, nn.Conv2d) for part in each.modules()) for each in (copied, network)]
    assert (convolutions[0] < convolutions[1]) == architecture.startswith(("repvgg", "mobileone", "repvit"))
    with torch.no_grad():
        expected, found = network(images), copied(images)
    assert float((found - expected).abs().max() / expected.std()) < 1e-3
