"""The model families against their papers: sizes, shortcuts, the given teacher, and what an exporter sees."""

import os
from collections import Counter
from pathlib import Path

import pytest
import torch

from compress.models import find_shapes, resnet_cifar, wide_resnet
from compress.training.checkpoint import load_weights
from exporters.onnx import Onnx

SHARED_DATA = os.environ.get("COMPRESS_TEST_DATA", "")

PARAMETERS = {
    (resnet_cifar.resnet20, 10): 269_722,  # 0.27 M, arXiv:1512.03385 table 6
    (resnet_cifar.resnet32, 10): 464_154,  # 0.46 M
    (resnet_cifar.resnet44, 10): 658_586,  # 0.66 M
    (resnet_cifar.resnet56, 10): 853_018,  # 0.85 M
    (resnet_cifar.resnet110, 10): 1_727_962,  # 1.7 M
    (resnet_cifar.resnet8x4, 100): 1_233_540,  # 1.23 M, RepDistiller
    (resnet_cifar.resnet32x4, 100): 7_433_860,  # 7.43 M, RepDistiller
    (wide_resnet.wrn_16_2, 100): 703_284,  # 0.70 M, RepDistiller
    (wide_resnet.wrn_40_1, 100): 569_780,  # 0.57 M, RepDistiller
    (wide_resnet.wrn_40_2, 100): 2_255_156,  # 2.26 M, RepDistiller
}


@pytest.mark.parametrize(("build", "classes"), PARAMETERS, ids=lambda item: getattr(item, "__name__", item))
def test_parameter_counts_are_the_papers(build, classes):
    """Each network has as many parameters as its paper says."""
    count = sum(parameter.numel() for parameter in build(classes, 3).parameters())
    assert count == PARAMETERS[build, classes]


def test_shortcut_b_adds_two_projections():
    """Option B costs a 1 × 1 convolution and a batch norm at each change of size."""
    plain, projected = (resnet_cifar.resnet20(10, 3, shortcut=kind) for kind in ("A", "B"))
    extra = sum(p.numel() for p in projected.parameters()) - sum(p.numel() for p in plain.parameters())
    assert extra == (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)


def test_shortcut_a_subsamples_and_pads_both_sides():
    """Option A keeps every second pixel between equal numbers of zero channels."""
    images = torch.rand(2, 4, 6, 5)
    result = resnet_cifar._Subsample(4, 8, 2)(images)
    assert torch.equal(result[:, 2:6], images[:, :, ::2, ::2])
    assert result[:, :2].abs().sum() == result[:, 6:].abs().sum() == 0


def test_features_of_the_last_stage_are_what_is_pooled():
    """Pooled and classified, the deepest map gives the logits, in both families."""
    for build in (resnet_cifar.resnet8, wide_resnet.wrn_16_1):
        network = build(5, 3).eval()
        logits, features = network.outputs(torch.rand(2, 3, 16, 16))
        torch.testing.assert_close(network.classifier(features[-1].mean((2, 3))), logits)


def test_stage_outputs_of_resnets_are_activated():
    """ResNet's feature maps come after the ReLU; a Wide ResNet's first two are not activated."""
    assert min(feature.min() for feature in resnet_cifar.resnet8(5, 3).outputs(torch.randn(2, 3, 16, 16)).features) >= 0
    assert wide_resnet.wrn_16_1(5, 3).outputs(torch.randn(2, 3, 16, 16)).features[0].min() < 0


def test_dropout_acts_in_training_only():
    """The option reaches every block, and the network that is shipped is deterministic."""
    network = wide_resnet.wrn_16_1(5, 3, dropout=0.5)
    images = torch.rand(2, 3, 16, 16)
    assert not torch.equal(network.train()(images), network(images))
    assert torch.equal(network.eval()(images), network(images))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's exporter, of its own and Python's internals
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("build", "extra"),
    [(resnet_cifar.resnet8, {"Slice", "Pad"}), (resnet_cifar.resnet8x4, set()), (wide_resnet.wrn_16_1, {"BatchNormalization"})],
)
def test_the_exported_graph_is_plain(build, extra):
    """Nothing but convolutions, activations, sums, one pooling and one product reaches the file: no shape arithmetic."""
    model = Onnx().convert(build(5, 3).eval(), torch.zeros(1, 3, 16, 16))
    operators = Counter(node.op_type for node in model.graph.node)
    assert set(operators) <= {"Conv", "Relu", "Add", "ReduceMean", "GlobalAveragePool", "Reshape", "Flatten", "Gemm"} | extra


def test_large_images_work():
    """The taps of a 32 pixel image are 32, 16 and 8 wide."""
    features = find_shapes(resnet_cifar.resnet8(10, 3), torch.zeros(1, 3, 32, 32)).features
    assert [tuple(feature.shape) for feature in features] == [(1, 16, 32, 32), (1, 32, 16, 16), (1, 64, 8, 8)]


@pytest.mark.skipif(
    not SHARED_DATA, reason="set COMPRESS_TEST_DATA to the folder with teachers/cifar10_resnet56.safetensors and cifar10/"
)
def test_the_given_teacher_has_its_accuracy():
    """The ResNet-56 of akamaster loads into ours and classifies the 10,000 test images of CIFAR-10 with 93.39 % top-1."""
    from compress.data.huggingface import Huggingface
    from compress.preprocess import normalise
    from compress.records import Preprocess

    preprocess = Preprocess(height=32, width=32, channels="rgb", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    network = resnet_cifar.resnet56(10, 3).eval()
    load_weights(network, Path(SHARED_DATA) / "teachers" / "cifar10_resnet56.safetensors")
    test = Huggingface(path=f"{SHARED_DATA}/cifar10").load(preprocess).test
    correct = 0
    with torch.inference_mode():
        for start in range(0, 10_000, 500):
            logits = network(torch.from_numpy(normalise(test.images[start : start + 500], preprocess)))
            correct += int((logits.argmax(1).numpy() == test.labels[start : start + 500]).sum())
    assert correct == 9339
