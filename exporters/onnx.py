"""ONNX: one self-contained graph that onnxruntime and most other runtimes read; OpenVINO IR is derived from it.

Written by torch's dynamo exporter, then stripped: it leaves stack traces with absolute source paths in the metadata, and
shapes of initializers (`value_info`) on which later quantization stumbles. What is left depends on nothing but the network,
so that the same network always gives the same bytes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from compress import __version__, _quiet
from compress.errors import CompressError
from compress.files import whole
from compress.recipe import Count
from compress.records import Precision
from exporters._exporter import INPUT, OUTPUT, About
from exporters._trace import tensors, trace

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto
    from torch import Tensor, nn
    from torch.export import ExportedProgram

OPSETS = range(18, 25)
"""Below 18 torch's exporter writes 18 without a word; above 24 it refuses."""
MAX_BYTES = (1 << 31) - (1 << 20)
"""A protobuf message ends at 2 GiB; the graph itself needs far less than the MiB that is kept for it."""


class Onnx:
    """Writes an `.onnx` file with its weights inside.

    Args:
        precision: Precision of weights and arithmetic.
        opset: Version of the operator set; raise it for newer operators, lower it for older runtimes.
        batch: Images in every call; a fixed number lets some compilers do better, and then every caller must feed it.
    """

    runtime: ClassVar[str] = "onnxruntime"
    inert: ClassVar[bool] = True

    def __init__(
        self,
        *,
        precision: Literal["fp32"] = "fp32",
        opset: Literal[18, 19, 20, 21, 22, 23, 24] = 20,
        batch: Literal["dynamic"] | Count = "dynamic",
    ) -> None:
        if precision != "fp32":
            raise CompressError(f"exporters/onnx: precision {precision!r} is not offered; use 'fp32'")
        if opset not in OPSETS:
            raise CompressError(f"exporters/onnx: opset {opset} cannot be written; use {OPSETS[0]} to {OPSETS[-1]}")
        self.precision: Precision = precision
        self.opset = opset
        self.inside = False
        self.batch_size: int | None = None if batch == "dynamic" else batch

    def path(self, folder: Path, stem: str) -> Path:
        """Return `folder/STEM-fp32.onnx`, with what differs from the default options in its name."""
        opset = "" if self.opset == 20 else f"-opset{self.opset}"
        batch = "" if self.batch_size is None else f"-batch{self.batch_size}"
        return folder / f"{stem}-{self.precision}{opset}{batch}.onnx"

    def parts(self, path: Path) -> tuple[Path, ...]:
        """Return the file itself."""
        return (path,)

    def export(self, module: nn.Module, example: Tensor, path: Path, *, about: About | None = None) -> None:  # noqa: ARG002
        """Write the network; see the contract in `_exporter.py`."""
        content = self.convert(module, example).SerializeToString(deterministic=True)
        with whole(path) as temporary:
            temporary.write_bytes(content)

    def convert(self, module: nn.Module, example: Tensor) -> ModelProto:
        """Return the checked and stripped ONNX graph of a network.

        Args:
            module: Maps images [batch, channels, height, width] to logits [batch, classes]; left as it was.
            example: One image, [1, channels, height, width]; only its shape is used.

        Raises:
            CompressError: The network cannot be held in one ONNX file; the message names the operator or weight.
        """
        import onnx

        name = type(module).__name__
        size_bytes = sum(4 * tensor.numel() for _, tensor in tensors(module))
        if size_bytes > MAX_BYTES:
            size = f"{size_bytes / 1e9:.1f} GB"
            raise CompressError(f"export of {name}: {size} of weights exceed the 2 GB of one ONNX file; use a smaller network")
        model = self._translate(trace(module, example, batch=self.batch_size), name)
        self._finish(model)
        try:
            onnx.checker.check_model(model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise CompressError(f"export of {name}: torch wrote an invalid ONNX graph: {error}; try another opset") from error
        return model

    def _translate(self, program: ExportedProgram, name: str) -> ModelProto:
        import torch

        try:
            with _quiet.tracer():
                exported = torch.onnx.export(
                    program,
                    input_names=[INPUT],
                    output_names=[OUTPUT],
                    opset_version=self.opset,
                    external_data=False,
                    verbose=False,
                )
        except torch.onnx.errors.OnnxExporterError as error:
            missing = _culprit(error)
            raise CompressError(
                f"export of {name}: ONNX opset {self.opset} has no {missing}; replace it in the network"
            ) from error
        model: ModelProto = exported.model_proto  # type: ignore[union-attr]  # None only when torch is asked for a file
        return model

    def _finish(self, model: ModelProto) -> None:
        written = next(item.version for item in model.opset_import if item.domain in {"", "ai.onnx"})
        if written != self.opset:
            raise CompressError(f"exporters/onnx: asked for opset {self.opset}, torch wrote {written}; ask for that one")
        _strip(model.graph)
        for function in model.functions:
            del function.value_info[:], function.metadata_props[:]
            function.doc_string = ""
            _strip_nodes(function.node)
        del model.metadata_props[:]
        model.doc_string = ""
        model.producer_name, model.producer_version = "edge-compress", __version__
        if self.batch_size is None:
            for value in (model.graph.input[0], model.graph.output[0]):
                value.type.tensor_type.shape.dim[0].dim_param = "batch"


def _culprit(error: BaseException) -> str:
    """Return the operator at the root of a failed conversion."""
    while error.__cause__ is not None:
        error = error.__cause__
    found = re.search(r"OpOverload\(op='([^']+)'", str(error))
    return f"operator for {found[1]}" if found else f"form of this network ({str(error).splitlines()[0]})"


def _strip(graph: GraphProto) -> None:
    del graph.value_info[:], graph.metadata_props[:]
    graph.doc_string = ""
    for item in (*graph.input, *graph.output, *graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""
    _strip_nodes(graph.node)


def _strip_nodes(nodes: Any) -> None:
    for node in nodes:
        del node.metadata_props[:]
        node.doc_string = ""
        for attribute in node.attribute:
            attribute.doc_string = ""
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _strip(graph)
