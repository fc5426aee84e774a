"""The networks that timm builds: as large as it says, loading its weights; and any other by its name."""

import re
import subprocess
import sys

import pytest
import torch

from compress import plugins
from compress.data import Batch
from compress.errors import CompressError
from compress.methods import Setting
from compress.models import Network, build_model, find_shapes
from compress.models._adapted import lay_out_tokens
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


def test_tokens_become_maps_of_their_patches() -> None:
    """With `token_maps` each cell is the token of its patch, without the class token; logits and weights are the same."""
    torch.manual_seed(0)
    tokens = family.deit_tiny_patch16_224(10, 1, image_size=32, patch_size=8).eval()
    maps = family.deit_tiny_patch16_224(10, 1, image_size=32, patch_size=8, token_maps=True).eval()
    maps.load_state_dict(tokens.state_dict())
    images = torch.randn(2, 1, 32, 32)
    plain, laid = tokens.outputs(images), maps.outputs(images)
    assert torch.equal(plain.logits, laid.logits)
    for before, after in zip(plain.features, laid.features, strict=True):
        assert after.shape == (2, 192, 4, 4)
        assert torch.equal(after[:, :, 1, 2], before[:, 1 + 4 + 2])


@pytest.mark.parametrize(
    ("tokens", "prefix", "ratio", "shape"),
    [(9, 1, 0.5, (2, 4)), (9, 1, 2.0, (4, 2)), (16, 0, 1.0, (4, 4)), (5, 4, 1.0, (1, 1))],
)
def test_tokens_of_images_that_are_not_square(tokens: int, prefix: int, ratio: float, shape: tuple[int, int]) -> None:
    """The grid has the shape of the image, and what is no grid is refused."""
    values = torch.arange(tokens * 3.0).view(1, tokens, 3)
    assert lay_out_tokens(values, prefix=prefix, ratio=ratio).shape == (1, 3, *shape)
    with pytest.raises(CompressError, match="are no grid"):
        lay_out_tokens(values, prefix=tokens, ratio=ratio)


def test_a_transformer_teaches_by_its_maps() -> None:
    """Methods on maps, which refuse tokens, take them laid out; a student of convolutions learns from the hint."""
    image = torch.zeros(1, 3, 32, 32)
    student = build_model("timm.mobilenetv3_small_050", 5, image, {"output_stride": 8})
    for name in ("fitnet", "attention_transfer", "pkd"):
        for token_maps in (False, True):
            given = {"architecture": "test_vit", "image_size": 32, "token_maps": token_maps}
            setting = Setting(student, (build_model("timm.any", 5, image, given),), image, 5)
            if token_maps:
                method = plugins.load("methods", name)(setting)
                terms = method(method.step(Batch(torch.randn(8, 3, 32, 32), torch.arange(8) % 5)))
                assert all(value.isfinite() for value in terms.values())
            else:
                with pytest.raises(CompressError, match="tap a layer with maps"):
                    plugins.load("methods", name)(setting)


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
