"""What a model file says of itself, read from the file without running it: input, outputs, metadata, precision of its weights.

A runtime may convert a type, accept another name, or repeat the first image silently, and logits do not show it: an
application that was written for the expected interface would break on it. Metadata are compared with the manifest, so that a
manifest that was edited, or belongs to another file, is noticed; a file without them proves nothing and is refused. The
precision is taken from the weights, for it sets how far logits may be off, and a manifest can claim any.

This module stands alone (the standard library, Python 3.9): it is copied byte for byte into every bundle, where
`predict.py --self-test` uses it, so that a file is judged by one rule everywhere.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

INPUT, OUTPUT, CLASS, SCORE, BOXES = "images", "logits", "class", "score", "boxes"
METADATA = "edge_compress"
"""Of an OpenVINO graph: where in its `rt_info` the metadata are."""
KEYS = ("classes", "preprocess", "preprocess_by")
"""Metadata that every file must have, and that are compared with the manifest."""
MAX_DEPTH = 32
"""Graphs within graphs, and operators between a weight and its layer; real files have a few."""


class Port(NamedTuple):
    """An input or output."""

    name: str
    kind: str
    """`float32`, `uint8`, or what the format calls it."""
    shape: tuple[int | None, ...] | None
    """`None` for what is only known when the file runs."""


class Interface(NamedTuple):
    """Interface of a file, read from the file itself."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    about: Mapping[str, str]
    """Its metadata, as the exporter wrote them; empty where there are none."""
    precision: str
    """Of its weights: `int8` where a layer's weights are quantized, or else that of most of them."""


class Wanted(NamedTuple):
    """Interface that a file must have, by its entry in the manifest."""

    preprocess: Mapping[str, Any]
    """As in the manifest."""
    classes: tuple[str, ...]
    """Names in label order."""
    precision: str
    batch_size: int | None = None
    """The only number of images that it takes; `None` takes any."""
    takes_pixels: bool = False
    """Whether it normalises by itself, and so takes uint8 [batch, height, width, channels]."""
    gives_class: bool = False
    """Whether it also gives `class` and `score`, each [batch], or of maps of logits `class` alone, [batch, height, width]."""
    logits_shape: tuple[int, ...] | None = None
    """Of one image; `None` is one logit for each class."""
    boxes: int = 0
    """How many of the last numbers of each answer are a box, which is an output of its own."""


def find_violations(found: Interface, wanted: Wanted) -> Iterator[str]:
    """Yield each difference between the interface of a file and the wanted one.

    Args:
        found: Of the file.
        wanted: By its entry in the manifest.
    """
    batch_size, channels = wanted.batch_size, len(wanted.preprocess["mean"])
    sides = (int(wanted.preprocess["height"]), int(wanted.preprocess["width"]))
    fed: tuple[int | None, ...] = (batch_size, *sides, channels) if wanted.takes_pixels else (batch_size, channels, *sides)
    yield from _compare_ports("input", found.inputs, [Port(INPUT, "uint8" if wanted.takes_pixels else "float32", fed)])
    shape = wanted.logits_shape or (len(wanted.classes),)
    given = [Port(OUTPUT, "float32", (batch_size, *shape[:-1], shape[-1] - wanted.boxes))]
    given += [Port(BOXES, "float32", (batch_size, *shape[:-1], wanted.boxes))] * (wanted.boxes > 0)
    further = [Port(CLASS, "int64", (batch_size,)), Port(SCORE, "float32", (batch_size,))]
    if len(wanted.logits_shape or ()) > 1:
        further = [Port(CLASS, "uint8", (batch_size, *sides))]
    yield from _compare_ports("output", found.outputs, given + further * wanted.gives_class)
    if found.precision != wanted.precision:
        yield f"its weights are {found.precision}, and the manifest calls it {wanted.precision}"
    yield from _find_contradictions(found.about, wanted)


