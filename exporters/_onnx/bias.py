"""Bias correction: move each quantized layer's bias by the mean error of its output, so that the mean is right again.

Rounding weights and clipping activations shifts the mean output of a channel, and shifts add up from layer to layer. Here each
layer is corrected on the outputs of the corrected layers before it. The quantized graph is run in parts, each
from what was kept of the parts before it to the next layer, so that every node runs once.

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv:1906.04721, in the variant
that takes the means from images instead of from batch-norm parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from exporters._exporter import INPUT
from exporters._onnx.calibration import read_batch_size, replace_outputs, split_batches, start_session
from exporters._onnx.graph import find_layers, find_reads, read_weights, sort_nodes

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

IMAGES = 128
"""Means of paired differences settle early, and the activations of all these images are in memory between two parts."""


class Slot(NamedTuple):
    """The bias of a layer, and the output that it moves."""

    node: str
    output: str
    """Of the float graph."""
    bias: str
    axis: int
    """Of the channels in the output."""


def select_images(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Select `IMAGES` of the images [N, C, H, W], evenly spread over their order, or all where there are fewer."""
    count = min(IMAGES, len(images))
    return images[np.arange(count) * len(images) // count]


def give_biases(model: ModelProto) -> None:
    """Give every convolution and linear layer a bias of its own: zeros where it has none, a copy where it shares one."""
    from onnx import numpy_helper

    constants, taken = read_weights(model), set[str]()
    weighted = {name: layer for layer in find_layers(model) for name in layer.nodes}
    for node in model.graph.node:
        layer = weighted.get(node.name)
        if layer is None or node.op_type not in {"Conv", "Gemm"}:
            continue
        bias = node.input[2] if len(node.input) > 2 else ""
        if bias and bias not in constants:
            continue
        if not bias or bias in taken:
            channels = constants[layer.weight].shape[0 if node.op_type == "Conv" or _is_transposed(node) else 1]
            values = constants[bias] if bias else np.zeros(channels, np.float32)
            own = f"{node.name}.bias"
            model.graph.initializer.append(numpy_helper.from_array(values, own))
            node.input[:] = [*node.input[:2], own]
            bias = own
        taken.add(bias)


def _is_transposed(node: NodeProto) -> bool:
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)


def find_slots(model: ModelProto) -> list[Slot]:
    """Find the biases of layers, in the order of the graph."""
    floats = {name for name, array in read_weights(model).items() if array.dtype == np.float32 and array.ndim == 1}
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    nodes = {name for layer in find_layers(model) for name in layer.nodes}
    found = []
    for node in model.graph.node:
        if node.name not in nodes:
            continue
        bias, axis = node.input[2] if len(node.input) > 2 else "", 1
        if node.op_type == "MatMul":
            after = readers.get(node.output[0], [])
            added = after[0].input if len(after) == 1 and after[0].op_type == "Add" else []
            bias, axis = next((name for name in added if name in floats), ""), -1
        if bias in floats and len(readers[bias]) == 1:
            found.append(Slot(node.name, node.output[0], bias, axis))
    return found


def measure_means(
    model: ModelProto, wanted: Sequence[Slot], images: NDArray[np.float32], where: str
) -> dict[str, NDArray[np.float64]]:
    """Measure the mean of each channel of the layers' outputs in a float graph.

    Args:
        model: The float graph.
        wanted: The layers' biases.
        images: Normalised, float32 [N, C, H, W].
        where: What is exported, for messages.

    Returns:
        Means [channels] by node.
    """
    names = [slot.output for slot in wanted]
    session = start_session(replace_outputs(model, names), where)
    parts: dict[str, list[NDArray[np.float64]]] = {slot.node: [] for slot in wanted}
    for chunk in split_batches(images, read_batch_size(model)):
        for slot, array in zip(wanted, session.run(names, {INPUT: chunk}), strict=True):
            parts[slot.node].append(_average_channels(array, slot.axis) * len(chunk))
    count = sum(len(chunk) for chunk in split_batches(images, read_batch_size(model)))
    return {node: np.sum(sums, axis=0) / count for node, sums in parts.items()}


