"""ONNX in fp16: what is stored, what the runtime computes, and what does not fit."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from compress.errors import CompressError
from exporters._onnx.fp16 import convert_to_fp16
from exporters.onnx import Onnx


def test_weights_are_halves_and_the_outside_is_float(network, image, images, compute_logits, run, tmp_path):
    """Every weight is float16, the file is half as large, input and output stay float32, and the logits are near."""
    exporter = Onnx(precision="fp16")
    path = exporter.name_file(tmp_path, "student")
    exporter.export(network, image, path)
    model, wanted = onnx.load(path), compute_logits(network, images)
    assert path.name == "student-fp16.onnx"
    assert {tensor.data_type for tensor in model.graph.initializer if tensor.data_type != TensorProto.INT64} == {
        TensorProto.FLOAT16
    }
    assert [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)] == [TensorProto.FLOAT] * 2
    assert abs(run("onnxruntime", path, images) - wanted).max() < 0.01 * np.abs(wanted).max()
    weights = sum(tensor.numel() for tensor in network.state_dict().values())
    assert path.stat().st_size < 2.2 * weights + 4000  # of the graph itself


def test_weight_beyond_fp16_is_refused(network, image, tmp_path):
    """The converter would clamp it to 65504 without a word."""
    with torch.no_grad():
        network.classifier.weight[0, 0] = -1e6
    exporter = Onnx(precision="fp16")
    with pytest.raises(
        CompressError,
        match=r"TinyNet: weight 'classifier\.weight' reaches 1e\+06, beyond the 65504 of fp16; export with precision: fp32",
    ):
        exporter.export(network, image, exporter.name_file(tmp_path, "student"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # what the test is about, in onnx's evaluator
def test_arithmetic_is_half():
    """Weights that fit can give sums that do not: where float16 is really computed in, the file gives infinity.

    Not so in onnxruntime on x86, which computes in float32; so this asks the reference evaluator of onnx.
    """
    constants = [numpy_helper.from_array(np.full((4, 4), value, np.float32), f"{value:g}") for value in (3e4, 1e-4)]
    nodes = [
        helper.make_node("MatMul", ["images", "30000"], ["sum"], "first"),
        helper.make_node("MatMul", ["sum", "0.0001"], ["logits"], "second"),
    ]
    entry, result = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("images", "logits"))
    graph = helper.make_graph(nodes, "graph", [entry], [result], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (exact,) = ReferenceEvaluator(model).run(None, {"images": np.ones((1, 4), np.float32)})
    (half,) = ReferenceEvaluator(convert_to_fp16(model, "a test")).run(None, {"images": np.ones((1, 4), np.float32)})
    assert np.isfinite(exact).all()
    assert np.isinf(half).all()


def attention_like():
    """Transpositions before products with a weight, as in torch's multi-head attention; one is also read elsewhere."""
    random = np.random.default_rng(0)
    constants = [numpy_helper.from_array(random.normal(size=(4, 4)).astype(np.float32), name) for name in ("one", "two")]
    nodes = [
        helper.make_node("Transpose", ["images"], ["turned"], "first", perm=[1, 0, 2]),
        helper.make_node("MatMul", ["turned", "one"], ["product"], "product"),
        helper.make_node("Transpose", ["product"], ["again"], "second", perm=[1, 0, 2]),
        helper.make_node("MatMul", ["again", "two"], ["other"], "other"),
        helper.make_node("Add", ["again", "other"], ["logits"], "sum"),
    ]
    entry, result = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3, 4]) for name in ("images", "logits"))
    graph = helper.make_graph(nodes, "graph", [entry], [result], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_transposed_products_load_and_are_the_same(tmp_path):
    """On such a pair in float16 onnxruntime 1.31 crashes, process and all; ours it loads, and the numbers are the same."""
    model, images = attention_like(), np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32)
    (wanted,) = ReferenceEvaluator(model).run(None, {"images": images})
    half = convert_to_fp16(model, "a test")
    (found,) = ReferenceEvaluator(half).run(None, {"images": images})
    assert np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()
    onnx.save(half, tmp_path / "half.onnx")
    load = "import sys, onnxruntime; onnxruntime.InferenceSession(sys.argv[1])"
    assert subprocess.run([sys.executable, "-c", load, str(tmp_path / "half.onnx")], check=False).returncode == 0
