"""Read and change OpenVINO graphs, whatever their precision: weights, layers, names, normalisation, class, score, metadata."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

from compress.errors import CompressError
from compress.system import quiet
from exporters._exporter import CLASS, SCORE, About, build_metadata

if TYPE_CHECKING:
    from compress.records import Preprocess

METADATA = "edge_compress"
"""Key of the graph's `rt_info` under which the metadata lie."""
_HAS_MESSAGE = " with a message:"
_WEIGHTED = frozenset({"Convolution", "GroupConvolution", "MatMul"})
_UNPACKING = frozenset({"Convert", "FakeQuantize", "Multiply", "Reshape", "Squeeze", "Subtract", "Transpose", "Unsqueeze"})
"""Operators that may lie between a stored weight and the layer that multiplies with it."""


class Layer(NamedTuple):
    """A convolution or linear layer: the nodes that multiply with one weight."""

    name: str
    nodes: tuple[str, ...]


def translate(content: bytes) -> Any:
    """Translate an ONNX graph to OpenVINO.

    The converter, unlike the mere reader of ONNX files, folds the shape arithmetic around biases into constants. Without that
    nncf sees no biases, and corrects none.

    Raises:
        CompressError: OpenVINO has no form for an operator; the message names it.
    """
    openvino = quiet.import_openvino()
    from openvino.frontend import GeneralFailure, NotImplementedFailure, OpConversionFailure, OpValidationFailure

    try:
        with quiet.keep_root_logger():
            model = openvino.convert_model(BytesIO(content))
    except (GeneralFailure, NotImplementedFailure, OpConversionFailure, OpValidationFailure, RuntimeError) as error:
        raise CompressError(
            f"exporters/openvino: the network cannot be translated ({extract_reason(error)}); use format: onnx"
        ) from error
    name_steadily(model)
    return model


def extract_reason(error: Exception) -> str:
    """Return the cause in an error of OpenVINO or NNCF: the first of a list, with what it says, or else the last line.

    A list begins each of its entries with `-- `; one that has more to say ends in `with a message:`, and a message in an empty
    line.
    """
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    start = next((place for place, line in enumerate(lines) if line.startswith("-- ")), None)
    if start is None:
        return lines[-1]
    head = lines[start].removeprefix("-- ")
    message = list(takewhile(lambda line: line and not line.startswith("-- "), lines[start + 1 :]))
    if not head.endswith(_HAS_MESSAGE) or not message:
        return head
    return f"{head.removesuffix(_HAS_MESSAGE)}: {message[-1].rstrip('.')}"


def name_steadily(model: Any) -> None:
    """Rename nodes that OpenVINO named by a counter of the whole process, so that equal networks give equal bytes."""
    for index, node in enumerate(model.get_ordered_ops()):
        if re.fullmatch(r"[A-Z][A-Za-z]*_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{node.get_type_name()}_{index}")


def find_constants(model: Any) -> Iterator[Any]:
    """Yield the floating-point constants of a graph."""
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Constant" and node.get_element_type().is_real():
            yield node


