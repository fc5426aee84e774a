"""One inference for each runtime, as a program that runs in a process of its own: what `compress doctor` tries."""

from __future__ import annotations

from collections.abc import Mapping

PROBES: Mapping[str, str] = {
    "torch": """
import torch
answer = torch.nn.functional.conv2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3))
print(torch.__version__, "CUDA" if torch.cuda.is_available() else "CPU")
""",
    "onnxruntime": """
import numpy, onnxruntime
from onnx import TensorProto, helper
value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", [value("x")], [value("y")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
answer = session.run(None, {"x": numpy.array([-9, 9], numpy.float32)})[0]
assert answer.tolist() == [0, 9], answer
print(onnxruntime.__version__, *onnxruntime.get_available_providers())
""",
    "openvino": """
import numpy, openvino
from openvino import opset13
x = opset13.parameter([2], numpy.float32)
core = openvino.Core()
compiled = core.compile_model(openvino.Model([opset13.relu(x)], [x], "probe"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
answer = compiled(numpy.array([-9, 9], numpy.float32))[0]
assert answer.tolist() == [0, 9], answer
print(openvino.__version__.partition("-")[0], *core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
""",
}
"""One inference for each runtime; the last line that it prints is shown."""

EXTRAS: Mapping[str, tuple[str, str]] = {
    "executorch": (
        "executorch",
        """
import warnings
warnings.simplefilter("ignore")
import importlib.metadata, torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.extension.pybindings import portable_lib
x = torch.tensor([[-9.0, 9.0]])
traced = torch.export.export(torch.nn.ReLU(), (x,))
content = to_edge_transform_and_lower(traced, partitioner=[XnnpackPartitioner()]).to_executorch().buffer
program = portable_lib._load_for_executorch_from_buffer(content)
answer = program.run_method("forward", [x])[0]
assert answer.tolist() == [[0, 9]], answer
print(importlib.metadata.version("executorch"), *portable_lib._get_registered_backend_names())
""",
    ),
    "litert": (
        "ai-edge-litert",
        """
import importlib.metadata, flatbuffers, numpy
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
x, y, relu, code = schema.TensorT(), schema.TensorT(), schema.OperatorT(), schema.OperatorCodeT()
x.shape = y.shape = [2]
relu.inputs, relu.outputs = [0], [1]
code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RELU
graph, model, content = schema.SubGraphT(), schema.ModelT(), flatbuffers.Builder(1024)
graph.tensors, graph.inputs, graph.outputs, graph.operators = [x, y], [0], [1], [relu]
model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [schema.BufferT()]
content.Finish(model.Pack(content), b"TFL3")
session = Interpreter(model_content=bytes(content.Output()), num_threads=1)
session.allocate_tensors()
session.set_tensor(0, numpy.array([-9, 9], numpy.float32))
session.invoke()
assert session.get_tensor(1).tolist() == [0, 9], session.get_tensor(1)
print(importlib.metadata.version("ai-edge-litert"), "CPU")
""",
    ),
}
"""By the name of the extra that brings a runtime: the package that it is in, and one inference with a file made for it."""
