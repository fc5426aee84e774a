"""The contract of a network for segmentation, over every one of every family."""

import pytest
import torch
from torch import nn
from torchvision.models import segmentation

from compress import plugins
from compress.errors import CompressError
from compress.models import count_macs, find_shapes
from compress.training.checkpoint import load_weights
from exporters.onnx import Onnx
from tests.tiny import is_dense

NAMES = [name for name in plugins.list_names("models") if is_dense(name)]
CLASSES = 7
OPTIONS = {
    "segmenter.any": {"backbone": "torchvision.shufflenet_v2_x1_0"},
    "segmenter.timm": {"architecture": "mobilenetv4_conv_small"},
}
LARGE = {"torchvision_segmentation.deeplabv3_resnet50", "torchvision_segmentation.fcn_resnet50"}
SMALL = [name for name in NAMES if name not in LARGE]
STRIDES = {"segmenter.any": 8, "torchvision_segmentation.deeplabv3_mobilenet_v3_large": 16}
"""Of the logits, where they are no quarter of the image, or in torchvision's networks no eighth."""
STRUCTURES = ["segmenter.tiny", "segmenter.any", "torchvision_segmentation.lraspp_mobilenet_v3_large"]
"""One network of each kind, for what follows from the kind alone."""
TORCHVISION = [name for name in NAMES if name.startswith("torchvision_segmentation.")]


def build(name, channels=3, seed=0, **options):
    if name.startswith("segmenter.timm"):
        pytest.importorskip("timm", reason="the extra 'timm' is not installed")
    torch.manual_seed(seed)
    return plugins.load("models", name)(CLASSES, channels, **(OPTIONS.get(name, {}) | options))


@pytest.fixture(scope="module", params=STRUCTURES)
def network(request):
    return build(request.param)


def test_every_family_is_tried():
    """The list of networks is not empty, and none that needs options lacks them."""
    assert {"segmenter.tiny", *TORCHVISION} < set(NAMES)
    assert set(OPTIONS) < set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_summary_and_every_option_are_described(name):
    """`compress list models` and editors have a line for the network and for each of its options."""
    plugin = plugins.describe("models", name)
    assert plugin.summary.endswith(".")
    assert all(option.description for option in plugin.options.values())


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_maps_at_the_stride_that_is_said(name):
    """One logit for each class and cell; taps are maps from shallow to deep, and last the map that is classified."""
    network = build(name)
    logits, features = find_shapes(network, torch.randn(1, 3, 64, 64))
    side = 64 // STRIDES.get(name, 8 if name in TORCHVISION else 4)
    assert logits.shape == (1, CLASSES, side, side)
    sides = [feature.shape[2] for feature in features[:-1]]
    assert sides == sorted(sides, reverse=True)
    assert len(sides) >= 3


