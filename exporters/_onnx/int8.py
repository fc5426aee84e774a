"""Quantize an ONNX graph to int8 with quantize-dequantize pairs (QDQ), by onnxruntime's own static quantizer.

Activations are unsigned, weights signed with one scale for each output channel: signed activations run two to three times
slower on x86, and one scale for a whole weight ruins depthwise convolutions. This module chooses the nodes to quantize:

* Layers (convolutions and products with a weight), all but those that are to be kept.
* Nodes between them that have an integer kernel, but only where all that they read is quantized anyway. So with every layer
  kept the graph is the float one, and a kept layer takes no more of its surroundings into floating point than it must.
* Products are not quantized where they leave a layer: the logits stay float32 instead of snapping to 256 levels.
* In networks with layer normalisation (transformers) only the layers: what the default does to attention ruins them.
* Of a detector never what makes its logits and boxes, behind the last layers and these included: logits would have 256 levels,
  and detections are ranked by them.
* Never normalisations: there is no integer kernel for them, so it would cost accuracy and give nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compress.errors import CompressError
from compress.plugins import suggest_name
from compress.system import quiet
from exporters._exporter import Quantization
from exporters._onnx.bias import correct_biases, find_slots, give_biases, measure_means, select_images
from exporters._onnx.calibration import (
    Range,
    choose_least_squares_range,
    choose_percentile_range,
    count_values,
    measure_extremes,
)
from exporters._onnx.graph import check_graph, drop_unused, find_layers, sort_nodes, strip

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

STATISTICS = ("default", "bias_correction", "mse", "percentile")
"""`default` takes the extremes; `bias_correction` the same and then moves each layer's bias by the mean error of its output
(`bias.py`); `mse` takes the ranges with the smallest squared error; `percentile` cuts off one value in ten thousand."""

_ELEMENTWISE = frozenset({"Add", "Mul", "Concat"})
"""Take several activations."""
_BETWEEN = _ELEMENTWISE | {
    "Relu", "Clip", "LeakyRelu", "Sigmoid", "MaxPool", "AveragePool", "GlobalAveragePool", "Reshape", "Flatten", "Transpose",
    "Squeeze", "Unsqueeze", "Slice", "Pad", "Resize", "Split",
}  # fmt: skip
_PRODUCTS = ("Gemm", "MatMul")


class QuantizableOnnx:
    """A float32 graph and calibration images; see `Quantizable` in `_exporter.py`.

    Args:
        model: With input `images`, float32 [batch, channels, height, width]; it is changed.
        images: Normalised, float32 [N, C, H, W]; `check_images` has accepted them.
        where: What is exported, for messages.
        save: Writes a finished graph to a path.

    Raises:
        CompressError: There are no layers.
    """

    layers: tuple[str, ...]

    def __init__(
        self, model: ModelProto, images: NDArray[np.float32], *, where: str, save: Callable[[ModelProto, Path], None]
    ) -> None:
        import onnx

        found = find_layers(model)
        if not found:
            raise CompressError(f"{where}: the network has no convolution and no linear layer to quantize; use precision: fp32")
        give_biases(model)
        self._model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        self._layers = {layer.name: layer for layer in found}
        ends = _find_last_layers(self._model) if len(self._model.graph.output) > 1 else set()
        self._ends = {name for name, layer in self._layers.items() if ends.issuperset(layer.nodes)}
        self.layers = tuple(name for name in self._layers if name not in self._ends)
        self.always_float = tuple(name for name in self._layers if name in self._ends)
        self._images, self._where, self._save = np.ascontiguousarray(images, np.float32), where, save
        self._ranges: dict[str, dict[str, Range]] = {}
        self._means: dict[str, NDArray[np.float64]] = {}

    def write(self, path: Path, quantization: Quantization) -> None:
        """Write the int8 file, whole or not at all; see the contract.

        Raises:
            CompressError: As in the contract.
            Unreachable: As in the contract.
        """
        self._save(self.quantize(quantization), path)

    def quantize(self, quantization: Quantization) -> ModelProto:
        """Return the quantized graph.

        Raises:
            CompressError: There are no such statistics or layers, or onnxruntime cannot quantize the graph.
        """
        if quantization.statistics not in STATISTICS:
            near = suggest_name(quantization.statistics, list(STATISTICS))
            raise CompressError(f"{self._where}: there are no statistics {quantization.statistics!r}; {near}")
        for layer in quantization.keep:
            if layer not in self.layers:
                raise CompressError(
                    f"{self._where}: there is no layer {layer!r} to keep; {suggest_name(layer, [*self.layers])}"
                )
        layers = [self._layers[name] for name in self.layers if name not in quantization.keep]
        nodes = {node for layer in layers for node in layer.nodes}
        corrected = quantization.statistics == "bias_correction"
        ranges = self._estimate_ranges("default" if corrected else quantization.statistics)
        try:
            model = _insert_pairs(self._model, ranges, _choose_nodes(self._model, nodes), spare_bit=quantization.saturation_fix)
        except (ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise CompressError(
                f"{self._where}: onnxruntime cannot quantize its graph ({reason}); keep that layer in floating point"
            ) from error
        if corrected:
            self._correct_biases(model, nodes)
        _keep_output_float(model)
        strip(model.graph)
        del model.metadata_props[:]
        sort_nodes(model.graph)
        drop_unused(model.graph)
        check_graph(model, self._where, "keep its layers in floating point, or use precision: fp32")
        return model

    def _estimate_ranges(self, statistics: str) -> dict[str, Range]:
        """Estimate the range of every activation, once for each kind of statistics."""
        if statistics not in self._ranges:
            full = self._estimate_ranges("default") if statistics != "default" else {}
            estimate = {"mse": choose_least_squares_range, "percentile": choose_percentile_range}.get(statistics)
            if estimate is None:
                names = _find_activations(self._model)
                self._ranges[statistics] = measure_extremes(self._model, names, self._images, self._where)
            else:
                counts = count_values(self._model, full, self._images, self._where)
                self._ranges[statistics] = {name: estimate(counts[name], full[name]) for name in full}
        return self._ranges[statistics]

    def _correct_biases(self, quantized: ModelProto, nodes: set[str]) -> None:
        images = select_images(self._images)
        slots = find_slots(self._model)
        if not self._means:
            self._means = measure_means(self._model, slots, images, self._where)
        correct_biases(quantized, [slot for slot in slots if slot.node in nodes], self._means, images, self._where)


def _find_activations(model: ModelProto) -> list[str]:
    """Find the float32 tensors that layers and the nodes between them read or write."""
    from onnx import TensorProto

    graph = model.graph
    floats = {
        value.name
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    near = [node for node in graph.node if node.op_type in _BETWEEN or node.name in _find_layer_nodes(model)]
    names = dict.fromkeys(name for node in near for name in (*node.input, *node.output))
    constants = {tensor.name for tensor in graph.initializer}
    return [name for name in names if name in floats and name not in constants]


def _find_layer_nodes(model: ModelProto) -> set[str]:
    return {node for layer in find_layers(model) for node in layer.nodes}


def _find_last_layers(model: ModelProto) -> set[str]:
    """Return the layers' nodes from which outputs are made without another layer in between."""
    makers = {name: node for node in model.graph.node for name in node.output}
    layers, pending, seen, found = (
        _find_layer_nodes(model),
        [output.name for output in model.graph.output],
        set[str](),
        set[str](),
    )
    while pending:
        node = makers.get(pending.pop())
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        if node.name in layers:
            found.add(node.name)
        else:
            pending += node.input
    return found