def _find_contradictions(about: Mapping[str, str], wanted: Wanted) -> Iterator[str]:
    """Yield what a file's metadata lack, or say otherwise than the manifest."""
    missing = [key for key in KEYS if key not in about]
    if missing:
        yield f"it says nothing of its {', '.join(missing)}: its metadata were stripped, so nothing shows whose file it is"
    if "classes" in about and _parse(about["classes"]) != list(wanted.classes):
        yield f"it says of itself that its classes are {about['classes'][:200]}, not {json.dumps(list(wanted.classes))[:200]}"
    if "preprocess" in about and _parse(about["preprocess"]) != wanted.preprocess:
        prepared = json.dumps(wanted.preprocess, sort_keys=True)
        yield f"it says of itself that images are prepared by {about['preprocess'][:300]}, not by {prepared}"
    by = "file" if wanted.takes_pixels else "caller"
    if about.get("preprocess_by", by) != by:
        yield f"it says of itself that the {about['preprocess_by'][:20]} prepares the images, not the {by}"


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _compare_ports(what: str, found: Sequence[Port], wanted: Sequence[Port]) -> Iterator[str]:
    if len(found) != len(wanted):
        names = "one is expected" if len(wanted) == 1 else f"{', '.join(port.name for port in wanted)} are expected"
        yield f"has {len(found)} {what}s ({', '.join(port.name for port in found)}); {names}"
        return
    for port, expected in zip(found, wanted):  # noqa: B905 (Python 3.9)
        called = what if len(wanted) == 1 else f"{what} {expected.name!r}"
        yield from _compare_port(called, port, expected, open_batch=what == "output")


def _compare_port(what: str, found: Port, wanted: Port, *, open_batch: bool) -> Iterator[str]:
    if found.name != wanted.name:
        yield f"its {what} is called {found.name!r}, not {wanted.name!r}"
    if found.kind != wanted.kind:
        yield f"its {what} is {found.kind}, not {wanted.kind}"
    if found.shape is not None and not _is_same_shape(found.shape, wanted.shape or (), batch_may_be_open=open_batch):
        yield f"its {what} has shape {_format_shape(found.shape)}, not {_format_shape(wanted.shape or ())}"


def _is_same_shape(found: Sequence[int | None], wanted: Sequence[int | None], *, batch_may_be_open: bool) -> bool:
    """Return whether the sizes are the same, as far as they are known; an open batch may have been expected to be fixed."""
    return len(found) == len(wanted) and all(
        here == there or (here is None and (index > 0 or batch_may_be_open))
        for index, (here, there) in enumerate(zip(found, wanted))  # noqa: B905 (Python 3.9)
    )


def _format_shape(shape: Sequence[int | None]) -> str:
    return f"[{', '.join('any' if size is None else str(size) for size in shape)}]"


# ---- precision

RANKS = {"i4": "int8", "u4": "int8", "i8": "int8", "u8": "int8", "f16": "fp16", "bf16": "bf16", "f32": "fp32", "f64": "fp32"}
"""Precision by the type of a stored number; whole numbers of fewer bits count as int8."""


class Constant(NamedTuple):
    """A stored tensor."""

    kind: str
    """A key of `RANKS`, or empty for what is no weight."""
    elements: int
    rounded: bool = False
    """Whether it passes a quantizing operator on its way to a layer."""


def judge_precision(weights: Sequence[Constant], others: Sequence[Constant]) -> str:
    """Return the precision of a file.

    Args:
        weights: With which layers multiply activations.
        others: All other tensors, which count only where no layer has weights.
    """
    if any(each.rounded or RANKS.get(each.kind) == "int8" for each in weights):
        return "int8"  # a ladder may have kept other layers in floating point
    elements: dict[str, int] = {}
    for each in weights or others:
        precision = RANKS.get(each.kind, "int8")
        if precision != "int8":
            elements[precision] = elements.get(precision, 0) + each.elements
    return max(elements, key=elements.__getitem__) if elements else "fp32"  # fp32 is judged most strictly


# ---- OpenVINO

