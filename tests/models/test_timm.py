"""The networks that timm builds: as large as it says, loading its weights; and any other by its name."""

import re
import subprocess
import sys

import pytest
import torch

from compress import plugins
from compress.errors import CompressError
from compress.models import Network, find_shapes
from compress.training.checkpoint import load_weights

timm = pytest.importorskip("timm", reason="the extra 'timm' is not installed")
from compress.models import timm as family  # noqa: E402  (only where timm is installed)

NAMES = [name.partition(".")[2] for name in plugins.list_names("models") if name.startswith("timm.") and name != "timm.any"]
MOBILE = [name for name in NAMES if "output_stride" in plugins.describe("models", f"timm.{name}").options]


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_the_network_is_timms(name, tmp_path):
    """Weights that timm saved load and give timm's logits, and the docstring says how many there are."""
    theirs = timm.create_model(name, num_classes=10).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = getattr(family, name)(10, 3).eval()
    load_weights(ours, tmp_path / "theirs.pth")
    side = 224 if name.startswith("deit") else 64
    images = torch.randn(1, 3, side, side)
    assert torch.equal(ours(images), theirs(images))
    said = re.search(r"([\d.]+) million parameters with 10 classes", getattr(family, name).__doc__)
    assert said is not None
    assert said[1] == f"{count(ours) / 1e6:.1f}"


@pytest.mark.parametrize("name", MOBILE)
@pytest.mark.parametrize(("output_stride", "channels"), [(16, 1), (8, 3)])
def test_small_images_keep_a_map(name, output_stride, channels):
    """A 32 pixel image has as many cells in the last map as the output stride says, and the first map is as much larger."""
    network = getattr(family, name)(10, channels, output_stride=output_stride)
    features = find_shapes(network, torch.zeros(1, channels, 32, 32)).features
    assert [feature.shape[2] for feature in features] == [8 * 32 // output_stride // 2**stage for stage in range(4)]


def test_a_transformer_takes_small_images():
    """Patches of 4 pixels make 64 tokens and the class token of a CIFAR image; another size is refused with what to change."""
    network = family.deit_tiny_patch16_224(10, 1, image_size=32, patch_size=4)
    assert {feature.shape for feature in find_shapes(network, torch.zeros(1, 1, 32, 32)).features} == {(1, 65, 192)}
    with pytest.raises(CompressError, match=r"VisionTransformer: takes images of 32 × 32 pixels, not of 64 × 64; change data"):
        network(torch.zeros(1, 1, 64, 64))
    with pytest.raises(CompressError, match="patch_size 16 does not divide image_size 40"):
        family.deit_tiny_patch16_224(10, 3, image_size=40)


@pytest.mark.parametrize(
    ("architecture", "size", "taps", "classifier"),
    [
        ("resnet10t", 32, ("layer1", "layer2", "layer3", "layer4"), "fc"),
        ("test_vit", None, ("blocks.0", "blocks.2", "blocks.3", "blocks.5"), "head"),
        ("repvit_m0_9", 64, ("stages.0", "stages.1", "stages.2", "stages.3"), None),  # two heads, so no single classifier
    ],
)
def test_any_network_finds_its_stages(architecture, size, taps, classifier):
    """Taps are the last layer of each resolution, or four blocks of a network with one; the classifier is the linear layer."""
    network = family.any(5, 1, architecture=architecture, image_size=size)
    assert isinstance(network, Network)
    assert network.taps == taps
    assert network.classifier_name == classifier
    side = size or 160  # what timm names for its test networks
    assert find_shapes(network, torch.zeros(1, 1, side, side)).logits.shape == (1, 5)


def test_any_network_takes_named_taps_or_none():
    """Named layers are tapped instead, and none for methods that read logits only."""
    options = {"architecture": "test_efficientnet", "image_size": 32}
    assert family.any(5, 3, taps=("blocks.0", "bn2"), **options).taps == ("blocks.0", "bn2")
    assert family.any(5, 3, taps=(), **options).taps == ()
    with pytest.raises(CompressError, match="EfficientNet has no submodule 'nowhere'"):
        family.any(5, 3, taps=("nowhere",), **options)


@pytest.mark.parametrize(
    ("architecture", "size", "message"),
    [
        ("mobilenetv4_conv_smal", None, r"has no architecture 'mobilenetv4_conv_smal'; did you mean 'mobilenetv4_conv_small'"),
        ("resnet18.a1_in1k", None, "did you mean 'resnet18'"),
        ("hf-hub:someone/something", None, "has no architecture 'hf-hub:someone/something'"),
        ("convnext_atto", 16, r"timm.any: convnext_atto does not take images of \[3, 16, 16\]"),
        ("levit_128s", 40, r"timm.any: levit_128s does not take images of \[3, 40, 40\]"),
        ("swin_tiny_patch4_window7_224", 64, "have their channels last"),
    ],
)
def test_what_cannot_be_built_is_refused(architecture, size, message):
    """Unknown names, names that timm would download, images that do not fit and maps that methods cannot read."""
    with pytest.raises(CompressError, match=message):
        family.any(5, 3, architecture=architecture, image_size=size)


def test_nothing_asks_for_weights(monkeypatch):
    """Building never reads pretrained weights, whatever timm's defaults are."""
    asked = []
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *args, **_: asked.append(args))
    family.mobilenetv3_small_050(5, 3)
    family.any(5, 3, architecture="test_efficientnet", image_size=32)
    assert not asked


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's exporter, of its own and Python's internals
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_exported_file_says_the_same(tmp_path):
    """ONNX of a transformer answers any batch as torch does."""
    import onnxruntime

    from exporters.onnx import Onnx

    network = family.any(5, 3, architecture="test_vit", image_size=32).eval()
    Onnx().export(network, torch.zeros(1, 3, 32, 32), tmp_path / "small.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
    images = torch.randn(3, 3, 32, 32)
    (logits,) = session.run(None, {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), network(images), rtol=1e-4, atol=1e-4)  # other order of sums


@pytest.mark.slow
def test_without_timm_the_message_names_the_extra():
    """Where timm is not installed its networks are still listed, and building one says what to install."""
    program = (
        "import sys; sys.modules['timm'] = None\n"
        "from compress import plugins; from compress.errors import Unreachable\n"
        "try: plugins.load('models', 'timm.mobilenetv4_conv_small')\nexcept Unreachable as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said == (
        "models/timm.mobilenetv4_conv_small needs the package 'timm', which is not installed: "
        "pip install 'edge-compress[timm]'\n"
    )
