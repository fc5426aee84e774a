"""fp16: whether the activations of a file fit into it, wherever it will run.

onnxruntime and OpenVINO compute files of precision fp16 in float32 on x86 processors, so a file whose activations are beyond
fp16 answers well there, and with infinities where the arithmetic really is float16: GPUs, NPUs, many ARM processors. So such
a file is run once more here with all arithmetic in float32, and the largest value of every tensor is looked at, on the images
of the gate. Sums inside an operator are not seen; accelerators keep those in float32.

The maxima are taken inside the graph, so that no more memory is needed than for any run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compress.system import quiet as _quiet
from exporters._onnx import calibration as _onnx_calibration
from exporters._onnx.fp16 import LARGEST_FP16
from exporters.verification.intermediates import Tensor, computed, open_graph, openvino_name

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

NEAR = LARGEST_FP16 / 2
"""Beyond it there is less than one bit of room for other images."""


class Finding(NamedTuple):
    """What the activations show; both are empty where all is well."""

    reason: str
    """Why the file must not be used."""
    note: str
    """What to keep an eye on."""


def look(path: Path, images: NDArray[Any], batch_size: int | None) -> Finding:
    """Return whether a file of precision fp16 has activations that fp16 cannot hold, or only just.

    Args:
        path: ONNX or OpenVINO; it is run in this process, so let the runner run a stranger's file first.
        images: As the file takes them.
        batch_size: The only number of images that it takes; `None` takes any.

    Raises:
        CompressError: The runtime cannot run it in float32.
    """
    largest = {".onnx": _in_onnxruntime, ".xml": _in_openvino}.get(path.suffix)
    if largest is None:
        return Finding("", f"a {path.suffix} file cannot be looked into, so whether its activations fit into fp16 is not known")
    found = largest(path, images, batch_size)
    return judged([(tensor, found[tensor.name]) for tensor in open_graph(path).tensors if tensor.name in found])


def judged(peaks: Sequence[tuple[Tensor, float]]) -> Finding:
    """Return what largest values mean, from input to output; an infinity is one in float32 too, and says nothing of fp16."""
    finite = [(tensor, peak) for tensor, peak in peaks if np.isfinite(peak)]
    beyond = [each for each in finite if each[1] > LARGEST_FP16]
    if beyond:
        return Finding(
            f"fp16 overflow: {_told(*beyond[0])} on these images, beyond the {LARGEST_FP16:g} of fp16{_further(beyond)}; this "
            "processor computes it in float32, one that computes in fp16 gets infinities: use precision: fp32 or int8, or "
            "train with smaller activations",
            "",
        )
    worst = max(finite, key=lambda each: each[1], default=None)
    if worst is None or worst[1] <= NEAR:
        return Finding("", "")
    share = 100 * worst[1] / LARGEST_FP16
    return Finding("", f"{_told(*worst)}, {share:.0f} % of what fp16 holds: other images may overflow where fp16 is computed")


def _told(tensor: Tensor, peak: float) -> str:
    where = f"{tensor.layer} ({tensor.kind})" if tensor.layer != tensor.name else f"{tensor.kind} {tensor.name!r}"
    return f"the output of {where} reaches {peak:.6g}"


def _further(beyond: Sequence[tuple[Tensor, float]]) -> str:
    others = len(beyond) - 1
    return f", and {others} further tensor{'s do' if others > 1 else ' does'} too" if others else ""


def _in_onnxruntime(path: Path, images: NDArray[Any], batch_size: int | None) -> dict[str, float]:
    """Return the largest absolute value of every float16 tensor of an ONNX file, computed in float32."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    names = [value.name for value in inferred.value_info if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16]
    widened = _widened(model)
    outputs = _add_maxima(widened, names)
    session = _onnx_calibration.start(_onnx_calibration.with_outputs(widened, outputs), str(path))
    entry = session.get_inputs()[0].name
    return _largest(names, lambda chunk: session.run(outputs, {entry: chunk}), images, batch_size)


def _widened(model: ModelProto) -> ModelProto:
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
    """Add the largest absolute value of tensors to a graph, and return what these are called."""
    from onnx import helper

    for name in names:
        model.graph.node.append(helper.make_node("Abs", [name], [f"{name}/absolute"], f"{name}/absolute"))
        model.graph.node.append(
            helper.make_node("ReduceMax", [f"{name}/absolute"], [f"{name}/largest"], f"{name}/largest", keepdims=0)
        )
    return [f"{name}/largest" for name in names]


def _in_openvino(path: Path, images: NDArray[Any], batch_size: int | None) -> dict[str, float]:
    """Return the largest absolute value of every tensor with a fraction of an OpenVINO file, computed in float32."""
    openvino = _quiet.openvino()
    from openvino import opset13

    core = openvino.Core()
    model = core.read_model(path)
    nodes = {openvino_name(node): node for node in computed(model)}
    maxima = [
        opset13.reduce_max(opset13.absolute(node.output(0)), np.arange(len(node.get_output_partial_shape(0))), keep_dims=False)
        for node in nodes.values()
    ]
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False}
    compiled = core.compile_model(openvino.Model(maxima, model.get_parameters(), "largest"), "CPU", settings)

    def run(chunk: NDArray[Any]) -> list[Any]:
        answers = compiled([chunk])
        return [answers[index] for index in range(len(nodes))]

    return _largest([*nodes], run, images, batch_size)


def _largest(
    names: Sequence[str],
    run: Callable[[NDArray[Any]], Sequence[Any]],
    images: NDArray[Any],
    batch_size: int | None,
) -> dict[str, float]:
    """Return the largest over all images of what `run` gives for some of them, by name."""
    found: Mapping[str, float] = dict.fromkeys(names, 0.0)
    for chunk in _onnx_calibration.batches(images, batch_size):
        found = {name: max(known, float(peak)) for (name, known), peak in zip(found.items(), run(chunk), strict=True)}
    return dict(found)
