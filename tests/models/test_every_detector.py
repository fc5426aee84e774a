"""The contract of a network for detection, over every one of every family."""

import pytest
import torch

from compress import plugins
from compress.errors import CompressError
from compress.models import find_shapes
from compress.tasks import find_levels, load_task

NAMES = [name for name in plugins.list_names("models") if name.startswith("detector.")]
CLASSES = 7
OPTIONS = {
    "detector.any": {"backbone": "torchvision.shufflenet_v2_x1_0"},
    "detector.timm": {"architecture": "mobilenetv4_conv_small"},
}


def build(name, channels=3, **options):
    if name == "detector.timm":
        pytest.importorskip("timm", reason="the extra 'timm' is not installed")
    torch.manual_seed(0)
    return plugins.load("models", name)(CLASSES, channels, **(OPTIONS.get(name, {}) | options))


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_those_of_its_maps(name):
    """One for each cell of one to three maps, from the image's size alone; the last taps are the maps that answer."""
    network = build(name, 1)
    logits, features = find_shapes(network, torch.randn(1, 1, 64, 72))
    levels = find_levels(logits.shape[1], (64, 72))
    assert logits.shape[2] == CLASSES + 4
    assert load_task("detection").count_classes(logits.shape) == CLASSES
    assert [feature.shape[2:] for feature in features[-len(levels) :]] == [(level.height, level.width) for level in levels]
    assert levels[0].stride == 8
    assert all(option.description for option in plugins.describe("models", name).options.values())


@pytest.mark.parametrize("name", ["detector.tiny", "detector.any"])
def test_files_give_what_the_network_gives(name):
    """Logits and boxes as two outputs are the one answer; scores begin at 0.01, and a box holds the centre of its cell."""
    network = build(name).eval()
    with torch.no_grad():
        images = torch.randn(2, 3, 64, 64)
        whole, (logits, boxes) = network(images), network.module.split_answers(images)
    assert torch.equal(whole, torch.cat([logits, boxes], dim=2))
    assert torch.sigmoid(logits).median() == pytest.approx(0.01, rel=0.5)
    first = find_levels(whole.shape[1], (64, 64))[0]
    centres = (torch.arange(first.width) + 0.5) * first.stride
    row = boxes[:, : first.width]
    assert ((row[..., 0] < centres) & (row[..., 2] > centres)).all()
    assert ((row[..., 1] < 4) & (row[..., 3] > 4)).all()


def test_strides_that_the_backbone_has_not_are_refused():
    """The message names those that it has."""
    with pytest.raises(
        CompressError, match=r"answers at strides 16, 32, 64 pixels, and the maps of its backbone have 4, 8, 16, 32"
    ):
        build("detector.resnet18", first_stride=16, levels=3)