@pytest.mark.parametrize("name", STRUCTURES)
def test_any_input_from_32_pixels_gives_logits(name):
    """Gray images, odd sizes, and images that are not square."""
    logits, _ = find_shapes(build(name, 1), torch.randn(1, 1, 33, 50))
    stride = STRIDES.get(name, 8 if name in TORCHVISION else 4)
    assert logits.shape == (1, CLASSES, -(-33 // stride), -(-50 // stride))


def test_an_answer_alone_is_the_answer_in_a_batch(network):
    """No image sees another one: what a batch gives for an image is what it gives alone, but for rounding."""
    images = torch.randn(3, 3, 64, 64)
    network.eval()
    with torch.no_grad():
        torch.testing.assert_close(network(images), torch.cat([network(image[None]) for image in images]))


def test_tapping_changes_no_logit_and_leaves_no_hook(network):
    """`outputs` gives the logits of `forward`; taps run once and are not overwritten, or it would have raised."""
    network.eval()
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(network.outputs(images).logits, network(images))
    assert not any(module._forward_hooks for module in network.modules())


def test_every_tap_reaches_the_logits(network):
    """The gradient of the logits at each tap is not zero: a feature loss there teaches what is shipped."""
    logits, features = network.eval().outputs(torch.randn(2, 3, 64, 64))
    for gradient in torch.autograd.grad(logits.square().sum(), features):
        assert gradient.abs().sum() > 0


def test_the_last_tap_is_what_is_classified():
    """The decoder's map, classified by the 1 × 1 convolution, gives the logits."""
    network = build("segmenter.tiny").eval()
    logits, features = network.outputs(torch.randn(2, 3, 48, 48))
    torch.testing.assert_close(network.module.classifier(features[-1]), logits)


@pytest.mark.parametrize("name", STRUCTURES)
def test_one_seed_gives_one_network(name):
    """Two builds with the same seed are equal, another seed is not, and a state dict carries everything over."""
    first, second, third = build(name).eval(), build(name).eval(), build(name, seed=1).eval()
    images = torch.randn(2, 3, 48, 48)
    assert torch.equal(first(images), second(images))
    assert not torch.equal(first(images), third(images))
    third.load_state_dict(first.state_dict())
    assert torch.equal(first(images), third(images))


@pytest.mark.parametrize("name", ["segmenter.small", "segmenter.timm", *STRUCTURES])
def test_a_first_batch_has_healthy_numbers(name):
    """Freshly initialised networks give finite logits of moderate size, and every parameter receives a gradient."""
    network = build(name).train()
    logits = network(torch.randn(4, 3, 64, 64))
    logits.logsumexp(1).sum().backward()
    assert logits.detach().abs().max() < 50
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize("name", ["segmenter.tiny", "segmenter.mobilenet_v2"])
def test_decoders_are_of_operators_that_stand_int8(name):
    """No transposed convolution, and in our own networks no squeeze-and-excitation: nothing pools a whole map."""
    kinds = {type(module).__name__ for module in build(name).modules()}
    assert not {kind for kind in kinds if "Transpose" in kind or "AvgPool" in kind or "Hardswish" in kind}


def test_a_larger_stride_costs_less():
    """Maps that are shallower than the logits are not decoded."""
    images = torch.randn(1, 3, 64, 64)
    costs = [count_macs(build("segmenter.resnet18", output_stride=stride), images) for stride in (4, 8, 16)]
    assert costs == sorted(costs, reverse=True)
    assert len(set(costs)) == 3


def test_weights_of_a_backbone_have_the_names_that_they_have_there():
    """All layers of torchvision's ResNet-18 but its classifier are found below `backbone.body`."""
    whole = plugins.load("models", "torchvision.resnet18")(CLASSES, 3).module.state_dict()
    ours = build("segmenter.resnet18").module.backbone.body.state_dict()
    assert {name: value.shape for name, value in ours.items()} == {
        name: value.shape for name, value in whole.items() if not name.startswith("fc.")
    }


@pytest.mark.parametrize(
    "name", [name if name in SMALL else pytest.param(name, marks=pytest.mark.slow) for name in TORCHVISION]
)
def test_weights_of_torchvision_load(name, tmp_path):
    """A file that torchvision's own network wrote loads strictly, and gives torchvision's logits once they are enlarged."""
    build_theirs = getattr(segmentation, name.partition(".")[2])
    auxiliary = {} if "lraspp" in name else {"aux_loss": True}
    theirs = build_theirs(weights=None, weights_backbone=None, num_classes=CLASSES, **auxiliary).eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    ours = build(name, **({"auxiliary": True} if auxiliary else {})).eval()
    load_weights(ours, tmp_path / "weights.pt")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        enlarged = nn.functional.interpolate(ours(images), size=(64, 64), mode="bilinear", align_corners=False)
        torch.testing.assert_close(enlarged, theirs(images)["out"])
        if auxiliary:
            place, head = ours.find_auxiliary()
            further = nn.functional.interpolate(head(ours.outputs(images).features[place]), size=(64, 64), mode="bilinear")
            torch.testing.assert_close(further, theirs(images)["aux"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "torchvision.resnet18", "output_stride": 5}, "output_stride 5 is none of its maps' .4, 8, 16, 32."),
        ({"backbone": "timm.deit_tiny_patch16_224"}, "no taps that give maps"),
    ],
)
def test_backbones_without_such_maps_are_refused(options, message):
    """A stride that no map has, and a transformer, are told by name."""
    with pytest.raises(CompressError, match=message):
        plugins.load("models", "segmenter.any")(CLASSES, 3, **options)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's exporter, of its own and Python's internals
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("name", "extra"),
    [("segmenter.tiny", set()), ("segmenter.any", {"Split", "Concat", "MaxPool", "Slice", "Reshape", "Transpose"})],
)
def test_the_exported_graph_is_plain_and_right(name, extra):
    """Nothing but convolutions, activations, sums and bilinear resizing reaches the file, which gives torch's logits."""
    import onnxruntime

    network = build(name).eval()
    images = torch.rand(2, 3, 64, 64)
    model = Onnx().convert(network, images[:1])
    operators = {node.op_type for node in model.graph.node}
    assert operators <= {"Conv", "Relu", "Clip", "Add", "Resize"} | extra
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: images[:1].numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), network(images[:1]), rtol=1e-4, atol=1e-4)
