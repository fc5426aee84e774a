"""ONNX in int8: what is quantized and how well, what is refused, and that every file can be made from one calibration."""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from onnxruntime import quantization
from sklearn.datasets import load_digits
from torch import nn

import exporters
from compress.errors import CompressError
from compress.models import resnet_cifar
from exporters import Quantization
from exporters._onnx.calibration import BINS, Range, choose_least_squares_range, choose_percentile_range
from exporters._onnx.int8 import STATISTICS, QuantizableOnnx
from exporters.onnx import Onnx

LAYERS = (
    "conv1", "layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "layer2.0.conv2", "layer3.0.conv1", "layer3.0.conv2",
    "linear",
)  # fmt: skip
EXAMPLE = torch.zeros(1, 1, 8, 8)
BETWEEN = ["Conv", "Gemm", "Add", "Relu", "GlobalAveragePool", "Reshape", "Slice", "Pad"]


@pytest.fixture(scope="module")
def resnet():
    """A ResNet-8 with uneven batch-norm statistics."""
    torch.manual_seed(3)
    network = resnet_cifar.resnet8(10, 1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return network.eval()


@pytest.fixture(scope="module")
def digits():
    """192 real digits, normalised; the first 64 calibrate."""
    images = load_digits().images[:192, None].astype(np.float32)
    return (images - images.mean()) / images.std()


@pytest.fixture(scope="module")
def wanted(resnet, digits):
    with torch.no_grad():
        return resnet(torch.from_numpy(digits)).numpy()


@pytest.fixture(scope="module")
def quantizable(resnet, digits):
    return Onnx(precision="int8").prepare_int8(resnet, EXAMPLE, digits[:64])


@pytest.fixture
def write(quantizable, tmp_path):
    """Write a file, and return its graph."""

    def written(**rung):
        path = tmp_path / "student.onnx"
        quantizable.write(path, Quantization(**rung))
        return onnx.load(path)

    return written


def exactly(model, images, outputs=None):
    """Run a graph node by node as it is written, in float32: no saturation, whatever the processor."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(outputs, {"images": images})[0]


def fused(model, images):
    """Run a graph as an application does, on the processor's integer kernels."""
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"images": images})[0]


def relative(found, wanted):
    return float(np.sqrt(np.square(found - wanted).mean() / np.square(wanted).mean()))


def stored(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_layers_have_the_names_of_the_module(quantizable):
    """Whoever trained the network recognises what can be kept in floating point, from input to output."""
    assert quantizable.layers == LAYERS


@pytest.mark.parametrize("statistics", STATISTICS)
def test_logits_stay_near_those_of_the_network(statistics, write, digits, wanted):
    """With every way to estimate ranges, on images that were not calibrated on, and on any processor with the spare bit."""
    assert relative(exactly(write(statistics=statistics), digits[64:]), wanted[64:]) < 0.1
    assert relative(fused(write(statistics=statistics, saturation_fix=True), digits[64:]), wanted[64:]) < 0.1


def test_default_is_what_the_runtimes_own_tool_makes(digits, write, tmp_path, monkeypatch):
    """Same logits as from `quantize_static` of onnxruntime with the settings that this project documents."""
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)  # it would like to be given a file

    class Reader(quantization.CalibrationDataReader):
        batches = iter([{"images": digits[:64]}])

        def get_next(self):
            return next(self.batches, None)

    quantization.quantize_static(
        write(keep=LAYERS), tmp_path / "theirs.onnx", Reader(), per_channel=True, op_types_to_quantize=BETWEEN,
        activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
        extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
    )  # fmt: skip
    theirs = exactly(onnx.load(tmp_path / "theirs.onnx"), digits)
    assert np.abs(exactly(write(), digits) - theirs).max() < 1e-5  # one level of an activation moves logits by more than 1e-3


