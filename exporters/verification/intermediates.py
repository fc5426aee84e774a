"""Run a file with every intermediate tensor as an output: ONNX in ONNX Runtime, OpenVINO IR in OpenVINO.

The file is opened in this process: let the runner run a stranger's file first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compress.errors import CompressError
from compress.system import quiet
from exporters._exporter import OUTPUT

Values = NDArray[np.float64]

WEIGHTED = {"Conv", "Gemm", "MatMul", "Convolution", "GroupConvolution"}
"""Operators that multiply with a weight."""
DROPPED_ACTIVATIONS = {"Relu", "Clip", "Clamp"}
"""Operators that a quantizer drops where the range of the quantized tensor behind them ends at the same values."""


class Tensor(NamedTuple):
    """An intermediate tensor of a graph."""

    name: str
    kind: str
    layer: str
    """Name of the layer whose weight makes it, or made the tensor that it activates; its own name where there is none."""
    source: str
    """The tensor that the operator reads first."""


class Graph(NamedTuple):
    """A file, and the functions that run it."""

    tensors: tuple[Tensor, ...]
    """In the order in which they are computed."""
    rounded: Mapping[str, str]
    """From a tensor's name to that of the tensor that holds its quantized value."""
    run: Callable[[NDArray[Any]], dict[str, Values]]
    """From images, as the file takes them, to every floating-point tensor by name, float64 [N, ...]."""
    run_unchanged: Callable[[NDArray[Any]], Values]
    """From images to the logits of the file as it is, with only its own outputs, float64 [N, K]."""


def open_graph(path: Path) -> Graph:
    """Open a file such that its intermediate tensors can be read.

    Raises:
        CompressError: The intermediate tensors of this format cannot be read.
    """
    opener = {".onnx": _open_onnx, ".xml": _open_openvino}.get(path.suffix)
    if opener is None:
        raise CompressError(f"{path}: only ONNX and OpenVINO files can be looked into; give one of these of the same network")
    return opener(path)


def _open_onnx(path: Path) -> Graph:
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    initializers = {tensor.name for tensor in model.graph.initializer}
    quantized = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    restored = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    rounded = {quantized[middle]: name for name, middle in restored.items() if middle in quantized}
    origin = {name: middle for name, middle in restored.items() if middle in initializers}
    tensors = [Tensor(model.graph.input[0].name, "Input", "input", "")]
    reached = {tensors[0].name}
    for node in model.graph.node:
        if reached.isdisjoint(node.input):  # it unpacks a weight
            continue
        reached.update(node.output)
        weight = next((found for name in node.input[1:] if (found := origin.get(name, name)) in initializers), "")
        label = _name_layer(weight) if node.op_type in WEIGHTED else ""
        if node.op_type in DROPPED_ACTIVATIONS:
            label = next((tensor.layer for tensor in tensors[1:] if tensor.name == node.input[0]), "")
        tensors += (Tensor(name, node.op_type, label or name, node.input[0]) for name in node.output if name)

    def run(images: NDArray[Any]) -> dict[str, Values]:
        exposed = onnx.ModelProto()
        exposed.CopyFrom(model)
        known = {value.name for value in exposed.graph.output}
        exposed.graph.output.extend(onnx.ValueInfoProto(name=tensor.name) for tensor in tensors[1:] if tensor.name not in known)
        return {**_name_images(tensors[0].name, images), **_run_onnx(exposed.SerializeToString(), images)}

    return Graph(
        tuple(tensors), rounded, run, lambda images: _run_onnx(model.SerializeToString(), images)[model.graph.output[0].name]
    )


def _name_layer(weight: str) -> str:
    """Return the name of the layer that holds a weight, as the user's module calls it."""
    return weight.removeprefix("module.").removesuffix("_quantized").removesuffix("_compressed").removesuffix(".weight")


def _run_onnx(content: bytes, images: NDArray[Any]) -> dict[str, Values]:
    onnxruntime = quiet.import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs() if "float" in output.type]
    name, size = session.get_inputs()[0].name, session.get_inputs()[0].shape[0]
    parts = [session.run(names, {name: part}) for part in _split_calls(images, size if isinstance(size, int) else len(images))]
    return _join_calls(names, parts)


