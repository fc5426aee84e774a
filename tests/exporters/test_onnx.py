"""ONNX: what is in the file, and what is refused."""

from __future__ import annotations

from collections import Counter

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from compress.errors import CompressError
from compress.models import resnet_cifar
from exporters import onnx as exporter_module
from exporters.onnx import Onnx


def test_graph_is_clean_and_named(network, image):
    """Input, output and batch axis have their names, all weights are inside, and no metadata is left."""
    model = Onnx().convert(network, image)
    (entry,), (result,) = model.graph.input, model.graph.output
    dims = [[dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in (entry, result)]
    assert [entry.name, result.name] == ["images", "logits"]
    assert dims == [["batch", 3, 12, 10], ["batch", 5]]
    assert not model.graph.value_info
    assert not [item for item in (*model.graph.node, *model.graph.initializer, entry, result, model) if item.metadata_props]
    assert not [tensor.name for tensor in model.graph.initializer if tensor.external_data]
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 20)]
    assert model.producer_name == "edge-compress"


def test_batch_norm_is_folded_and_dropout_is_gone(network, image):
    """The graph is that of evaluation, although the module was in training mode."""
    kinds = {node.op_type for node in Onnx().convert(network, image).graph.node}
    assert network.training
    assert not kinds & {"BatchNormalization", "Dropout"}


def test_resnet_is_five_operators():
    """Convolution with the batch norm inside, ReLU, sum, pool and classifier; nothing that shapes, copies or does nothing."""
    network = resnet_cifar.resnet8(10, 3, shortcut="B")
    for _ in range(2):
        network(torch.randn(8, 3, 16, 16))
    model = Onnx().convert(network, torch.zeros(1, 3, 16, 16))
    assert Counter(node.op_type for node in model.graph.node) == {
        "Conv": 9, "Relu": 7, "Add": 3, "GlobalAveragePool": 1, "Reshape": 1, "Gemm": 1,
    }  # fmt: skip


class Sequence(nn.Module):
    """Linear layers on rows of pixels, and both ways to write a mean over height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False)
        self.second.load_state_dict(self.first.state_dict())

    def forward(self, images):
        images = self.second(torch.relu(self.first(images)))
        return images.mean((2, 3)) + images.mean((-1, -2), keepdim=True).flatten(1)


def test_products_keep_their_names_and_means_become_pools(images):
    """Where torch transposes a weight it is still called after its layer, equal ones too; and pools give the same numbers."""
    network = Sequence()
    model = Onnx().convert(network, torch.zeros(1, 3, 12, 10))
    names = {tensor.name for tensor in model.graph.initializer}
    kinds = {node.op_type for node in model.graph.node}
    assert "first.weight" in names
    assert not [name for name in names if name.startswith("val_") and len(stored(model)[name].shape) > 1]
    assert "GlobalAveragePool" in kinds
    assert "ReduceMean" not in kinds
    with torch.no_grad():
        wanted = network(torch.from_numpy(images)).numpy()
    (found,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"images": images})
    assert abs(found - wanted).max() < 1e-5


def stored(model):
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.slow
def test_memory_format_and_dtype_do_not_matter(network, image):
    """A channels-last or float64 copy of a network gives the same bytes: no strides leak into the graph."""
    plain = Onnx().convert(network, image).SerializeToString(deterministic=True)
    network.to(memory_format=torch.channels_last)
    assert (
        Onnx().convert(network, image.contiguous(memory_format=torch.channels_last)).SerializeToString(deterministic=True)
        == plain
    )
    assert Onnx().convert(network.double(), image).SerializeToString(deterministic=True) == plain


@pytest.mark.parametrize("opset", [18, 24])
def test_opset_is_what_was_asked_for_and_runs(opset, network, image, images, compute_logits, run, tmp_path):
    """The oldest and the newest operator set are written as such, and onnxruntime runs both."""
    exporter = Onnx(opset=opset)
    path = exporter.name_file(tmp_path, "student")
    exporter.export(network, image, path)
    assert path.name == f"student-fp32-opset{opset}.onnx"
    assert onnx.load(path).opset_import[0].version == opset
    assert abs(run("onnxruntime", path, images) - compute_logits(network, images)).max() < 1e-4


@pytest.mark.parametrize("opset", [11, 17, 25])
def test_opset_that_torch_would_replace_is_refused(opset):
    """Where less than 18 is asked for, torch writes 18; we say so instead."""
    with pytest.raises(CompressError, match=rf"opset {opset} cannot be written; use 18 to 24"):
        Onnx(opset=opset)


def test_fixed_batch_is_fixed(network, image, images, compute_logits, run, tmp_path):
    """With a fixed batch, the file takes exactly that many images, and says so in its name."""
    exporter = Onnx(batch=3)
    path = exporter.name_file(tmp_path, "student")
    exporter.export(network, image, path)
    assert path.name == "student-fp32-batch3.onnx"
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3
    assert abs(run("onnxruntime", path, images[:3]) - compute_logits(network, images[:3])).max() < 1e-4


def test_operator_without_translation_is_named(image):
    """The message names the operator, not the exporter's internals."""

    class Bessel(nn.Module):
        def forward(self, images):
            return torch.special.bessel_j0(images.mean((2, 3)))

    with pytest.raises(
        CompressError, match=r"export of Bessel: ONNX opset 20 has no operator for prims\.bessel_j0; replace it"
    ):
        Onnx().convert(Bessel(), image)


def test_more_than_a_protobuf_holds_is_refused(network, image, monkeypatch):
    """Instead of a second file with the weights, a network above the limit is refused before any work."""
    size_bytes = sum(4 * tensor.numel() for tensor in network.state_dict().values())
    monkeypatch.setattr(exporter_module, "MAX_BYTES", size_bytes)
    assert Onnx().convert(network, image).ByteSize() > 0
    monkeypatch.setattr(exporter_module, "MAX_BYTES", size_bytes - 1)
    with pytest.raises(CompressError, match="exceed the 2 GB of one ONNX file"):
        Onnx().convert(network, image)


def test_control_flow_is_stripped_inside_too(image):
    """Metadata of a subgraph goes as that of the graph does."""

    class Choosing(nn.Module):
        def forward(self, images):
            logits = images.mean((2, 3))
            return torch.cond(logits.sum() > 0, lambda x: x + 1.0, lambda x: x - 1.0, (logits,))

    content = Onnx().convert(Choosing(), image).SerializeToString()
    assert b"test_onnx.py" not in content
    assert b"pkg.torch" not in content
    assert b"If" in content