def test_weights_are_signed_by_channel_and_activations_unsigned(write):
    """What the integer kernels of x86 and ARM take: int8 weights with a scale for each channel, uint8 activations."""
    model = write()
    values = stored(model)
    for layer in LAYERS:
        weight, scale = values[f"{layer_weight(layer)}_quantized"], values[f"{layer_weight(layer)}_scale"]
        assert weight.dtype == np.int8
        assert scale.shape == weight.shape[:1]
    points = {values[node.input[2]].dtype for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert points == {np.dtype(np.uint8)}


def layer_weight(layer):
    return f"module.{layer}.weight"


def test_spare_bit_is_spare(write):
    """With the fix no weight uses more than 7 bits, so two products fit in 16; without, some use all 8."""
    largest = {
        fix: max(
            int(np.abs(array.astype(int)).max())
            for array in stored(write(saturation_fix=fix)).values()
            if array.dtype == np.int8
        )
        for fix in (False, True)
    }
    assert largest == {False: 127, True: 64}


def test_with_every_layer_kept_nothing_is_quantized(write, digits, wanted):
    """The ladder's top is the float network."""
    model = write(keep=LAYERS)
    assert not {node.op_type for node in model.graph.node} & {"QuantizeLinear", "DequantizeLinear"}
    assert np.abs(fused(model, digits) - wanted).max() < 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("layer", ["conv1", "layer2.0.conv2", "linear"])
def test_kept_layer_is_float_and_no_other(layer, write):
    """A kept layer's weight is stored as float32; all others are int8."""
    values = stored(write(keep=(layer,)))
    assert values[layer_weight(layer)].dtype == np.float32
    assert {other for other in LAYERS if f"{layer_weight(other)}_quantized" in values} == {*LAYERS} - {layer}


def test_alone_a_layer_takes_nothing_with_it(write):
    """A layer quantized alone, as the sensitivity is measured, leaves the sum behind it in floating point."""
    model = write(keep=tuple(name for name in LAYERS if name != "layer2.0.conv2"))
    (weight,) = (name for name in stored(model) if name.endswith("weight_quantized"))
    assert weight == "module.layer2.0.conv2.weight_quantized"
    assert Counter(node.op_type for node in model.graph.node)["QuantizeLinear"] == 2  # what it reads, and what it gives


def test_batch_does_not_matter(write, digits):
    """An image gets the same logits alone and in company."""
    model = write(saturation_fix=True)
    assert np.array_equal(np.concatenate([fused(model, digits[i : i + 1]) for i in range(8)]), fused(model, digits[:8]))


def test_logits_are_not_rounded(write):
    """The last node is the classifier itself: its float32 sums come out, not 256 levels."""
    model = write()
    (last,) = (node for node in model.graph.node if "logits" in node.output)
    assert last.op_type == "Gemm"


def test_logits_of_a_pool_are_not_rounded_either():
    """Where a network ends in what could be quantized, the pair that would round the logits is taken away."""
    random = np.random.default_rng(0)
    weight = numpy_helper.from_array(random.normal(size=(5, 3, 3, 3)).astype(np.float32), "conv.weight")
    nodes = [
        onnx.helper.make_node("Conv", ["images", "conv.weight"], ["maps"], "conv"),
        onnx.helper.make_node("GlobalAveragePool", ["maps"], ["pooled"], "pool"),
        onnx.helper.make_node("Flatten", ["pooled"], ["logits"], "flatten"),
    ]
    entry = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["batch", 3, 6, 6])
    result = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 5])
    graph = onnx.helper.make_graph(nodes, "graph", [entry], [result], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    wanted = exactly(model, IMAGES)
    made = QuantizableOnnx(model, IMAGES, where="a test", save=lambda *_: None).quantize(Quantization())
    (last,) = (node for node in made.graph.node if "logits" in node.output)
    assert last.op_type == "Flatten"
    assert "QuantizeLinear" in {node.op_type for node in made.graph.node}
    assert relative(exactly(made, IMAGES), wanted) < 0.1


def test_files_do_not_depend_on_those_written_before(quantizable, tmp_path):
    """One calibration serves any number of files, in any order, with equal bytes."""
    rungs = [
        Quantization(),
        Quantization("bias_correction"),
        Quantization("mse", saturation_fix=True),
        Quantization(keep=("linear",)),
    ]
    first, second = [], []
    for files, order in ((first, rungs), (second, rungs[::-1])):
        for rung in order:
            quantizable.write(tmp_path / "student.onnx", rung)
            files.append((tmp_path / "student.onnx").read_bytes())
    assert first == second[::-1]
    assert len(set(first)) == len(rungs)


def test_corrected_biases_make_the_means_right(write, digits, wanted):
    """On the images that it saw, each class's mean logit is the network's; the plain file's is off."""
    shift = {
        statistics: np.abs((exactly(write(statistics=statistics), digits[:64]) - wanted[:64]).mean(axis=0)).max()
        for statistics in ("default", "bias_correction")
    }
    assert shift["bias_correction"] < 1e-3 < shift["default"]  # a bias is rounded to about 1e-4


def test_percentile_is_that_of_numpy():
    """It leaves out the same values as quantiles of the sample do, to the width of two bins."""
    sample = np.random.default_rng(0).normal(size=400_000)
    full = Range(float(sample.min()), float(sample.max()))
    counts = np.histogram(sample, BINS, range=full)[0]
    found, width = (
        choose_percentile_range(counts, full),
        (full.highest - full.lowest) / BINS,
    )
    assert found == pytest.approx(np.quantile(sample, [0.00005, 0.99995]), abs=2 * width)


def test_least_squares_range_beats_the_full_one():
    """With an outlier it clips where the sample is rounded with the least error; without, it does not clip."""
    sample = np.append(np.random.default_rng(0).uniform(0, 1, 100_000), 20.0)

    def error(share):
        step = 20 * share / 255
        return np.square(np.clip(np.round(sample / step), 0, 255) * step - sample).mean()

    full = Range(0.0, 20.0)
    found = choose_least_squares_range(np.histogram(sample, BINS, range=full)[0], full)
    assert error(found.highest / 20) <= 1.05 * min(error(share) for share in np.linspace(0.2, 1, 41))  # bins are 0.01 wide
    even = np.ones(BINS, np.int64)
    assert choose_least_squares_range(even, Range(-1.0, 3.0)) == Range(-1.0, 3.0)


@pytest.mark.parametrize(
    ("rung", "said"),
    [
        ({"statistics": "bias_corection"}, "no statistics 'bias_corection'; did you mean 'bias_correction'"),
        ({"keep": ("linaer",)}, "no layer 'linaer' to keep; did you mean 'linear'"),
    ],
)
def test_unknown_word_is_refused(rung, said, quantizable, tmp_path):
    """A mistyped name stops; it is never taken for the default."""
    with pytest.raises(CompressError, match=said):
        quantizable.write(tmp_path / "student.onnx", Quantization(**rung))
    assert list(tmp_path.iterdir()) == []


class Pooled(nn.Module):
    def __init__(self, *, layer: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2) if layer else nn.Identity()

    def forward(self, images):
        return self.linear(images.mean((2, 3)))


IMAGES = np.random.default_rng(0).normal(size=(4, 3, 6, 6)).astype(np.float32)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (IMAGES[:0], "no calibration images; give some of the training split"),
        (
            np.where(np.arange(4)[:, None, None, None] == 2, np.nan, IMAGES).astype(np.float32),
            "1 of 4 calibration images are not finite",
        ),
        (IMAGES[:, :, 1:], r"calibration images are float32 \[4, 3, 5, 6\]; give normalised float32 \[N, 3, 6, 6\]"),
        (IMAGES.astype(np.float64), r"calibration images are float64 \[4, 3, 6, 6\]"),
    ],
)
def test_images_that_cannot_calibrate_are_refused(images, said):
    """What is wrong with them is said before any work."""
    with pytest.raises(CompressError, match=f"export of Pooled: .*{said}"):
        Onnx(precision="int8").prepare_int8(Pooled(layer=True), torch.zeros(1, 3, 6, 6), images)


