"""Networks from plain modules: the layers that are found, and what is said of code that does not fit."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn

from compress.errors import CompressError
from compress.models import Network, build_model, find_shapes, wrap_module

IMAGE = torch.zeros(1, 3, 64, 64)


def make_torchvision(name: str, classes: int) -> nn.Module:
    network: nn.Module = getattr(import_module("torchvision.models"), name)(num_classes=classes)
    return network


@pytest.mark.parametrize(
    ("build", "taps", "classifier"),
    [
        ("resnet18", ("layer1", "layer2", "layer3", "layer4"), "fc"),
        ("mobilenet_v2", ("features.3", "features.6", "features.13", "features"), "classifier.1"),
        ("vgg11", ("features.9", "features.14", "features.19", "features"), "classifier.6"),
        ("densenet121", None, "classifier"),
    ],
)
def test_layers_of_usual_networks_are_found(build: str, taps: tuple[str, ...] | None, classifier: str) -> None:
    """Taps are the last maps of the deepest resolutions, as one would choose them by hand, and they can be tapped."""
    network = wrap_module(make_torchvision(build, 5), IMAGE, name="mine")
    assert network.classifier_name == classifier
    assert taps is None or network.taps == taps
    sizes = [tuple(feature.shape[2:]) for feature in find_shapes(network, IMAGE).features]
    assert len(sizes) == 4
    assert sizes == sorted(set(sizes), reverse=True)


class Plain(nn.Module):
    """Layers that change in place, one that is used twice, and tokens."""

    def __init__(self, classes: int = 4, *, softmax: bool = False) -> None:
        super().__init__()
        self.first, self.shared, self.relu = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace=True)
        self.head, self.softmax = nn.Linear(8, classes), softmax

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.relu(self.shared(self.shared(self.first(images))))
        logits: torch.Tensor = self.head(maps.flatten(2).transpose(1, 2)).mean(dim=1)
        return logits


def test_what_cannot_be_tapped_is_not() -> None:
    """Overwritten maps and layers that run twice are left out, and without a linear layer at the end there is no classifier."""
    network = wrap_module(Plain(), IMAGE, name="mine")
    assert network.taps == ("relu",)
    assert network.classifier_name is None
    assert network.outputs(IMAGE).features[0].shape == (1, 8, 62, 62)


def test_a_network_comes_back_as_it_was_given() -> None:
    """Who names the layers is not overruled."""
    network = Network(Plain(), taps=())
    assert wrap_module(network, IMAGE, name="mine") is network


def test_finding_changes_nothing() -> None:
    """No hook, mode or statistic of the module is left behind."""
    module = make_torchvision("resnet18", 2)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    wrap_module(module, IMAGE, name="mine")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(part.training and not part._forward_hooks for part in module.modules())


FUNCTIONS = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, in_channels, n_classes, width=4):
        super().__init__(nn.Conv2d(in_channels, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, n_classes))

def anyhow(a, b):
    return Net(b, a)

def keywords(pretrained=False, **kwargs):
    return Net(3, kwargs["num_classes"])

def nothing():
    return None

def text(classes, channels):
    return "network"

def other(classes, channels):
    return Net(channels, classes + 1)

def raising(classes, channels):
    raise KeyError("weights.pt")

def strict(classes, channels):
    return nn.Linear(7, classes)

class Dictionary(Net):
    def forward(self, images):
        return {"logits": super().forward(images)}

constant = 3
"""


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module of functions for networks that knows nothing of ours."""
    (tmp_path / "their_networks.py").write_text(FUNCTIONS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("their_networks", None)


@pytest.mark.parametrize("function", ["Net", "anyhow", "keywords"])
def test_sizes_are_given_as_the_function_calls_them(foreign: None, function: str) -> None:
    """Number of classes and of channels reach their arguments by usual names, in any order, or by place."""
    network = build_model(f"their_networks:{function}", 5, IMAGE, {})
    assert (network.taps, network.classifier_name) == (("0",), "3")
    assert network(IMAGE).shape == (1, 5)


def test_options_reach_the_function(foreign: None) -> None:
    """What a recipe says beyond the name are further arguments."""
    assert build_model("their_networks:Net", 5, IMAGE, {"width": 6}).classifier.in_features == 6


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("nothing", r"takes \(\), and no number of classes; let it take \(classes, channels\)"),
        ("text", "is a str, not a torch.nn.Module"),
        ("other", r"gives \[1, 6\] for one image; it must give logits \[1, 5\]"),
        ("raising", r"fails when called with classes=5, channels=3: KeyError: 'weights.pt' \(.*their_networks.py:\d+\)"),
        ("strict", r"cannot take images \[1, 3, 64, 64\]: mat1 and mat2"),
        ("Dictionary", "gives a dict; return compress.Network"),
        ("constant", "is a int, not a function"),
    ],
)
def test_code_that_does_not_fit_is_named(foreign: None, function: str, said: str) -> None:
    """One message with the function, its file and what was wrong, whatever the code did."""
    with pytest.raises(CompressError, match=rf"^models/their_networks:{function} \(.*their_networks.py\): {said}"):
        build_model(f"their_networks:{function}", 5, IMAGE, {})
