"""Check that the activations of an fp16 file stay within the range of float16, wherever it will run.

onnxruntime and OpenVINO compute files of precision fp16 in float32 on x86 processors, so a file whose activations are beyond
fp16 gives good logits there, and infinities where the arithmetic really is float16: GPUs, NPUs, many ARM processors. So such a
file is run once more here with all arithmetic in float32, and the largest value of every tensor is measured on the images of
the gate. Sums inside an operator are not seen; accelerators keep those in float32.

The maxima are taken inside the graph, so that no more memory is needed than for any run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compress.system import quiet
from exporters._onnx.calibration import replace_outputs, split_batches, start_session
from exporters._onnx.fp16 import LARGEST_FP16
from exporters.verification.intermediates import Tensor, find_computed_nodes, name_openvino_tensor, open_graph

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

NEAR = LARGEST_FP16 / 2
"""Beyond it there is less than one bit of room for other images."""


class RangeCheck(NamedTuple):
    """Result of the check; both texts are empty where all activations fit."""

    reason: str
    """Why the file must not be used."""
    note: str
    """What may go wrong on other images."""


def check_fp16_range(path: Path, images: NDArray[Any], batch_size: int | None) -> RangeCheck:
    """Check the activations of an fp16 file on some images.

    Args:
        path: ONNX or OpenVINO; it is run in this process, so let the runner run a stranger's file first.
        images: As the file takes them: normalised float32 [N, C, H, W], or uint8 [N, H, W, C].
        batch_size: The only number of images that it takes; `None` takes any.

    Raises:
        CompressError: The runtime cannot run it in float32.
    """
    measure = {".onnx": _measure_onnx, ".xml": _measure_openvino}.get(path.suffix)
    if measure is None:
        return RangeCheck(
            "", f"a {path.suffix} file cannot be looked into, so whether its activations fit into fp16 is not known"
        )
    peaks = measure(path, images, batch_size)
    return judge_peaks([(tensor, peaks[tensor.name]) for tensor in open_graph(path).tensors if tensor.name in peaks])


def judge_peaks(peaks: Sequence[tuple[Tensor, float]]) -> RangeCheck:
    """Judge the largest absolute value of each tensor, from input to output.

    An infinity is one in float32 too, and says nothing of fp16.

    Args:
        peaks: Each tensor with the largest absolute value of all its elements, a scalar, [].
    """
    finite = [(tensor, peak) for tensor, peak in peaks if np.isfinite(peak)]
    beyond = [each for each in finite if each[1] > LARGEST_FP16]
    if beyond:
        overflow = f"{_describe_peak(*beyond[0])} on these images, beyond the {LARGEST_FP16:g} of fp16{_count_others(beyond)}"
        return RangeCheck(
            f"fp16 overflow: {overflow}; this processor computes it in float32, one that computes in fp16 gets infinities: use "
            "precision: fp32 or int8, or train with smaller activations",
            "",
        )
    worst = max(finite, key=lambda each: each[1], default=None)
    if worst is None or worst[1] <= NEAR:
        return RangeCheck("", "")
    share = 100 * worst[1] / LARGEST_FP16
    return RangeCheck(
        "", f"{_describe_peak(*worst)}, {share:.0f} % of what fp16 holds: other images may overflow where fp16 is computed"
    )


def _describe_peak(tensor: Tensor, peak: float) -> str:
    where = f"{tensor.layer} ({tensor.kind})" if tensor.layer != tensor.name else f"{tensor.kind} {tensor.name!r}"
    return f"the output of {where} reaches {peak:.6g}"


def _count_others(beyond: Sequence[tuple[Tensor, float]]) -> str:
    others = len(beyond) - 1
    return f", and {others} further tensor{'s do' if others > 1 else ' does'} too" if others else ""


def _measure_onnx(path: Path, images: NDArray[Any], batch_size: int | None) -> dict[str, float]:
    """Return the largest absolute value of every float16 tensor of an ONNX file, computed in float32."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    names = [value.name for value in inferred.value_info if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16]
    widened = _copy_widened(model)
    outputs = _add_maxima(widened, names)
    session = start_session(replace_outputs(widened, outputs), str(path))
    entry = session.get_inputs()[0].name
    return _find_largest(names, lambda chunk: session.run(outputs, {entry: chunk}), images, batch_size)


def _copy_widened(model: ModelProto) -> ModelProto:
    """Return a copy in which everything that was float16 is float32."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _widen(copy.graph)
    return copy


def _widen(graph: GraphProto) -> None:
    from onnx import TensorProto

    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("t"):
                _widen_tensor(attribute.t)
            if attribute.HasField("g"):
                _widen(attribute.g)


def _widen_tensor(tensor: Any) -> None:
    from onnx import TensorProto, numpy_helper

    if tensor.data_type == TensorProto.FLOAT16:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))


def _add_maxima(model: ModelProto, names: Sequence[str]) -> list[str]:
    """Add the largest absolute value of each tensor to a graph as an output, and return the names of these outputs."""
    from onnx import helper

    for name in names:
        model.graph.node.append(helper.make_node("Abs", [name], [f"{name}/absolute"], f"{name}/absolute"))
        model.graph.node.append(
            helper.make_node("ReduceMax", [f"{name}/absolute"], [f"{name}/largest"], f"{name}/largest", keepdims=0)
        )
    return [f"{name}/largest" for name in names]


def _measure_openvino(path: Path, images: NDArray[Any], batch_size: int | None) -> dict[str, float]:
    """Return the largest absolute value of every tensor with a fraction of an OpenVINO file, computed in float32."""
    openvino = quiet.import_openvino()
    from openvino import opset13

    core = openvino.Core()
    model = core.read_model(path)
    nodes = {name_openvino_tensor(node): node for node in find_computed_nodes(model)}
    maxima = [
        opset13.reduce_max(opset13.absolute(node.output(0)), np.arange(len(node.get_output_partial_shape(0))), keep_dims=False)
        for node in nodes.values()
    ]
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False}
    compiled = core.compile_model(openvino.Model(maxima, model.get_parameters(), "largest"), "CPU", settings)

    def run(chunk: NDArray[Any]) -> list[Any]:
        outputs = compiled([chunk])
        return [outputs[index] for index in range(len(nodes))]

    return _find_largest([*nodes], run, images, batch_size)


def _find_largest(
    names: Sequence[str],
    run: Callable[[NDArray[Any]], Sequence[Any]],
    images: NDArray[Any],
    batch_size: int | None,
) -> dict[str, float]:
    """Return the largest values over all images, by name, where `run` gives those of a batch."""
    found: Mapping[str, float] = dict.fromkeys(names, 0.0)
    for chunk in split_batches(images, batch_size):
        found = {name: max(known, float(peak)) for (name, known), peak in zip(found.items(), run(chunk), strict=True)}
    return dict(found)
