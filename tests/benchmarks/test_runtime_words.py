"""What runtimes say of files that they cannot open, in one plain message; the runtimes themselves say it here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from benchmarks.devices._runner_output import RunnerOutput
from compress.errors import CompressError
from compress.system import quiet

SHAPE = [1, 3, 8, 8]
MICROSOFT, ACME = "com.microsoft", "com.acme"


def make_model(node: onnx.NodeProto, *domains: str, shape: list[int] = SHAPE) -> onnx.ModelProto:
    """A file with a single operator."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, sides) for name, sides in (("x", SHAPE), ("y", shape))]
    wanted = onnx.numpy_helper.from_array(np.array([5, 7]), "sides")
    graph = helper.make_graph([node], "graph", ends[:1], ends[1:], [wanted])
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def make_branch() -> onnx.NodeProto:
    """A condition whose one branch holds an operator of others."""
    branches = {
        f"{name}_branch": helper.make_graph(
            [node], name, [], [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, SHAPE)]
        )
        for name, node in (
            ("then", helper.make_node("Fancy", ["x"], ["a"], domain=ACME)),
            ("else", helper.make_node("Relu", ["x"], ["b"])),
        )
    }
    return helper.make_node("If", ["condition"], ["y"], **branches)


UNKNOWN: dict[str, tuple[onnx.ModelProto, str]] = {
    "of a domain": (
        make_model(helper.make_node("Fancy", ["x"], ["y"], domain=ACME), ACME),
        "holds the operator 'Fancy' of 'com.acme', whose operators come with a library or a runtime of their own, which this",
    ),
    "of a domain that is not declared": (
        make_model(helper.make_node("Fancy", ["x"], ["y"], domain=ACME)),
        "holds the operator 'Fancy' of 'com.acme', whose operators come",
    ),
    "of the runtime's own domain": (
        make_model(helper.make_node("Nope", ["x"], ["y"], domain=MICROSOFT), MICROSOFT),
        "holds the operator 'Nope' of 'com.microsoft', whose operators come",
    ),
    "of no domain": (
        make_model(helper.make_node("BatchedNMS_TRT", ["x"], ["y"])),
        "holds the operator 'BatchedNMS_TRT', which this runtime does not know; export it",
    ),
    "wrong types": (
        make_model(helper.make_node("And", ["x", "x"], ["y"])),
        "Type Error: Type 'tensor(float)' of input parameter (x) of operator (And)",
    ),
    "an input from nowhere": (
        make_model(helper.make_node("Relu", ["nothing"], ["y"])),
        "Invalid model. Node input 'nothing' is not a graph input",
    ),
    "no output": (make_model(helper.make_node("Relu", ["x"], ["z"])), "Graph output (y) does not exist in the graph."),
}


def read_message(make: Callable[[], object]) -> str:
    """Return the message for what a runtime raises in the runner."""
    with pytest.raises(Exception) as raised:  # noqa: PT011 (whatever a runtime raises)
        make()
    output = RunnerOutput()
    document = {"error": str(raised.value), "type": type(raised.value).__name__, "subject": "net.onnx"}
    output.read_line(json.dumps(document), lambda *_: None)
    error = output.make_error(1, None)
    assert type(error) is CompressError
    return str(error)


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_onnx_runtime_cannot_open(name: str, tmp_path: Path) -> None:
    """The operator and its domain are named, or the runtime's own reason without codes, temporary folders and source files."""
    model, wanted = UNKNOWN[name]
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    said = read_message(lambda: onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]))
    assert said.startswith(f"net.onnx: {wanted}")
    assert not [part for part in ("ONNXRuntimeError", str(tmp_path), "onnxruntime_src", "(-1)") if part in said]


def test_an_operator_within_a_branch(tmp_path: Path) -> None:
    """An operator in a part of the graph is named as well."""
    model, path = make_model(make_branch(), ACME), tmp_path / "net.onnx"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "condition"))
    onnx.save(model, path)
    said = read_message(lambda: onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]))
    assert said.startswith("net.onnx: holds the operator 'Fancy' of 'com.acme'")


def test_a_file_that_fails_while_it_runs(tmp_path: Path) -> None:
    """Shapes that do not fit are told in the runtime's words, without the place in its source."""
    path = tmp_path / "net.onnx"
    onnx.save(make_model(helper.make_node("Reshape", ["x", "sides"], ["y"]), shape=[5, 7]), path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    said = read_message(lambda: session.run(None, {"x": np.zeros(SHAPE, np.float32)}))
    assert said.endswith("Input shape:{1,3,8,8}, requested shape:{5,7}")
    assert "onnxruntime_src" not in said


def test_what_openvino_cannot_open(tmp_path: Path) -> None:
    """An operator of an extension is named."""
    openvino = quiet.import_openvino()
    inside = openvino.opset13.parameter([1, 3, 8, 8], np.float32, name="x")
    openvino.save_model(openvino.Model([openvino.opset13.relu(inside)], [inside], "net"), tmp_path / "net.xml")
    text = (tmp_path / "net.xml").read_text(encoding="utf-8")
    (tmp_path / "net.xml").write_text(text.replace('type="ReLU" version="opset1"', 'type="Fancy" version="extension"'))
    said = read_message(lambda: openvino.Core().read_model(tmp_path / "net.xml"))
    assert said.startswith("net.onnx: holds the operator 'Fancy' of 'extension', whose operators come")
