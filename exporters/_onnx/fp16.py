"""Convert weights and arithmetic of an ONNX graph to float16; input and output stay in float32.

It halves the file. On x86 it is no faster, for onnxruntime computes there in float32; on processors and accelerators with
float16 arithmetic it is. Weights beyond float16 are refused, because the converter clamps them silently. Activations
beyond it become infinite where the arithmetic really is float16. onnxruntime on x86 computes in float32 between such layers,
even with its optimisations off, so logits do not show that: the gate checks the activations themselves
(`verification/fp16_range.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from compress.errors import CompressError
from compress.system import quiet
from exporters._onnx.graph import check_graph, drop_unused, find_reads, read_weights, sort_nodes, strip

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

LARGEST_FP16 = 65504.0


def convert_to_fp16(model: ModelProto, where: str) -> ModelProto:
    """Convert a float32 graph to float16; the given one may be changed.

    Args:
        model: With float32 input and output, which stay so.
        where: Name of the graph in messages.

    Raises:
        CompressError: A weight is beyond float16, or an operator has no float16 form; the message names it.
    """
    quiet.import_onnxruntime()
    from onnxruntime.transformers.float16 import convert_float_to_float16

    _refuse_beyond_fp16(model, where)
    _multiply_before_transposing(model)
    half: ModelProto = convert_float_to_float16(model, keep_io_types=True)
    sort_nodes(half.graph)  # the converter appends its casts at the end
    strip(half.graph)
    drop_unused(half.graph)
    check_graph(half, where, "this network cannot be written in float16: export with precision: fp32")
    return half


def _refuse_beyond_fp16(model: ModelProto, where: str) -> None:
    for name, array in read_weights(model).items():
        largest = float(np.abs(array).max(initial=0)) if array.dtype == np.float32 else 0.0
        if largest > LARGEST_FP16:
            beyond = f"beyond the {LARGEST_FP16:g} of fp16; export with precision: fp32"
            raise CompressError(f"{where}: weight {name!r} reaches {largest:g}, {beyond}")


def _multiply_before_transposing(model: ModelProto) -> None:
    """Swap a transposition of leading axes with the product by a matrix of weights that follows it; the result is the same.

    onnxruntime 1.31 crashes while it loads a float16 graph with this pair; with its optimizer MatmulTransposeFusion disabled it
    does not. torch's multi-head attention has the pair.
    """
    from onnx import helper

    constants = read_weights(model)
    before = {node.output[0]: node for node in model.graph.node if node.op_type == "Transpose"}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        nodes.append(node)
        transposition = before.get(node.input[0]) if node.op_type == "MatMul" else None
        matrix = constants.get(node.input[1]) if node.op_type == "MatMul" else None
        if transposition is None or matrix is None or matrix.ndim != 2:
            continue
        axes = next((list(attribute.ints) for attribute in transposition.attribute if attribute.name == "perm"), [])
        if axes and axes[-1] == len(axes) - 1:
            result, early = node.output[0], f"{node.output[0]}_untransposed"
            node.input[0], node.output[0] = transposition.input[0], early
            nodes.append(helper.make_node("Transpose", [early], [result], f"{node.name}_transpose", perm=axes))
    read = {output.name for output in model.graph.output}.union(*(find_reads(node) for node in nodes))
    del model.graph.node[:]
    model.graph.node.extend(node for node in nodes if read.intersection(node.output))