def _open_openvino(path: Path) -> Graph:
    core = quiet.import_openvino().Core()
    model = core.read_model(path)
    tensors, rounded = [Tensor(model.input(0).any_name, "Input", "input", "")], {}
    names = {node.get_friendly_name(): name_openvino_tensor(node) for node in find_computed_nodes(model)}
    for node in find_computed_nodes(model):
        name, kind = name_openvino_tensor(node), node.get_type_name()
        sources = [node.input_value(index).get_node() for index in range(node.get_input_size())]
        first, second = name_openvino_tensor(sources[0]), sources[1] if len(sources) > 1 else None
        if kind == "FakeQuantize":
            rounded[first] = name
        label = _name_layer(_name_openvino_weight(second)) if kind in WEIGHTED and second is not None else ""
        if kind in DROPPED_ACTIVATIONS or (kind == "Add" and second is not None and _is_bias(second)):
            label = next((tensor.layer for tensor in tensors[1:] if tensor.name == first), "")
        tensors.append(Tensor(name, kind, label or name, first))

    def run(images: NDArray[Any]) -> dict[str, Values]:
        exposed = core.read_model(path)
        for node in [*find_computed_nodes(exposed)]:
            exposed.add_outputs([node.output(0)])
        made = [output.get_node().input_value(0).get_node().get_friendly_name() for output in exposed.outputs]
        shown = [names.get(node, node) for node in made]  # `class` is an output, and holds no fractions
        return {**_name_images(tensors[0].name, images), **_run_openvino(core, exposed, shown, images)}

    def run_unchanged(images: NDArray[Any]) -> Values:
        return _run_openvino(core, core.read_model(path), [OUTPUT], images)[OUTPUT]

    return Graph(tuple(tensors), rounded, run, run_unchanged)


def _is_bias(node: Any) -> bool:
    """Return whether a node is a constant that is stored in float32 or fp16."""
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")


def find_computed_nodes(model: Any) -> Iterator[Any]:
    """Yield the nodes that compute floating-point tensors from the image, not those that unpack a weight."""
    reached = {node.get_friendly_name() for node in model.get_parameters()}
    for node in model.get_ordered_ops():
        sources = {node.input_value(index).get_node().get_friendly_name() for index in range(node.get_input_size())}
        if reached.isdisjoint(sources) or node.get_type_name() == "Result":
            continue
        reached.add(node.get_friendly_name())
        if node.get_output_element_type(0).is_real():
            yield node


def _name_images(name: str, images: NDArray[Any]) -> dict[str, Values]:
    """Return the images by the name of the input, if they are normalised: pixels have no counterpart in other files."""
    return {name: _convert_to_float64(images)} if images.dtype == np.float32 else {}


def name_openvino_tensor(node: Any) -> str:
    """Return the name of a node's result: that of the ONNX tensor where it has one."""
    names = sorted(node.output(0).get_names())
    return OUTPUT if OUTPUT in names else str(names[0]) if names else str(node.get_friendly_name())


def _name_openvino_weight(node: Any) -> str:
    """Return the name of the constant behind a weight that may be stored in fewer bits and scaled."""
    while node.get_type_name() != "Constant":
        if not node.get_input_size():
            return ""
        node = node.input_value(0).get_node()
    return str(node.get_friendly_name()).split("/")[0]


def _run_openvino(core: Any, model: Any, names: Sequence[str], images: NDArray[Any]) -> dict[str, Values]:
    compiled = core.compile_model(
        model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False}
    )
    batch = compiled.input(0).partial_shape[0]
    size = batch.get_length() if batch.is_static else len(images)
    parts = []
    for part in _split_calls(images, size):
        outputs = compiled([part])
        parts.append([np.array(outputs[index]) for index in range(len(names))])
    return _join_calls(names, parts)


def _split_calls(images: NDArray[Any], size: int) -> Iterator[NDArray[Any]]:
    """Yield calls of `size` images; what the last one lacks is repeated from the first images."""
    for start in range(0, len(images), size):
        yield np.ascontiguousarray(images[np.arange(start, start + size) % len(images)])


def _join_calls(names: Sequence[str], parts: Sequence[Sequence[NDArray[Any]]]) -> dict[str, Values]:
    return {
        name: _convert_to_float64(np.concatenate([np.atleast_1d(part[index]) for part in parts]))
        for index, name in enumerate(names)
        if parts[0][index].dtype.kind == "f"
    }


def _convert_to_float64(values: NDArray[Any]) -> Values:
    return values.astype(np.float64)
