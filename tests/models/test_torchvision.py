"""The networks that torchvision builds: as large as it says, loading its weights, and fit for small and gray images."""

import copy
import re

import pytest
import torch
from torch import nn

from compress import plugins
from compress.errors import CompressError
from compress.models import find_shapes
from compress.models import torchvision as family
from compress.training.checkpoint import load_weights, save_weights

models = family.models  # torchvision's own, which can be imported only when `compress` was
NAMES = [name.partition(".")[2] for name in plugins.list_names("models") if name.startswith("torchvision.")]
STRIDED = [name for name in NAMES if "output_stride" in plugins.describe("models", f"torchvision.{name}").options]


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_the_network_is_torchvisions(name):
    """With 1,000 classes it has the parameters that torchvision publishes; the docstring says how many it has with 10."""
    network = getattr(family, name)(1000, 3)
    published = models.get_model_weights(name).DEFAULT.meta["num_params"]
    assert count(network) == published
    saved = published - 990 * (network.classifier.in_features + 1)
    said = re.search(r"([\d.]+) million parameters with 10 classes", getattr(family, name).__doc__)
    assert said is not None
    assert said[1] == f"{saved / 1e6:.1f}"


@pytest.mark.parametrize("name", STRIDED)
@pytest.mark.parametrize(("output_stride", "channels"), [(16, 1), (8, 3)])
def test_small_images_keep_a_map(name, output_stride, channels):
    """A 32 pixel image has as many cells in the last map as the output stride says, and the first map is as much larger."""
    network = getattr(family, name)(10, channels, output_stride=output_stride)
    features = find_shapes(network, torch.zeros(1, channels, 32, 32)).features
    assert features[-1].shape[2:] == (32 // output_stride, 32 // output_stride)
    usual = 8 if name.startswith("shufflenet") else 4  # of its first tap
    assert features[0].shape[2] == 32 * 32 // output_stride // usual


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x1_0"])
def test_torchvisions_weights_load(name, tmp_path):
    """A state dict that torchvision saved fits, also at another output stride, and gives the logits that it gives there."""
    theirs = models.get_model(name, weights=None, num_classes=5).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = getattr(family, name)(5, 3).eval()
    load_weights(ours, tmp_path / "theirs.pth")
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(ours(images), theirs(images))
    load_weights(getattr(family, name)(5, 3, output_stride=8), tmp_path / "theirs.pth")
    save_weights(tmp_path / "ours.safetensors", ours, metadata={})
    load_weights(getattr(family, name)(5, 3), tmp_path / "ours.safetensors")


def test_weights_of_rgb_images_do_not_load_for_gray_ones(tmp_path):
    """Nothing is averaged or repeated without a word: the first layer is named."""
    save_weights(tmp_path / "rgb.safetensors", family.shufflenet_v2_x1_0(5, 3), metadata={})
    with pytest.raises(CompressError, match=r"its first layer 'conv1.0.weight' takes rgb images \(3 channels\).*here are gray"):
        load_weights(family.shufflenet_v2_x1_0(5, 1), tmp_path / "rgb.safetensors")


def test_weights_of_a_large_stem_do_not_load_into_a_small_one(tmp_path):
    """A ResNet for small images has another first convolution, and says so."""
    save_weights(tmp_path / "large.safetensors", family.resnet18(5, 3), metadata={})
    with pytest.raises(CompressError, match=r"1 misshapen: conv1.weight float \[64, 3, 7, 7\] for float \[64, 3, 3, 3\]"):
        load_weights(family.resnet18(5, 3, output_stride=8), tmp_path / "large.safetensors")


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_other_channels_keep_the_spread_of_weights(channels):
    """The first convolution takes gray or more than RGB, and its weights are as spread as torchvision's."""
    layer = family.mobilenet_v2(5, channels).module.get_submodule("features.0.0")
    assert layer.weight.shape == (32, channels, 3, 3)
    assert layer.weight.is_leaf
    assert float(layer.weight.detach().std()) == pytest.approx(
        (2 / (9 * 32)) ** 0.5, rel=0.2
    )  # He et al., fan out; 288 numbers or more


def test_width_and_dropout_reach_the_network():
    """Half the width is a smaller network, and dropout acts in training only."""
    half = family.mobilenet_v3_small(10, 3, width=0.5, dropout=0.9)
    assert count(half) < 0.5 * count(family.mobilenet_v3_small(10, 3))
    images = torch.randn(2, 3, 32, 32)
    half.train()
    for layer in half.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    assert not torch.equal(half(images), half(images))
    assert torch.equal(half.eval()(images), half(images))


def test_statistics_are_learnt_in_hundreds_of_steps():
    """Batch norms of MobileNetV3 follow the data as fast as others', for short schedules."""
    norms = [layer for layer in family.mobilenet_v3_large(5, 3).modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.1}


def test_convnext_says_what_it_takes():
    """Gray and odd sizes from 32 pixels work; less is refused with what to change."""
    network = family.convnext_tiny(5, 1).eval()
    assert network.outputs(torch.zeros(1, 1, 33, 40)).features[-1].shape == (1, 768, 1, 1)
    with pytest.raises(CompressError, match=r"ConvNeXt: takes images of 32 × 32 pixels or more, not of 16 × 40; change data"):
        network(torch.zeros(1, 1, 16, 40))


def test_a_copy_learns_alone():
    """A deep copy shares nothing with the network, taps included."""
    network = family.shufflenet_v2_x1_0(5, 3)
    twin = copy.deepcopy(network)
    twin.classifier.weight.data.zero_()
    assert network.classifier.weight.any()
    assert len(twin.eval().outputs(torch.zeros(1, 3, 16, 16)).features) == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's exporter, of its own and Python's internals
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_exported_file_says_the_same(tmp_path):
    """ONNX of a network without its first halvings answers any batch as torch does."""
    import onnxruntime

    from exporters.onnx import Onnx

    network = family.mobilenet_v3_small(5, 3, width=0.5, output_stride=8).eval()
    Onnx().export(network, torch.zeros(1, 3, 32, 32), tmp_path / "small.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
    images = torch.randn(3, 3, 32, 32)
    (logits,) = session.run(None, {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), network(images), rtol=1e-4, atol=1e-4)  # other order of sums
