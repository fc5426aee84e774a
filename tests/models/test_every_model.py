"""The contract of a network for classification, over every model of every family: a new file is tested the moment it exists."""

import pytest
import torch
from torch import nn

from compress import plugins
from compress.models import find_shapes
from tests.tiny import is_dense

NAMES = [name for name in plugins.list_names("models") if not is_dense(name) and not name.startswith("detector.")]
CLASSES = 7
OPTIONS = {
    "timm.any": {"architecture": "mobilenetv3_small_050", "image_size": 32},
    "timm.deit_tiny_patch16_224": {"image_size": 16, "patch_size": 4},
    "resnet_cifar.resnet8 shortcut B": {"shortcut": "B"},
}
"""What must be said of a network, or makes it small."""
SIZES = {
    "resnet_cifar.resnet8": ("resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110"),
    "resnet_cifar.resnet8x4": ("resnet32x4",),
    "wide_resnet.wrn_16_1": ("wrn_40_1",),
    "wide_resnet.wrn_16_2": ("wrn_28_2", "wrn_40_2"),
    "timm.mobilenetv3_small_050": ("mobilenetv3_small_100",),
    "torchvision.mobilenet_v3_small": ("mobilenet_v3_large",),
    "torchvision.resnet18": ("resnet34",),
}
"""The smallest network of a structure, and those that have more of the same blocks or wider ones."""
LARGER = {f"{name.partition('.')[0]}.{other}" for name, others in SIZES.items() for other in others}
STRUCTURES = [*(name for name in NAMES if name not in LARGER), "resnet_cifar.resnet8 shortcut B"]
"""One network of each structure, for what follows from the structure alone; a new network is one until it is listed above."""
BUILT_OFTEN = [name for name in STRUCTURES if name not in {"torchvision.resnet50", "torchvision.convnext_tiny"}]
"""All but those of more than 20 million parameters, which are built once."""


def build(name, channels=3, seed=0):
    if name.startswith("timm."):
        pytest.importorskip("timm", reason="the extra 'timm' is not installed")
    torch.manual_seed(seed)
    return plugins.load("models", name.split()[0])(CLASSES, channels, **OPTIONS.get(name, {}))


def images_for(network, count, size, channels=3):
    """Return noise of a size, or of the nearest one that the network takes."""
    size = max(size, getattr(network, "smallest", size))
    size = min(size, getattr(network, "largest", None) or size)
    return torch.randn(count, channels, size, size)


@pytest.fixture(scope="module", params=STRUCTURES)
def network(request):
    return build(request.param)


def test_larger_networks_are_named_as_they_are():
    """The list of those that share a structure names networks that exist."""
    assert set(NAMES) >= LARGER | set(SIZES)


@pytest.mark.parametrize("name", NAMES)
def test_the_summary_and_every_option_are_described(name):
    """`compress list models` and editors have a line for the network and for each of its options."""
    plugin = plugins.describe("models", name)
    assert plugin.summary.endswith(".")
    assert all(option.description for option in plugin.options.values())


@pytest.mark.parametrize("name", BUILT_OFTEN)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 17)])
def test_any_input_from_8_pixels_gives_logits(name, channels, size):
    """Gray and RGB, even and odd sizes: one logit per class and image; a transformer says which size it takes."""
    network = build(name, channels)
    logits, features = find_shapes(network, images_for(network, 1, size, channels))
    assert logits.shape == (1, CLASSES)
    assert {feature.ndim for feature in features} in ({4}, {3})


@pytest.mark.parametrize("name", [*NAMES, "resnet_cifar.resnet8 shortcut B"])
def test_features_go_from_shallow_to_deep(name):
    """Along the taps maps never grow and channels never shrink; a transformer's tokens stay as many and as wide."""
    network = build(name)
    logits, features = find_shapes(network, images_for(network, 1, 16))
    assert logits.shape == (1, CLASSES)
    assert network.classifier is [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    assert len(features) >= 2
    if features[0].ndim == 3:
        assert len({feature.shape for feature in features}) == 1
        return
    sides = [feature.shape[2] for feature in features]
    widths = [feature.shape[1] for feature in features]
    assert sides == sorted(sides, reverse=True)
    assert sides[0] > sides[-1]
    assert widths == sorted(widths)


def test_the_last_map_is_what_is_pooled(network):
    """Every cell of the last map has the same gradient: nothing but global average pooling lies behind it."""
    logits, features = network.eval().outputs(images_for(network, 2, 64))
    if features[-1].ndim == 3:
        pytest.skip("a transformer gives tokens")
    (gradient,) = torch.autograd.grad(logits.square().sum(), features[-1])
    assert gradient.shape[2] > 1
    torch.testing.assert_close(gradient, gradient.mean((2, 3), keepdim=True).expand_as(gradient))


def test_the_classifier_is_the_last_linear_layer(network):
    """The named classifier gives the logits."""
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    assert network.classifier is last
    seen = []
    handle = last.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    logits = network.eval()(images_for(network, 2, 16))
    handle.remove()
    assert seen[0] is logits


def test_tapping_changes_no_logit_and_leaves_no_hook(network):
    """`outputs` gives the logits of `forward`; taps run once and are not overwritten, or it would have raised."""
    network.eval()
    images = images_for(network, 2, 16)
    assert torch.equal(network.outputs(images).logits, network(images))
    assert not any(module._forward_hooks for module in network.modules())


def test_every_tap_reaches_the_logits(network):
    """The gradient of the logits at each tap is not zero: a feature loss there teaches what is shipped."""
    logits, features = network.eval().outputs(images_for(network, 2, 16))
    for gradient in torch.autograd.grad(logits.square().sum(), features):
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("name", BUILT_OFTEN)
def test_one_seed_gives_one_network(name):
    """Two builds with the same seed are equal, another seed is not, and a state dict carries everything over."""
    first, second, third = build(name), build(name), build(name, seed=1)
    weights, again, others = first.state_dict(), second.state_dict(), third.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in weights.items())
    assert not all(torch.equal(value, others[key]) for key, value in weights.items())
    third.load_state_dict(weights)
    images = images_for(first, 2, 8)
    assert torch.equal(first.eval()(images), third.eval()(images))


@pytest.mark.parametrize("name", BUILT_OFTEN)
def test_a_first_batch_has_healthy_numbers(name):
    """Freshly initialised networks give finite logits of moderate size, and every parameter receives a gradient."""
    network = build(name).train()
    logits = network(images_for(network, 8, 16))
    logits.logsumexp(1).sum().backward()
    assert logits.detach().abs().max() < 20
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())


def test_shapes_leaves_statistics_and_modes_alone(network):
    """Asking for shapes trains nothing: batch-norm buffers, train and eval modes stay."""
    network.train()
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    first.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    find_shapes(network, images_for(network, 1, 16))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training
    assert not first.training
    network.train()