_OPENVINO_WEIGHTED = frozenset(
    {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul"}
)
_OPENVINO_UNPACKING = frozenset({
    "Convert", "FakeQuantize", "FakeConvert", "Multiply", "Reshape", "Squeeze", "Subtract", "Transpose", "Unsqueeze",
})  # fmt: skip


def read_openvino(model: Any) -> Interface:
    """Read a graph that OpenVINO has opened."""
    about = {key: str(model.get_rt_info([METADATA, key]).value) for key in KEYS if model.has_rt_info([METADATA, key])}
    nodes = model.get_ordered_ops()
    weights = [
        weight for node in nodes if node.get_type_name() in _OPENVINO_WEIGHTED for weight in _find_openvino_weights(node)
    ]
    others = [_describe_openvino_constant(node) for node in nodes if node.get_type_name() == "Constant"]
    return Interface(
        tuple(map(_describe_openvino_port, model.inputs)), tuple(map(_describe_openvino_port, model.outputs)), about,
        judge_precision(weights, others),
    )  # fmt: skip


def _find_openvino_weights(layer: Any) -> Iterator[Constant]:
    for port in range(layer.get_input_size()):
        found = _unpack_openvino(layer.input_value(port).get_node(), MAX_DEPTH)
        if found is not None:
            yield found


def _unpack_openvino(node: Any, depth: int) -> Constant | None:
    """Return the constant that a node unpacks; nothing where it depends on the image."""
    kind = node.get_type_name()
    if kind == "Constant":
        return _describe_openvino_constant(node)
    if kind not in _OPENVINO_UNPACKING or not depth:
        return None
    found = [_unpack_openvino(node.input_value(port).get_node(), depth - 1) for port in range(node.get_input_size())]
    if not found or found[0] is None or any(each is None for each in found):
        return None
    return found[0]._replace(rounded=True) if kind.startswith("Fake") else found[0]


def _describe_openvino_constant(node: Any) -> Constant:
    kind = node.get_element_type().get_type_name()
    return Constant(kind if kind in RANKS else "", prod(node.get_output_shape(0)))


def _describe_openvino_port(port: Any) -> Port:
    kind, shape = port.get_element_type().get_type_name(), port.partial_shape
    names = sorted(port.get_names())
    sizes = tuple(size.get_length() if size.is_static else None for size in shape) if shape.rank.is_static else None
    named = next((name for name in (INPUT, OUTPUT, CLASS, SCORE, BOXES) if name in names), next(iter(names), ""))
    return Port(named, {"f32": "float32", "u8": "uint8", "i32": "int32", "i64": "int64"}.get(kind, kind), sizes)


# ---- ONNX, without its package

_ONNX_KINDS = {1: "f32", 2: "u8", 3: "i8", 10: "f16", 11: "f64", 16: "bf16", 21: "u4", 22: "i4"}
_ONNX_NAMES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool", 10: "float16",
    11: "double", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16",
}  # fmt: skip
_ONNX_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedMatMul", "FusedGemm"})
_ONNX_UNPACKING = frozenset({
    "Cast", "DequantizeLinear", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Squeeze", "Transpose", "Unsqueeze",
})  # fmt: skip
_ONNX_QUANTIZING = frozenset({"DequantizeLinear", "QuantizeLinear"})
_ONNX_WHOLE = frozenset({
    "ConvInteger", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits", "QGemm", "QLinearConv",
    "QLinearMatMul",
})  # fmt: skip
"""Layers of whole numbers."""


class _Node(NamedTuple):
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class _Graph(NamedTuple):
    nodes: list[_Node]
    constants: dict[str, Constant]


def read_onnx(content: bytes) -> Interface:
    """Read an ONNX file from its bytes.

    Raises:
        ValueError: They are no ONNX file.
    """
    model = _decode(memoryview(content))
    (graph,) = [_decode(each) for each in _join(model, 7)] or [{}]
    if not graph:
        raise ValueError("it has no graph")
    fixed = {_read_text(_decode(each), 8) for each in _get_messages(graph, 5)}
    inputs = tuple(port for port in map(_describe_onnx_port, _get_messages(graph, 11)) if port.name not in fixed)
    about = {_read_text(item, 1): _read_text(item, 2) for item in map(_decode, _get_messages(model, 14))}
    graphs = list(_read_graphs(graph, MAX_DEPTH))
    weights = [weight for each in graphs for weight in _find_onnx_weights(each)]
    others = [constant for each in graphs for constant in each.constants.values()]
    outputs = tuple(map(_describe_onnx_port, _get_messages(graph, 12)))
    return Interface(inputs, outputs, about, judge_precision(weights, others))


