"""Read and change ONNX graphs, whatever their precision: names, pools, normalisation, class and score, metadata.

Everything here works on a protobuf in memory and depends on nothing but its content, so equal networks give equal bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compress.errors import CompressError
from exporters._exporter import CLASS, INPUT, OUTPUT, SCORE, About, build_metadata

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

    from compress.records import Preprocess

_WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
"""Operators with an integer kernel that multiply their first input with a weight, their second."""
_NORMALISED = "images_normalised"


class Layer(NamedTuple):
    """A convolution or linear layer: the nodes that multiply with one weight."""

    name: str
    """The weight's name without `.weight`, as the module calls it."""
    weight: str
    nodes: tuple[str, ...]


def read_weights(model: ModelProto) -> dict[str, NDArray[Any]]:
    """Read all initializers by name: weights [outputs, inputs, ...], biases [outputs], constants of any shape."""
    from onnx import numpy_helper

    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def find_layers(model: ModelProto) -> tuple[Layer, ...]:
    """Find the layers of a graph: whatever multiplies activations with a float32 weight, from input to output.

    A weight that several nodes share makes one layer of them: it is quantized for all or for none.
    """
    from onnx import TensorProto

    matrices = {
        tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) >= 2
    }
    users: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type in _WEIGHTED and node.input[1] in matrices and node.input[0] not in matrices:
            users.setdefault(node.input[1], []).append(node.name)
    return tuple(Layer(_name_layer(weight), weight, tuple(nodes)) for weight, nodes in users.items())


def _name_layer(weight: str) -> str:
    return weight.removesuffix(".weight").removeprefix("module.")  # models of this project hold the network as `module`


def strip(graph: GraphProto) -> None:
    """Remove shapes, metadata and documentation, in subgraphs too."""
    del graph.value_info[:], graph.metadata_props[:]
    graph.doc_string = ""
    for item in (*graph.input, *graph.output, *graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""
    strip_nodes(graph.node)


def strip_nodes(nodes: Iterable[NodeProto]) -> None:
    """Remove metadata and documentation of nodes and of their subgraphs."""
    for node in nodes:
        del node.metadata_props[:]
        node.doc_string = ""
        for attribute in node.attribute:
            attribute.doc_string = ""
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                strip(graph)


def restore_names(model: ModelProto, parameters: Mapping[str, NDArray[Any]]) -> None:
    """Give a transposed weight its name again: torch's exporter folds the transposition and calls the result `val_7`.

    Args:
        model: The graph; initializers are renamed.
        parameters: Of the module, by name; those of linear layers are [outputs, inputs].
    """
    found = read_weights(model)
    originals: dict[tuple[str, tuple[int, ...], bytes], list[str]] = {}
    for name, array in parameters.items():
        if array.ndim == 2 and name not in found:
            originals.setdefault(_read_content(array.T), []).append(name)
    renamed: dict[str, str] = {}
    for name, array in found.items():
        if name not in parameters and (names := originals.get(_read_content(array))):
            renamed[name] = names.pop(0)
    for tensor in model.graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]


def _read_content(array: NDArray[Any]) -> tuple[str, tuple[int, ...], bytes]:
    return str(array.dtype), array.shape, array.tobytes()


