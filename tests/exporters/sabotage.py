"""Ways to damage an exported file, each as something that really happens: a function that edits an ONNX graph in place.

`Damage.stage` says who must notice: `runtime` when it opens or feeds it, `gate` by its logits, `promise` by what it shows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Stage = Literal["promise", "runtime", "gate"]
Edit = Callable[[ModelProto], None]


class Damage(NamedTuple):
    edit: Edit
    stage: Stage
    said: str
    """Part of the message."""


def weight(model: ModelProto, number: int) -> Any:
    """Return the weight of a convolution or linear layer by its place; -1 is the classifier."""
    used = [node.input[1] for node in model.graph.node if node.op_type in {"Conv", "Gemm", "MatMul"}]
    return next(tensor for tensor in model.graph.initializer if tensor.name == used[number])


def biases(model: ModelProto, number: int) -> Any:
    used = [node.input[2] for node in model.graph.node if node.op_type in {"Conv", "Gemm"} and len(node.input) > 2]
    return next(tensor for tensor in model.graph.initializer if tensor.name == used[number])


def change(tensor: Any, edit: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    changed = np.ascontiguousarray(edit(numpy_helper.to_array(tensor).copy()))
    tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))


def weights(number: int, edit: Callable[[NDArray[Any]], NDArray[Any]]) -> Edit:
    return lambda model: change(weight(model, number), edit)


def every_weight(edit: Callable[[NDArray[Any]], NDArray[Any]]) -> Edit:
    def damage(model: ModelProto) -> None:
        for number in range(4):
            change(weight(model, number), edit)

    return damage


def before(*nodes: NodeProto, **constants: NDArray[Any]) -> Edit:
    """Put nodes that read `images` and write `altered` in front."""

    def damage(model: ModelProto) -> None:
        for node in model.graph.node:
            node.input[:] = ["altered" if name == "images" else name for name in node.input]
        _insert(model, nodes, constants, 0)

    return damage


def after(*nodes: NodeProto, output: str = "logits", **constants: NDArray[Any]) -> Edit:
    """Put nodes that read `honest` and write an output behind."""

    def damage(model: ModelProto) -> None:
        for node in model.graph.node:
            node.output[:] = ["honest" if name == output else name for name in node.output]
        _insert(model, nodes, constants, len(model.graph.node))

    return damage


def _insert(model: ModelProto, nodes: Any, constants: dict[str, NDArray[Any]], place: int) -> None:
    known = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*known[:place], *nodes, *known[place:]])
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())


def operators(old: str, new: str, number: int = 0) -> Edit:
    """Make another operator of one that needs no attributes."""

    def damage(model: ModelProto) -> None:
        node = [node for node in model.graph.node if node.op_type == old][number]
        node.op_type = new

    return damage


def maximum_pool(model: ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type in {"ReduceMean", "GlobalAveragePool"})
    node.op_type = {"ReduceMean": "ReduceMax", "GlobalAveragePool": "GlobalMaxPool"}[node.op_type]


def attribute(number: int, name: str, value: list[int]) -> Edit:
    """Give a convolution another attribute."""

    def damage(model: ModelProto) -> None:
        node = [node for node in model.graph.node if node.op_type == "Conv"][number]
        (old,) = [each for each in node.attribute if each.name == name]
        node.attribute.remove(old)
        node.attribute.append(helper.make_attribute(name, value))

    return damage


def batch_statistics(model: ModelProto) -> None:
    """Normalise over the batch instead of by what training had seen."""
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    result = conv.output[0]
    conv.output[0] = "unnormalised"
    place = list(model.graph.node).index(conv) + 1
    shift, scale = np.zeros(1, np.float32), np.array([1e-3], np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["unnormalised", "over"], ["centre"], keepdims=1),
        helper.make_node("Sub", ["unnormalised", "centre"], ["centred"]),
        helper.make_node("Mul", ["centred", "centred"], ["squared"]),
        helper.make_node("ReduceMean", ["squared", "over"], ["variance"], keepdims=1),
        helper.make_node("Add", ["variance", "little"], ["steady"]),
        helper.make_node("Sqrt", ["steady"], ["deviation"]),
        helper.make_node("Div", ["centred", "deviation"], ["normal"]),
        helper.make_node("Add", ["normal", "shifted"], [result]),
    ]
    _insert(model, nodes, {"over": np.array([0, 2, 3]), "little": scale, "shifted": shift}, place)


def four_bits(values: NDArray[Any]) -> NDArray[Any]:
    step = np.abs(values).max() / 7
    return (np.round(values / step) * step).astype(values.dtype)


def first_is_nan(values: NDArray[Any]) -> NDArray[Any]:
    values.flat[0] = np.nan
    return values


def port(which: str, name: str) -> Edit:
    """Rename the input or output."""

    def damage(model: ModelProto) -> None:
        (value,) = getattr(model.graph, which)
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [name if each == value.name else each for each in names]
        value.name = name

    return damage


def output_type(kind: int) -> Edit:
    def damage(model: ModelProto) -> None:
        after(helper.make_node("Cast", ["honest"], ["logits"], to=kind))(model)
        model.graph.output[0].type.tensor_type.elem_type = kind

    return damage


def extra_output(model: ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, None))
    node = next(node for node in model.graph.node if node.op_type == "Relu")
    model.graph.node.append(helper.make_node("Identity", [node.output[0]], ["features"]))


def fixed_batch(model: ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1


def one_channel(model: ModelProto) -> None:
    change(weight(model, 0), lambda values: values[:, :1])
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1


def turned_input(model: ModelProto) -> None:
    """Take [batch, channels, width, height]."""
    before(helper.make_node("Transpose", ["images"], ["altered"], perm=[0, 1, 3, 2]))(model)
    sizes = model.graph.input[0].type.tensor_type.shape.dim
    sizes[2].dim_value, sizes[3].dim_value = sizes[3].dim_value, sizes[2].dim_value


def one_class_less(model: ModelProto) -> None:
    after(helper.make_node("Slice", ["honest", "begin", "end", "axis"], ["logits"]), begin=[0], end=[9], axis=[1])(model)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 9


def classes_first(model: ModelProto) -> None:
    after(helper.make_node("Transpose", ["honest"], ["logits"], perm=[1, 0]))(model)
    sizes = model.graph.output[0].type.tensor_type.shape.dim
    sizes[0].dim_value, sizes[1].dim_param = 10, "batch"


def first_image_only(model: ModelProto) -> None:
    """Give every image of a call the logits of the first, as after a reshape with a fixed batch."""
    first = helper.make_node("Slice", ["honest", "begin", "end", "axis"], ["one"])
    zero = helper.make_node("Mul", ["honest", "nothing"], ["none"])
    nothing = np.zeros(1, np.float32)
    after(first, zero, helper.make_node("Add", ["one", "none"], ["logits"]), begin=[0], end=[1], axis=[0], nothing=nothing)(
        model
    )


def dropout(model: ModelProto) -> None:
    """Leave dropout in training mode."""
    after(
        helper.make_node("Dropout", ["honest", "ratio", "training"], ["logits"], seed=1),
        ratio=np.array(0.5, np.float32),
        training=np.array(True),
    )(model)
    model.graph.output[0].name = "logits"


def half_precision_overflow(model: ModelProto) -> None:
    """Compute the first layer in fp16, with a scale that the next layer takes back: beyond 65504 in between."""
    change(weight(model, 0), lambda values: values * np.float32(1e6))
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    place, result = list(model.graph.node).index(conv) + 1, conv.output[0]
    conv.output[0] = "large"
    half = helper.make_node("Cast", ["large"], ["half"], to=TensorProto.FLOAT16)
    full = helper.make_node("Cast", ["half"], ["full"], to=TensorProto.FLOAT)
    back = helper.make_node("Mul", ["full", "small"], [result])
    _insert(model, [half, full, back], {"small": np.array([1e-6], np.float32)}, place)


def _reverse(axis: int) -> NodeProto:
    return helper.make_node("Slice", ["images", "begin", "end", "axis", "step"], ["altered"], name=f"reverse{axis}")


def reversed_along(axis: int) -> Edit:
    """Read the image backwards along an axis: 1 is BGR, 2 is upside down, 3 is mirrored."""
    end = [np.iinfo(np.int64).min + 1]
    return before(_reverse(axis), begin=np.array([-1]), end=np.array(end), axis=np.array([axis]), step=np.array([-1]))


def arithmetic(operator: str, value: float) -> Edit:
    node = helper.make_node(operator, ["images", "constant"], ["altered"])
    return before(node, constant=np.array([value], np.float32))


def appended(operator: str, **attributes: Any) -> Edit:
    return after(helper.make_node(operator, ["honest"], ["logits"], **attributes))


def quantized(step: float) -> Edit:
    """Round the logits to multiples of a step, as an output range that is far too wide does."""
    constant = np.array([step], np.float32)
    nodes = ("Div", "honest", "steps"), ("Round", "steps", "whole"), ("Mul", "whole", "logits")
    made = [
        helper.make_node(kind, [source] if kind == "Round" else [source, "step"], [result]) for kind, source, result in nodes
    ]
    return after(*made, step=constant)


def saturated(model: ModelProto) -> None:
    after(helper.make_node("Clip", ["honest", "low", "high"], ["logits"]), low=np.float32(-2), high=np.float32(2))(model)


def shuffled_rows(values: NDArray[Any]) -> NDArray[Any]:
    return values[np.random.default_rng(0).permutation(len(values))]


DAMAGES: dict[str, Damage] = {
    "first layer in BGR order": Damage(weights(0, lambda w: w[:, ::-1]), "gate", "agreement"),
    "BGR inside": Damage(reversed_along(1), "gate", "agreement"),
    "mirrored inside": Damage(reversed_along(3), "gate", "agreement"),
    "upside down inside": Damage(reversed_along(2), "gate", "agreement"),
    "another mean": Damage(arithmetic("Sub", 0.5), "gate", "agreement"),
    "another std": Damage(arithmetic("Mul", 2.0), "gate", "max_abs_diff"),
    "divided by 255 twice": Damage(arithmetic("Div", 255.0), "gate", "agreement"),
    "not divided by 255": Damage(arithmetic("Mul", 255.0), "gate", "agreement"),
    "bias of the first layer lost": Damage(lambda m: change(biases(m, 0), np.zeros_like), "gate", "max_abs_diff"),
    "bias of the classifier lost": Damage(lambda m: change(biases(m, -1), np.zeros_like), "gate", "as by a lost bias"),
    "classifier in another memory order": Damage(weights(-1, lambda w: w.T.reshape(w.shape)), "gate", "agreement"),
    "classes shifted by one": Damage(after(
        helper.make_node("Gather", ["honest", "order"], ["logits"], axis=1), order=np.roll(np.arange(10), 1),
    ), "gate", "the classes come in another order"),
    "two classes exchanged": Damage(after(
        helper.make_node("Gather", ["honest", "order"], ["logits"], axis=1), order=np.array([1, 0, *range(2, 10)]),
    ), "gate", "the classes come in another order (2 moved: 0 is found at 1)"),
    "overflow in fp16": Damage(half_precision_overflow, "gate", "not finite"),
    "a layer of zeros": Damage(weights(2, np.zeros_like), "gate", "max_abs_diff"),
    "one filter of zeros": Damage(weights(1, lambda w: np.concatenate([w[:-1], 0 * w[-1:]])), "gate", "max_abs_diff"),
    "filters in another order": Damage(weights(0, shuffled_rows), "gate", "agreement"),
    "logits rounded": Damage(quantized(2.0), "gate", "different values, as if they were quantized"),
    "logits saturated": Damage(saturated, "gate", "saturation"),
    "sign of the logits": Damage(appended("Neg"), "gate", "the sign is swapped"),
    "softmax": Damage(appended("Softmax", axis=1), "gate", "a softmax was exported"),
    "log-softmax": Damage(appended("LogSoftmax", axis=1), "gate", "as by a log-softmax"),
    "sigmoid": Damage(appended("Sigmoid"), "gate", "max_abs_diff"),
    "a weight is NaN": Damage(weights(1, first_is_nan), "gate", "not finite"),
    "weights of four bits": Damage(every_weight(four_bits), "gate", "max_abs_diff"),
    "weights scaled": Damage(weights(-1, lambda w: w * np.float32(1.01)), "gate", "max_abs_diff"),
    "a ReLU lost": Damage(operators("Relu", "Identity"), "gate", "max_abs_diff"),
    "another activation": Damage(operators("Relu", "Sigmoid", 1), "gate", "max_abs_diff"),
    "a residual multiplied": Damage(operators("Add", "Mul"), "gate", "max_abs_diff"),
    "maximum for average": Damage(maximum_pool, "gate", "max_abs_diff"),
    "stride changed": Damage(attribute(1, "strides", [1, 1]), "gate", "max_abs_diff"),
    "padding lost": Damage(attribute(0, "pads", [0, 0, 0, 0]), "gate", "max_abs_diff"),
    "padding on one side": Damage(attribute(1, "pads", [0, 0, 2, 2]), "gate", "max_abs_diff"),
    "batch-norm in training mode": Damage(batch_statistics, "gate", "max_abs_diff"),
    "dropout in training mode": Damage(dropout, "gate", "max_abs_diff"),
    "only the first image": Damage(first_image_only, "gate", "answered otherwise alone than in a batch"),
    "output renamed": Damage(port("output", "scores"), "promise", "its output is called 'scores', not 'logits'"),
    "input renamed": Damage(port("input", "input.1"), "promise", "its input is called 'input.1', not 'images'"),
    "output in float64": Damage(output_type(TensorProto.DOUBLE), "gate", "its output is double, not float32"),
    "output in integers": Damage(output_type(TensorProto.INT64), "gate", "its output is int64, not float32"),
    "another output": Damage(extra_output, "runtime", "has 1 inputs and 2 outputs; one of each is needed"),
    "batch fixed": Damage(fixed_batch, "runtime", "is made for batches of 1, not 50"),
    "one channel": Damage(one_channel, "runtime", "index: 1 Got: 3 Expected: 1"),
    "height and width exchanged": Damage(turned_input, "runtime", "index: 2 Got: 10 Expected: 8"),
    "a class less": Damage(one_class_less, "gate", "its output has shape [any, 9], not [any, 10]"),
    "classes first": Damage(classes_first, "gate", "its output has shape [10, any], not [any, 10]"),
}  # fmt: skip


# ---- of files that also give class and score


def back(name: str, operator: str = "", **attributes: int) -> Edit:
    """Change operator or attributes of a node that makes class or score."""

    def damage(model: ModelProto) -> None:
        node = next(node for node in model.graph.node if node.name == f"back_{name}")
        node.op_type = operator or node.op_type
        kept = [each for each in node.attribute if each.name not in attributes]
        del node.attribute[:]
        node.attribute.extend([*kept, *(helper.make_attribute(key, value) for key, value in attributes.items())])

    return damage


def score_of(values: str) -> Edit:
    """Take the largest of something else than the softmax."""

    def damage(model: ModelProto) -> None:
        next(node for node in model.graph.node if node.name == "back_score").input[0] = values

    return damage


def read_from(node: str, *nodes: NodeProto, **constants: NDArray[Any]) -> Edit:
    """Let a node that makes class or score read `altered`, which nodes make of the logits."""

    def damage(model: ModelProto) -> None:
        found = next(each for each in model.graph.node if each.name == f"back_{node}")
        found.input[0] = "altered"
        _insert(model, nodes, constants, [*model.graph.node].index(found))

    return damage


def column(output: str) -> Edit:
    """Give [batch, 1] instead of [batch]."""

    def damage(model: ModelProto) -> None:
        back(output, keepdims=1)(model)
        (value,) = [value for value in model.graph.output if value.name == output]
        value.type.tensor_type.shape.dim.add().dim_value = 1

    return damage


def class_of_another_type(model: ModelProto) -> None:
    after(helper.make_node("Cast", ["honest"], ["class"], to=TensorProto.INT32), output="class")(model)
    model.graph.output[1].type.tensor_type.elem_type = TensorProto.INT32


def outputs_exchanged(model: ModelProto) -> None:
    kept = [model.graph.output[place] for place in (0, 2, 1)]
    del model.graph.output[:]
    model.graph.output.extend(kept)


def class_renamed(model: ModelProto) -> None:
    after(helper.make_node("Identity", ["honest"], ["label"]), output="class")(model)
    model.graph.output[1].name = "label"


def score_left_out(model: ModelProto) -> None:
    del model.graph.output[2]


NOT_THE_LARGEST, NOT_ITS_SOFTMAX = "is not that of the largest logit", "is not the softmax of the largest logit"
SCORED: dict[str, Damage] = {
    "class shifted by one": Damage(after(
        helper.make_node("Add", ["honest", "one"], ["class"]), output="class", one=np.array(1),
    ), "gate", NOT_THE_LARGEST),
    "class before the first": Damage(after(
        helper.make_node("Sub", ["honest", "many"], ["class"]), output="class", many=np.array(10),
    ), "gate", NOT_THE_LARGEST),
    "class of the least": Damage(back("class", "ArgMin"), "gate", NOT_THE_LARGEST),
    "class of the first image": Damage(after(
        helper.make_node("Gather", ["honest", "first"], ["one"]), helper.make_node("Mul", ["honest", "none"], ["zero"]),
        helper.make_node("Add", ["one", "zero"], ["class"]), output="class", first=np.array(0), none=np.array(0),
    ), "gate", NOT_THE_LARGEST),
    "class of rounded logits": Damage(read_from("class", helper.make_node("Round", ["logits"], ["altered"])), "gate",
        NOT_THE_LARGEST),
    "class in int32": Damage(class_of_another_type, "promise", "its output 'class' is int32, not int64"),
    "class in a column": Damage(column("class"), "gate", "its output 'class' is int64 [250, 1], not int64 [250]"),
    "class renamed": Damage(class_renamed, "runtime", "one of each is needed, or the outputs logits, class, score"),
    "score is a logit": Damage(score_of("logits"), "gate", NOT_ITS_SOFTMAX),
    "score is a mean": Damage(back("score", "ReduceMean"), "gate", NOT_ITS_SOFTMAX),
    "score of the least": Damage(back("score", "ReduceMin"), "gate", NOT_ITS_SOFTMAX),
    "score is a logarithm": Damage(back("softmax", "LogSoftmax"), "gate", NOT_ITS_SOFTMAX),
    "score over the batch": Damage(back("softmax", axis=0), "gate", NOT_ITS_SOFTMAX),
    "score in percent": Damage(after(
        helper.make_node("Mul", ["honest", "hundred"], ["score"]), output="score", hundred=np.float32(100),
    ), "gate", NOT_ITS_SOFTMAX),
    "score of logits times two": Damage(read_from(
        "softmax", helper.make_node("Add", ["logits", "logits"], ["altered"]),
    ), "gate", NOT_ITS_SOFTMAX),
    "score in 256 steps": Damage(after(
        helper.make_node("Mul", ["honest", "steps"], ["many"]), helper.make_node("Round", ["many"], ["whole"]),
        helper.make_node("Div", ["whole", "steps"], ["score"]), output="score", steps=np.float32(256),
    ), "gate", NOT_ITS_SOFTMAX),
    "score in a column": Damage(column("score"), "gate", "its output 'score' is float32 [250, 1], not float32 [250]"),
    "score left out": Damage(score_left_out, "gate", "gives no output 'score'"),
    "class and score exchanged": Damage(outputs_exchanged, "promise", "its output 'class' is called 'score', not 'class'"),
    "classes shifted by one": DAMAGES["classes shifted by one"],
}  # fmt: skip
