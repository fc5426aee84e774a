"""The times of single layers, as runtimes tell them."""

from __future__ import annotations

import pytest

from benchmarks.layers import find_arithmetic, profile
from compress.errors import CompressError
from tests.benchmarks.tiny import Tiny


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_the_layers_of_a_known_network_are_told(name: str, tiny: Tiny) -> None:
    """The pooling and the product of the tiny network are among them, the slowest first, and their shares make the whole."""
    layers = profile(tiny.subjects[name], tiny.images)
    kinds = {layer.kind for layer in layers}
    assert kinds & {"GlobalAveragePool", "ReduceMean", "AvgPool", "Pooling", "Reduce"}
    assert kinds & {"MatMul", "Gemm", "FullyConnected"}
    assert sum(layer.percent for layer in layers) == pytest.approx(100)
    assert [layer.ms for layer in layers] == sorted((layer.ms for layer in layers), reverse=True)
    assert {layer.arithmetic for layer in layers} <= {"float", "moving"}


def test_a_runtime_that_does_not_tell_says_so(tiny: Tiny) -> None:
    """No layer is invented."""
    with pytest.raises(CompressError, match="torch does not tell the time of single layers; profile its ONNX or OpenVINO file"):
        profile(tiny.subjects["torch"], tiny.images)


@pytest.mark.parametrize(
    ("kind", "kernel", "works_on"),
    [
        ("QLinearConv", "CPUExecutionProvider", "int8"), ("QGemm", "CPUExecutionProvider", "int8"),
        ("MatMulInteger", "CPUExecutionProvider", "int8"), ("Convolution", "brgconv_avx512_amx_I8", "int8"),
        ("Conv", "CPUExecutionProvider", "float"), ("Convolution", "brgconv_avx512_f32", "float"),
        ("DequantizeLinear", "CPUExecutionProvider", "moving"), ("Reorder", "reorder_I8", "moving"),
    ],
)  # fmt: skip
def test_what_a_layer_works_on_is_known_by_its_names(kind: str, kernel: str, works_on: str) -> None:
    """The runtimes' own names of int8 operators and kernels are known, and conversions are no int8 arithmetic."""
    assert find_arithmetic(kind, kernel) == works_on