def restore_pools(model: ModelProto) -> None:
    """Turn means over height and width into global average pooling, which runtimes know in int8, too."""
    import onnx

    constants = read_weights(model)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    rank = {value.name: len(value.type.tensor_type.shape.dim) for value in (*inferred.value_info, *inferred.input)}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        nodes += _build_pool(node) if _is_pool(node, constants, rank) else [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    drop_unused(model.graph)


def _is_pool(node: NodeProto, constants: Mapping[str, NDArray[Any]], rank: Mapping[str, int]) -> bool:
    if node.op_type != "ReduceMean" or len(node.input) < 2 or rank.get(node.input[0]) != 4:
        return False
    axes = constants.get(node.input[1])
    return axes is not None and sorted(int(axis) % 4 for axis in axes.reshape(-1)) == [2, 3]


def _build_pool(node: NodeProto) -> list[NodeProto]:
    from onnx import helper

    source, result = node.input[0], node.output[0]
    if next((attribute.i for attribute in node.attribute if attribute.name == "keepdims"), 1):
        return [helper.make_node("GlobalAveragePool", [source], [result], node.name)]
    pooled = f"{result}_pooled"
    return [
        helper.make_node("GlobalAveragePool", [source], [pooled], node.name),
        helper.make_node("Flatten", [pooled], [result], f"{node.name}_flatten", axis=1),
    ]


def drop_unused(graph: GraphProto) -> None:
    """Remove initializers that no node reads."""
    used = {output.name for output in graph.output}.union(*(find_reads(node) for node in graph.node))
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def find_reads(node: NodeProto) -> set[str]:
    """Find the names that a node and its subgraphs read, those that a subgraph makes for itself included."""
    found = set(node.input)
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            found.update(output.name for output in graph.output)
            found.update(*(find_reads(inner) for inner in graph.node))
    return found


def sort_nodes(graph: GraphProto) -> None:
    """Put every node after those whose results it reads; nodes in order keep their places."""
    waiting: list[NodeProto] = list(graph.node)
    ordered: list[NodeProto] = []
    pending = {name for node in waiting for name in node.output}
    while waiting:
        blocked: list[NodeProto] = []
        for node in waiting:
            if pending.isdisjoint(find_reads(node) - set(node.output)):
                ordered.append(node)
                pending.difference_update(node.output)
            else:
                blocked.append(node)
        waiting = blocked
    del graph.node[:]
    graph.node.extend(ordered)


def check_preprocess(preprocess: Preprocess, shape: tuple[int, ...], where: str) -> None:
    """Check that a preprocessing makes images of the shape that a network takes.

    Args:
        preprocess: Size and channels.
        shape: Of an example, [1, channels, height, width].
        where: What is exported, for the message.

    Raises:
        CompressError: It does not, or its mean and std do not fit its channels.
    """
    from compress.preprocess import compute_scale_shift

    made = (len(compute_scale_shift(preprocess)[0]), preprocess.height, preprocess.width)
    if made != shape[1:]:
        raise CompressError(
            f"{where}: the preprocessing makes images {list(made)}, the example is {list(shape[1:])}; make them agree"
        )


def add_normalisation(model: ModelProto, preprocess: Preprocess) -> None:
    """Put the normalisation in front of a graph: it then takes uint8 [batch, height, width, channels].

    It comes last, on finished graphs: in int8 the two float operations would cost more than they do in float. The transposition
    stands before the arithmetic, because multiplying along a last axis of three is slow. The product and the sum are two
    float32 operations with the constants of `compress.preprocess`, so the result is that of training.
    """
    from onnx import TensorProto, helper, numpy_helper

    from compress.preprocess import compute_scale_shift

    scale, shift = (array.reshape(1, -1, 1, 1) for array in compute_scale_shift(preprocess))
    (entry,) = (value for value in model.graph.input if value.name == INPUT)
    batch = entry.type.tensor_type.shape.dim[0]
    channels = scale.shape[1]
    pixels = helper.make_tensor_value_info(
        INPUT,
        TensorProto.UINT8,
        [batch.dim_param or batch.dim_value, preprocess.height, preprocess.width, channels],
    )
    for node in model.graph.node:
        node.input[:] = [_NORMALISED if name == INPUT else name for name in node.input]
    front = [
        helper.make_node("Transpose", [INPUT], ["images_planar"], "front_transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["images_planar"], ["images_float"], "front_cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["images_float", "front_scale"], ["images_scaled"], "front_scaling"),
        helper.make_node("Add", ["images_scaled", "front_shift"], [_NORMALISED], "front_shifting"),
    ]
    nodes = [*front, *model.graph.node]
    del model.graph.node[:], model.graph.input[:]
    model.graph.node.extend(nodes)
    model.graph.input.append(pixels)
    model.graph.initializer.extend([
        numpy_helper.from_array(scale, "front_scale"), numpy_helper.from_array(shift, "front_shift"),
    ])  # fmt: skip


def add_class_and_score(model: ModelProto) -> None:
    """Put class and score behind a graph: it then also gives `class`, int64 [batch], and `score`, float32 [batch].

    Behind maps of logits comes the map of classes at the size of the image alone, `class`, uint8 [batch, height, width].
    It comes last, on finished graphs, so in every precision all is computed in float32 from the logits that the file gives.
    """
    from onnx import TensorProto, helper, numpy_helper

    _rename_clashes(model.graph, frozenset({CLASS, SCORE, "back_shares", "back_axes", "back_sizes", "back_maps", "back_best"}))
    shape = next(value for value in model.graph.output if value.name == OUTPUT).type.tensor_type.shape
    batch = shape.dim[0]
    sizes = [batch.dim_param or batch.dim_value]
    if len(shape.dim) > 2:
        _add_class_map(model, sizes[0])
        return
    model.graph.node.extend([
        helper.make_node("ArgMax", [OUTPUT], [CLASS], "back_class", axis=1, keepdims=0),
        helper.make_node("Softmax", [OUTPUT], ["back_shares"], "back_softmax", axis=1),
        helper.make_node("ReduceMax", ["back_shares", "back_axes"], [SCORE], "back_score", keepdims=0),
    ])  # fmt: skip
    model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "back_axes"))
    model.graph.output.extend([
        helper.make_tensor_value_info(CLASS, TensorProto.INT64, sizes),
        helper.make_tensor_value_info(SCORE, TensorProto.FLOAT, sizes),
    ])  # fmt: skip