def test_network_without_layers_is_refused():
    """There is nothing to quantize; the file would be float under another name."""
    with pytest.raises(CompressError, match="export of Pooled: the network has no convolution and no linear layer"):
        Onnx(precision="int8").prepare_int8(Pooled(layer=False), torch.zeros(1, 3, 6, 6), IMAGES)


def test_activation_that_overflows_is_named(tmp_path):
    """Ranges that are infinite would silently make every other value zero."""
    network = Pooled(layer=True)
    nn.init.constant_(network.linear.weight, 3e38)
    quantizable = Onnx(precision="int8").prepare_int8(network, torch.zeros(1, 3, 6, 6), np.abs(IMAGES) + 10)
    with pytest.raises(CompressError, match="activation 'logits' is not finite on the calibration images"):
        quantizable.write(tmp_path / "student.onnx", Quantization())
    assert list(tmp_path.iterdir()) == []


class Attentive(nn.Module):
    """A transformer of one block."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 16, 4, 4)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, images):
        return self.head(self.block(self.patches(images).flatten(2).transpose(1, 2)).mean(1))


def test_transformers_keep_attention_and_normalisation_float(digits):
    """Only what multiplies with a weight is quantized, under its own name; the logits stay near, with corrected biases, too."""
    torch.manual_seed(0)
    network = Attentive().eval()
    quantizable = Onnx(precision="int8").prepare_int8(network, EXAMPLE, digits[:32])
    assert quantizable.layers == (
        "patches", "block.self_attn.in_proj_weight", "block.self_attn.out_proj", "block.linear1", "block.linear2", "head",
    )  # fmt: skip
    with torch.no_grad():
        wanted = network(torch.from_numpy(digits[32:96])).numpy()
    for statistics in ("default", "bias_correction"):
        model = quantizable.quantize(Quantization(statistics))
        dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
        readers = {node.op_type for node in model.graph.node if dequantized & {*node.input}}
        assert readers <= {"Conv", "Gemm", "MatMul", "Reshape"}  # the patches' output is quantized, for its kernel
        assert relative(exactly(model, digits[32:96]), wanted) < 0.1


@pytest.mark.parametrize(("opset", "batch"), [(18, "dynamic"), (24, 3)])
def test_opset_and_batch_are_what_was_asked_for(opset, batch, network, image, images, compute_logits, tmp_path):
    """The oldest and the newest operator set, and a fixed batch, for which seven images are filled up to nine."""
    exporter = Onnx(precision="int8", opset=opset, batch=batch)
    path = exporter.name_file(tmp_path, "student")
    exporter.prepare_int8(network, image, np.concatenate([images, images[:1]])).write(path, Quantization())
    model = onnx.load(path)
    assert model.opset_import[0].version == opset
    assert relative(exactly(model, images[:3]), compute_logits(network, images[:3])) < 0.1


def test_function_for_any_module_takes_calibration_images(resnet, digits, quantizable, tmp_path):
    """`exporters.export` writes what the first rung of the ladder does, and refuses images that would be ignored."""
    path = exporters.export(
        resnet, EXAMPLE, tmp_path / "a.onnx", format="onnx", options={"precision": "int8"}, calibration=digits[:64]
    )
    quantizable.write(tmp_path / "b.onnx", Quantization())
    assert path.read_bytes() == (tmp_path / "b.onnx").read_bytes()
    with pytest.raises(CompressError, match="calibration images are for precision int8, not fp32; leave them out"):
        exporters.export(resnet, EXAMPLE, tmp_path / "c.onnx", format="onnx", calibration=digits[:64])