def find_weighted_nodes(model: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each node that multiplies activations with a weight, from input to output, with the constant of that weight."""
    for node in model.get_ordered_ops():
        weight = _find_weight(node)
        if weight is not None:
            yield node, weight


def _find_weight(node: Any) -> Any | None:
    """Return the constant with which a node multiplies activations, if it does."""
    if node.get_type_name() not in _WEIGHTED:
        return None
    found = (_unpack_constant(node.input_value(port).get_node()) for port in (1, 0))
    return next((weight for weight in found if weight is not None), None)


def _unpack_constant(node: Any) -> Any | None:
    """Return the constant that a node unpacks; nothing where it depends on the image."""
    if node.get_type_name() == "Constant":
        return node
    if node.get_type_name() not in _UNPACKING:
        return None
    sources = [_unpack_constant(node.input_value(port).get_node()) for port in range(node.get_input_size())]
    return None if any(source is None for source in sources) else sources[0]  # `in` would compare nodes, which makes new ones


def find_layers(model: Any, content: bytes, weights: set[str]) -> tuple[Layer, ...]:
    """Find the layers of a graph: whatever multiplies activations with a weight, from input to output.

    A layer has its name in the module where the graph still knows it, and that of its node otherwise. Nodes that share a weight
    are one layer: it is quantized for all or for none.

    Args:
        model: The translated graph.
        content: The ONNX graph that it comes from; translation loses the names of transposed weights.
        weights: Names of the module's parameters.
    """
    read = quiet.import_openvino().Core().read_model(content)
    known = {node.get_friendly_name(): _name_weight(node) for node in read.get_ops() if node.get_type_name() in _WEIGHTED}
    nodes: dict[str, list[str]] = {}
    for node, _ in find_weighted_nodes(model):
        name = node.get_friendly_name()
        weight = known.get(name, "")
        nodes.setdefault(weight.removesuffix(".weight") if weight in weights else name, []).append(name)
    return tuple(Layer(name, tuple(users)) for name, users in nodes.items())


def _name_weight(node: Any) -> str:
    """Return the name of the constant from which a node's weight is made; shapes on the way may still be computed."""
    node = node.input_value(1).get_node()
    while node.get_type_name() in _UNPACKING:
        node = node.input_value(0).get_node()
    name: str = node.get_friendly_name()
    return name


def has_attention(model: Any) -> bool:
    """Return whether activations are multiplied with activations after a softmax."""
    found = [node for node in model.get_ordered_ops() if node.get_type_name() in {"MatMul", "Softmax"}]
    fused = any(node.get_type_name() == "ScaledDotProductAttention" for node in model.get_ordered_ops())
    softmax = any(node.get_type_name() == "Softmax" for node in found)
    return fused or (softmax and any(node.get_type_name() == "MatMul" and _find_weight(node) is None for node in found))


def find_float_nodes(model: Any, layers: tuple[Layer, ...], keep: frozenset[str]) -> list[str]:
    """Find the nodes that stay in floating point with the layers of `keep`: these, and nodes that serve nothing but them.

    Without the latter, an addition or a pool among layers that are all in floating point would still round its inputs, which
    costs accuracy and gains nothing. A node that no layer reads goes with the layers from which it comes.
    """
    layer = {node: each.name for each in layers for node in each.nodes}
    order = [node for node in model.get_ordered_ops() if node.get_type_name() not in {"Constant", "Parameter", "Result"}]
    before = _find_nearest_layers(
        order, layer, lambda node: [node.input_value(port).get_node() for port in range(node.get_input_size())]
    )
    after = _find_nearest_layers(
        order[::-1], layer, lambda node: [target.get_node() for value in node.outputs() for target in value.get_target_inputs()]
    )

    def stays(name: str) -> bool:
        near = {layer[name]} if name in layer else after[name] or before[name]
        return bool(near) and near <= keep

    return [node.get_friendly_name() for node in order if stays(node.get_friendly_name())]


def find_last_layers(model: Any, layers: tuple[Layer, ...]) -> frozenset[str]:
    """Return the names of layers behind which there is no other."""
    layer = {node: each.name for each in layers for node in each.nodes}
    order = [node for node in model.get_ordered_ops() if node.get_type_name() not in {"Constant", "Parameter", "Result"}]
    after = _find_nearest_layers(
        order[::-1], layer, lambda node: [target.get_node() for value in node.outputs() for target in value.get_target_inputs()]
    )
    return frozenset(each.name for each in layers if not any(after[node] for node in each.nodes))


def _find_nearest_layers(order: list[Any], layer: Mapping[str, str], around: Callable[[Any], list[Any]]) -> dict[str, set[str]]:
    """Find for each node the first layers on every way in one direction; `order` begins where the ways end."""
    found: dict[str, set[str]] = {}
    for node in order:
        names = [other.get_friendly_name() for other in around(node)]
        found[node.get_friendly_name()] = set().union(
            *({layer[name]} if name in layer else found.get(name, set()) for name in names)
        )
    return found


def write_metadata(model: Any, about: About | None, *, takes_pixels: bool) -> None:
    """Write the metadata of a file; nothing where nothing is known.

    Under `edge_compress` the graph's `rt_info` then holds what `build_metadata` returns. Its JSON is pure ASCII, for XML cannot
    hold every character of a name.
    """
    if about is None:
        return
    for key, value in build_metadata(about, takes_pixels=takes_pixels).items():
        model.set_rt_info(value, [METADATA, key])


def add_normalisation(model: Any, preprocess: Preprocess) -> Any:
    """Put the normalisation in front of a graph: it then takes uint8 [batch, height, width, channels].

    It comes last, on finished graphs: in int8 and fp16 its constants would be rounded.
    """
    openvino = quiet.import_openvino()
    from openvino.preprocess import PrePostProcessor

    front = PrePostProcessor(model)
    front.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    front.input().model().set_layout(openvino.Layout("NCHW"))
    steps = front.input().preprocess().convert_element_type(openvino.Type.f32)
    steps.mean([255 * mean for mean in preprocess.mean]).scale([255 * std for std in preprocess.std])
    return front.build()


def add_class_and_score(model: Any) -> Any:
    """Put class and score behind a graph: `class`, int64 [batch], and `score`, float32 [batch], after the logits.

    Behind maps of logits comes the map of classes at the size of the image alone, `class`, uint8 [batch, height, width].
    It comes last, on finished graphs: in int8 and fp16 all is then computed in float32 from the logits that the file gives.
    """
    openvino = quiet.import_openvino()
    from openvino import opset13 as operators

    logits = model.output(0).get_node().input_value(0)
    if len(logits.get_partial_shape()) > 2:
        return _add_class_map(model, logits)
    one = operators.constant(1, openvino.Type.i64, "back_count")
    best = operators.topk(logits, one, 1, "max", "value", index_element_type="i64", stable=True, name="back_best")
    label = operators.squeeze(best.output(1), operators.constant([1], openvino.Type.i64, "back_class_axis"), name="back_class")
    shares = operators.softmax(logits, 1, name="back_softmax")
    score = operators.reduce_max(shares, operators.constant([1], openvino.Type.i64, "back_score_axis"), name="back_score")
    for name, node in ((CLASS, label), (SCORE, score)):
        node.output(0).set_names({name})
        model.add_outputs([node.output(0)])
    return model


def _add_class_map(model: Any, logits: Any) -> Any:
    """Enlarge maps of logits to the image, bilinear with corners not aligned, and take the largest."""
    openvino = quiet.import_openvino()
    from openvino import opset13 as operators

    def make_constant(values: Any, name: str) -> Any:
        return operators.constant(values, openvino.Type.i64, name)

    fed = model.input(0)
    shape, by_pixel = fed.get_partial_shape(), fed.get_element_type() == openvino.Type.u8
    sides = [shape[axis].get_length() for axis in ((1, 2) if by_pixel else (2, 3))]
    maps = operators.interpolate(
        logits, make_constant(sides, "back_sizes"), "linear_onnx", "sizes", axes=make_constant([2, 3], "back_axes"),
        coordinate_transformation_mode="half_pixel", name="back_resize",
    )  # fmt: skip
    best = operators.topk(
        maps, make_constant(1, "back_count"), 1, "max", "value", index_element_type="i64", stable=True, name="back_best"
    )
    label = operators.squeeze(best.output(1), make_constant([1], "back_class_axis"), name="back_label")
    answer = operators.convert(label, "u8", name="back_class")
    answer.output(0).set_names({CLASS})
    model.add_outputs([answer.output(0)])
    return model