def correct_biases(
    model: ModelProto,
    wanted: Sequence[Slot],
    means: Mapping[str, NDArray[np.float64]],
    images: NDArray[np.float32],
    where: str,
) -> None:
    """Move the biases of a quantized graph, layer by layer.

    Args:
        model: The quantized graph; its biases are changed.
        wanted: The quantized layers' biases.
        means: Of the float graph, from `measure_means`: [channels] by node.
        images: Those on which these means were taken, float32 [N, C, H, W].
        where: What is exported, for messages.
    """
    chunks = list(split_batches(images, read_batch_size(model)))
    sort_nodes(model.graph)  # the quantizer appends what it adds
    run = _PartialRun(model, chunks, where)
    nodes = {node.name: node for node in model.graph.node}
    for slot in wanted:
        output = nodes[slot.node].output[0]  # its name changes where the quantizer takes away the ReLU behind it
        arrays = run.run_until(output)
        seen = np.sum([_average_channels(array, slot.axis) * len(array) for array in arrays], axis=0) / sum(map(len, arrays))
        moved = _shift_bias(model, slot.bias, means[slot.node] - seen)
        if slot.axis == 1:  # the bias of a product is added by the node after it
            run.shift(output, moved)


def _average_channels(array: NDArray[np.float32], axis: int) -> NDArray[np.float64]:
    others = tuple(other for other in range(array.ndim) if other != axis % array.ndim)
    mean: NDArray[np.float64] = array.mean(axis=others, dtype=np.float64)
    return mean


def _shift_bias(model: ModelProto, bias: str, shift: NDArray[np.float64]) -> NDArray[np.float64]:
    """Add a shift [channels] to a bias as it is stored, and return what was really added."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    name = f"{bias}_quantized" if f"{bias}_quantized" in constants else bias
    stored: NDArray[np.float64] = numpy_helper.to_array(constants[name]).astype(np.float64)
    if name == bias:
        moved = (stored + shift).astype(np.float32)
        constants[name].CopyFrom(numpy_helper.from_array(moved, name))
        return moved.astype(np.float64) - stored
    scale: NDArray[np.float64] = numpy_helper.to_array(constants[f"{name}_scale"]).astype(np.float64)
    limits = np.iinfo(np.int32)
    counted = np.clip(stored + np.round(shift / scale), limits.min, limits.max)
    constants[name].CopyFrom(numpy_helper.from_array(counted.astype(np.int32), name))
    return (counted - stored) * scale


class _PartialRun:
    """Runs a sorted graph from its input to one tensor after another, and every node once.

    Tensors that a later node reads are kept for all images; the others are dropped.
    """

    def __init__(self, model: ModelProto, chunks: Sequence[NDArray[np.float32]], where: str) -> None:
        self._model, self._where = model, where
        self._waiting = {node.name: node for node in model.graph.node}
        self._values: list[dict[str, NDArray[Any]]] = [{INPUT: chunk} for chunk in chunks]

    def run_until(self, tensor: str) -> list[NDArray[np.float32]]:
        """Run the graph up to a tensor and return its value for each batch of images."""
        needed = self._find_needed(tensor)
        for node in needed:
            del self._waiting[node.name]
        later = set[str]().union(*(find_reads(node) for node in self._waiting.values()))
        made = [name for node in needed for name in node.output if name in later or name == tensor]
        session = start_session(self._build_part(needed, made), self._where)
        entries = [entry.name for entry in session.get_inputs()]
        for values in self._values:
            values.update(zip(made, session.run(made, {name: values[name] for name in entries}), strict=True))
            for name in [name for name in values if name not in later and name != tensor]:
                del values[name]
        return [values[tensor] for values in self._values]

    def shift(self, tensor: str, amount: NDArray[np.float64]) -> None:
        """Add an amount to each channel, [channels], of a tensor [batch, channels, ...] that was just returned."""
        for values in self._values:
            trailing = (1,) * (values[tensor].ndim - 2)
            values[tensor] = (values[tensor] + amount.reshape(-1, *trailing)).astype(np.float32)

    def _find_needed(self, tensor: str) -> list[NodeProto]:
        """Find the nodes that have to run for a tensor, in order."""
        wanted, found = {tensor}, []
        for node in reversed(self._waiting.values()):
            if wanted.intersection(node.output):
                wanted |= find_reads(node)
                found.append(node)
        return found[::-1]

    def _build_part(self, nodes: list[NodeProto], made: list[str]) -> ModelProto:
        from onnx import ValueInfoProto, helper

        read = set[str]().union(*(find_reads(node) for node in nodes))
        known = {name: array for name, array in self._values[0].items() if name in read}
        entries = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim)
            for name, array in known.items()
        ]
        constants = [tensor for tensor in self._model.graph.initializer if tensor.name in read]
        graph = helper.make_graph(nodes, "part", entries, [ValueInfoProto(name=name) for name in made], constants)
        return helper.make_model(graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version)