def _decode(message: memoryview) -> dict[int, list[int | memoryview]]:
    """Return the fields of a protobuf message: numbers, and the bytes of what is text or a message."""
    fields: dict[int, list[int | memoryview]] = {}
    place = 0
    while place < len(message):
        tag, place = _read_number(message, place)
        wire, value = tag & 7, 0
        if wire == 2:
            size, place = _read_number(message, place)
            if place + size > len(message):
                raise ValueError("it ends within a field")
            fields.setdefault(tag >> 3, []).append(message[place : place + size])
            place += size
            continue
        if wire == 0:
            value, place = _read_number(message, place)
        elif wire in {1, 5}:
            place += 8 if wire == 1 else 4
        else:
            raise ValueError("it is no protobuf message")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _read_number(message: memoryview, place: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, and the place behind it."""
    value = shift = 0
    while place < len(message) and shift < 70:
        byte = message[place]
        value, shift, place = value | (byte & 127) << shift, shift + 7, place + 1
        if byte < 128:
            return value, place
    raise ValueError("it ends within a number")


def _get_messages(fields: Mapping[int, list[int | memoryview]], field: int) -> list[memoryview]:
    return [each for each in fields.get(field, []) if isinstance(each, memoryview)]


def _join(fields: Mapping[int, list[int | memoryview]], field: int) -> list[memoryview]:
    """Return the one message of a field, if there is any; protobuf reads several as one behind the other."""
    found = _get_messages(fields, field)
    return found if len(found) < 2 else [memoryview(b"".join(found))]


def _get_numbers(fields: Mapping[int, list[int | memoryview]], field: int) -> Iterator[int]:
    """Yield the whole numbers of a field, packed or one by one."""
    for each in fields.get(field, []):
        values, place = [each] if isinstance(each, int) else [], 0
        while not isinstance(each, int) and place < len(each):
            value, place = _read_number(each, place)
            values.append(value)
        yield from (value if value < 1 << 63 else value - (1 << 64) for value in values)


def _read_text(fields: Mapping[int, list[int | memoryview]], field: int) -> str:
    texts = _get_messages(fields, field)
    return bytes(texts[-1]).decode("utf-8", "replace") if texts else ""


def _describe_onnx_port(message: memoryview) -> Port:
    fields = _decode(message)
    name, kind, shape = _read_text(fields, 1), "undefined", None
    for whole in _join(fields, 2):
        for tensor in map(_decode, _join(_decode(whole), 1)):
            code = next(reversed([*_get_numbers(tensor, 1)]), 0)
            kind = _ONNX_NAMES.get(code, f"type {code}")
            for sizes in map(_decode, _join(tensor, 2)):
                shape = tuple(next(reversed([*_get_numbers(_decode(size), 1)]), None) for size in _get_messages(sizes, 1))
    return Port(name, kind, shape)


def _read_graphs(graph: Mapping[int, list[int | memoryview]], depth: int) -> Iterator[_Graph]:
    """Yield a graph and those within its nodes."""
    if not depth:
        raise ValueError("its graphs are nested too deep")
    nodes, constants = [], dict(_describe_onnx_constant(_decode(each)) for each in _get_messages(graph, 5))
    for fields in map(_decode, _get_messages(graph, 1)):
        inputs, outputs = (
            [bytes(each).decode("utf-8", "replace") for each in _get_messages(fields, place)] for place in (1, 2)
        )
        nodes.append(_Node(_read_text(fields, 4), tuple(inputs), tuple(outputs)))
        for attribute in map(_decode, _get_messages(fields, 5)):
            if nodes[-1].kind == "Constant" and outputs:
                for tensor in map(_decode, _join(attribute, 5)):
                    constants[outputs[0]] = _describe_onnx_constant(tensor)[1]
            for inner in (*_join(attribute, 6), *_get_messages(attribute, 11)):
                yield from _read_graphs(_decode(inner), depth - 1)
    yield _Graph(nodes, constants)


def _describe_onnx_constant(tensor: Mapping[int, list[int | memoryview]]) -> tuple[str, Constant]:
    kind = next(reversed([*_get_numbers(tensor, 2)]), 0)
    return _read_text(tensor, 8), Constant(_ONNX_KINDS.get(kind, ""), prod(_get_numbers(tensor, 1)))


def _find_onnx_weights(graph: _Graph) -> Iterator[Constant]:
    """Yield the constants with which the layers of a graph multiply."""
    made = {name: node for node in graph.nodes for name in node.outputs}
    for node in graph.nodes:
        found = [_unpack_onnx(name, graph, made, MAX_DEPTH) for name in node.inputs]
        constants = [each for each in found if each is not None]
        if node.kind in _ONNX_WHOLE:
            yield from (each._replace(rounded=True) for each in constants)
        elif node.kind in _ONNX_WEIGHTED:
            yield from constants[: 1 if len(constants) < len(node.inputs) else 2]  # a bias is none


def _unpack_onnx(name: str, graph: _Graph, made: Mapping[str, _Node], depth: int) -> Constant | None:
    """Return the constant that a value unpacks; nothing where it depends on the image."""
    if name in graph.constants:
        return graph.constants[name]
    node = made.get(name)
    if node is None or node.kind not in _ONNX_UNPACKING or not node.inputs or not depth:
        return None
    found = _unpack_onnx(node.inputs[0], graph, made, depth - 1)
    return found if found is None or node.kind not in _ONNX_QUANTIZING else found._replace(rounded=True)