def _add_class_map(model: ModelProto, batch: str | int) -> None:
    """Enlarge maps of logits to the image, bilinear with corners not aligned, and take the largest."""
    from onnx import TensorProto, helper, numpy_helper

    fed = next(value for value in model.graph.input if value.name == INPUT).type.tensor_type
    sides = fed.shape.dim[1:3] if fed.elem_type == TensorProto.UINT8 else fed.shape.dim[2:4]
    height, width = (side.dim_value for side in sides)
    model.graph.node.extend([
        helper.make_node(
            "Resize", [OUTPUT, "", "", "back_sizes"], ["back_maps"], "back_resize", axes=[2, 3], mode="linear",
            coordinate_transformation_mode="half_pixel",
        ),
        helper.make_node("ArgMax", ["back_maps"], ["back_best"], "back_argmax", axis=1, keepdims=0),
        helper.make_node("Cast", ["back_best"], [CLASS], "back_class", to=TensorProto.UINT8),
    ])  # fmt: skip
    model.graph.initializer.append(numpy_helper.from_array(np.array([height, width], np.int64), "back_sizes"))
    model.graph.output.append(helper.make_tensor_value_info(CLASS, TensorProto.UINT8, [batch, height, width]))


def _rename_clashes(graph: GraphProto, names: frozenset[str]) -> None:
    """Rename tensors of the network that have one of these names: a parameter, say."""
    for tensor in graph.initializer:
        tensor.name = f"{tensor.name}_inner" if tensor.name in names else tensor.name
    for node in graph.node:
        for listed in (node.input, node.output):
            listed[:] = [f"{name}_inner" if name in names else name for name in listed]


def write_metadata(model: ModelProto, about: About | None, *, takes_pixels: bool) -> None:
    """Write the metadata of a file; nothing where nothing is known.

    `metadata_props` then holds what `build_metadata` returns.
    """
    from onnx import helper

    if about is None:
        return
    helper.set_model_props(model, build_metadata(about, takes_pixels=takes_pixels))


def check_graph(model: ModelProto, where: str, advice: str) -> None:
    """Check that a graph is valid: names, operators, types and shapes.

    Raises:
        CompressError: It is not; the message names the node or shape.
    """
    import onnx

    twice = [name for name, count in Counter(node.name for node in model.graph.node).items() if count > 1]
    if twice:
        raise CompressError(f"{where}: {len(twice)} names of nodes are used twice, such as {twice[0]!r}; {advice}")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CompressError(f"{where}: the ONNX graph is invalid: {error}; {advice}") from error