def _choose_nodes(model: ModelProto, layers: set[str]) -> list[str]:
    """Choose the nodes to quantize, in order: these layers, and nodes between them that read quantized tensors only."""
    nodes = [node for node in model.graph.node if node.name in layers]
    quantized = {node.input[0] for node in nodes}
    quantized |= {node.output[0] for node in nodes if node.op_type not in _PRODUCTS}
    transformer = any(node.op_type == "LayerNormalization" for node in model.graph.node)
    chosen: list[str] = []
    for node in model.graph.node:
        if node.name in layers:
            chosen.append(node.name)
        elif node.op_type in _BETWEEN and not transformer and quantized.issuperset(_list_data_inputs(node)):
            chosen.append(node.name)
            quantized.update(node.output)
    return chosen


def _list_data_inputs(node: NodeProto) -> list[str]:
    return [*node.input] if node.op_type in _ELEMENTWISE else [node.input[0]]


def _insert_pairs(model: ModelProto, ranges: dict[str, Range], nodes: list[str], *, spare_bit: bool) -> ModelProto:
    """Return a copy with these nodes quantized."""
    import onnx

    quiet.import_onnxruntime()
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.quant_utils import add_infer_metadata

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if not nodes:  # the quantizer takes an empty list for all
        return copy
    add_infer_metadata(copy)  # its shapes are inferred: no need to do it again through files
    seen = {
        name: TensorData(lowest=np.float32(found.lowest), highest=np.float32(found.highest)) for name, found in ranges.items()
    }
    kinds = {node.op_type for node in copy.graph.node if node.name in set(nodes)}
    with quiet.silence_root_logger():
        quantizer = QDQQuantizer(
            copy,
            per_channel=True,
            reduce_range=spare_bit,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, seen),
            nodes_to_quantize=nodes,
            nodes_to_exclude=[],
            op_types_to_quantize=sorted(kinds),
            extra_options={"OpTypesToExcludeOutputQuantization": list(_PRODUCTS)},
        )
        quantized: ModelProto = quantizer.quantize_model()
    return quantized


def _keep_output_float(model: ModelProto) -> None:
    """Take away the pair right before an output: it would only round the logits."""
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    for output in graph.output:
        dequantize = makers[output.name]
        quantize = makers.get(dequantize.input[0])
        if dequantize.op_type != "DequantizeLinear" or quantize is None or quantize.op_type != "QuantizeLinear":
            continue
        source = quantize.input[0]
        graph.node.remove(quantize)
        graph.node.remove(dequantize)
        for node in graph.node:
            node.input[:] = [output.name if name == source else name for name in node.input]
            node.output[:] = [output.name if name == source else name for name in node.output]
