"""ONNX: one self-contained graph that onnxruntime and most other runtimes read; OpenVINO IR is derived from it.

Written by torch's dynamo exporter, then stripped: it leaves stack traces with absolute source paths in the metadata, and
shapes of initializers (`value_info`) on which later quantization stumbles. Batch norms are folded into the convolutions before
them, and means over height and width become pools. The result depends on nothing but the network and its metadata
(`write_metadata`), so that the same network always gives the same bytes.

fp16 (`_onnx/fp16.py`) and int8 (`_onnx/int8.py`) are made of that float32 graph; the normalisation of `preprocess: inside` is
put in front of the finished one (`add_normalisation`), class and score of `postprocess: inside` are put behind it
(`add_class_and_score`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from compress import __version__
from compress.errors import CompressError
from compress.recipe import Count
from compress.records import Precision
from compress.system import quiet
from compress.system.files import write_whole
from exporters._exporter import (
    BOXES,
    INPUT,
    OUTPUT,
    About,
    check_option,
    name_options,
    parse_batch,
    parse_places,
    refuse_without_images,
)
from exporters._onnx.fp16 import convert_to_fp16
from exporters._onnx.graph import (
    add_class_and_score,
    add_normalisation,
    check_graph,
    check_preprocess,
    restore_names,
    restore_pools,
    strip,
    strip_nodes,
    write_metadata,
)
from exporters._onnx.int8 import STATISTICS, QuantizableOnnx
from exporters._onnx.reuse import find_or_convert, find_or_trace
from exporters._onnx.tables import reuse_tables
from exporters._torch.calibration_images import check_images
from exporters._torch.trace import list_tensors

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor, nn
    from torch.export import ExportedProgram

WHERE = "exporters/onnx"
OPSETS = range(18, 25)
"""Below 18 torch's exporter writes 18 silently; above 24 it refuses."""
MAX_BYTES = (1 << 31) - (1 << 20)
"""A protobuf message ends at 2 GiB; the graph itself needs far less than the MiB that is kept for it."""


class Onnx:
    """Writes an `.onnx` file with its weights inside.

    Args:
        precision: Precision of weights and arithmetic. fp16 keeps input and output in float32; int8 is made from images.
        opset: Version of the operator set; raise it for newer operators, lower it for older runtimes.
        batch: Images in every call; a fixed number lets some compilers do better, and then every caller must feed it.
        preprocess: Who normalises: the caller (outside), or the file (inside), which then takes uint8 images as decoded and
            resized, [batch, height, width, channels].
        postprocess: Who turns logits into a class: the caller (outside), or the file (inside), which then gives two more
            outputs behind the logits, class and score, each [batch]; of maps the class of each pixel alone, [batch, height,
            width].

    Raises:
        CompressError: An option has a value that is not offered.
    """

    runtime: ClassVar[str] = "onnxruntime"
    inert: ClassVar[bool] = True
    gives_boxes: ClassVar[bool] = True
    gives_maps: ClassVar[bool] = True
    statistics: ClassVar[tuple[str, ...]] = STATISTICS
    no_spare_bit: ClassVar[str] = ""

    def __init__(
        self,
        *,
        precision: Literal["fp32", "fp16", "int8"] = "fp32",
        opset: Literal[18, 19, 20, 21, 22, 23, 24] = 20,
        batch: Literal["dynamic"] | Count = "dynamic",
        preprocess: Literal["outside", "inside"] = "outside",
        postprocess: Literal["outside", "inside"] = "outside",
    ) -> None:
        check_option(WHERE, "precision", precision, ("fp32", "fp16", "int8"))
        if opset not in OPSETS:
            raise CompressError(f"{WHERE}: opset {opset} cannot be written; use {OPSETS[0]} to {OPSETS[-1]}")
        self.precision: Precision = precision
        self.opset = opset
        self.takes_pixels, self.gives_class = parse_places(WHERE, preprocess, postprocess)
        self.batch_size = parse_batch(WHERE, batch)

    def name_file(self, folder: Path, stem: str) -> Path:
        """Return `folder/STEM-PRECISION.onnx`, with what differs from the default options in its name."""
        opset = "" if self.opset == 20 else f"-opset{self.opset}"
        others = name_options(self.batch_size, takes_pixels=self.takes_pixels, gives_class=self.gives_class)
        return folder / f"{stem}-{self.precision}{opset}{others}.onnx"

    def list_parts(self, path: Path) -> tuple[Path, ...]:
        """Return the file itself."""
        return (path,)

    def export(self, module: nn.Module, example: Tensor, path: Path, *, about: About | None = None) -> None:
        """Write the network that maps images [B, C, H, W] to logits [B, K]; see the contract in `_exporter.py`.

        Raises:
            CompressError: As in the contract.
            Unreachable: As in the contract.
        """
        name = type(module).__name__
        refuse_without_images(self.precision, name)
        self._check_about(name, example, about)
        model = self.convert(module, example)
        self._save(convert_to_fp16(model, f"export of {name}") if self.precision == "fp16" else model, path, about)

    def prepare_int8(
        self, module: nn.Module, example: Tensor, images: NDArray[np.float32], *, about: About | None = None
    ) -> QuantizableOnnx:
        """Trace the network and keep the calibration images [N, C, H, W]; see the contract in `_exporter.py`.

        Raises:
            CompressError: As in the contract.
        """
        name = type(module).__name__
        self._check_about(name, example, about)
        check_images(images, tuple(example.shape[1:]), f"export of {name}")
        model = self.convert(module, example)
        return QuantizableOnnx(
            model, images, where=f"export of {name}", save=lambda quantized, path: self._save(quantized, path, about)
        )

    def _check_about(self, name: str, example: Tensor, about: About | None) -> None:
        if not self.takes_pixels:
            return
        if about is None:
            raise CompressError(
                f"export of {name}: preprocess: inside needs the preprocessing, which was not given; give `about`"
            )
        check_preprocess(about.preprocess, tuple(example.shape), f"export of {name}")

    def _save(self, model: ModelProto, path: Path, about: About | None) -> None:
        """Write a graph of normalised images as the file that was asked for."""
        if self.takes_pixels and about is not None:
            add_normalisation(model, about.preprocess)
        if self.gives_class:
            add_class_and_score(model)
        model.producer_name, model.producer_version = "edge-compress", __version__
        write_metadata(model, about, takes_pixels=self.takes_pixels)
        content = model.SerializeToString(deterministic=True)
        with write_whole(path) as temporary:
            temporary.write_bytes(content)

    def convert(self, module: nn.Module, example: Tensor) -> ModelProto:
        """Convert a network to a checked and stripped ONNX graph.

        Args:
            module: Maps images [batch, channels, height, width] to logits [batch, classes]; left as it was.
            example: One image, [1, channels, height, width]; only its shape is used.

        Raises:
            CompressError: The network cannot be held in one ONNX file; the message names the operator or weight.
        """
        options = (self.opset, self.batch_size, tuple(example.shape))
        return find_or_convert(module, options, lambda: self._convert(module, example))

    def _convert(self, module: nn.Module, example: Tensor) -> ModelProto:
        name = type(module).__name__
        size_bytes = sum(4 * tensor.numel() for _, tensor in list_tensors(module))
        if size_bytes > MAX_BYTES:
            size = f"{size_bytes / 1e9:.1f} GB"
            raise CompressError(f"export of {name}: {size} of weights exceed the 2 GB of one ONNX file; use a smaller network")
        model = self._translate(find_or_trace(module, example, batch=self.batch_size), name)
        self._finish(model)
        restore_names(model, {key: tensor.detach().float().numpy(force=True) for key, tensor in list_tensors(module)})
        restore_pools(model)
        check_graph(model, f"export of {name}", "try another opset")
        return model

    def _translate(self, program: ExportedProgram, name: str) -> ModelProto:
        import torch

        try:
            with quiet.silence_tracer(), reuse_tables():
                exported = torch.onnx.export(
                    program,
                    input_names=[INPUT],
                    output_names=[OUTPUT, BOXES][: len(program.graph_signature.user_outputs)],
                    opset_version=self.opset,
                    external_data=False,
                    verbose=False,
                )
        except torch.onnx.errors.OnnxExporterError as error:
            missing = _find_operator(error)
            raise CompressError(
                f"export of {name}: ONNX opset {self.opset} has no {missing}; replace it in the network"
            ) from error
        model: ModelProto = exported.model_proto  # type: ignore[union-attr]  # None only when torch is asked for a file
        return model

    def _finish(self, model: ModelProto) -> None:
        written = next(item.version for item in model.opset_import if item.domain in {"", "ai.onnx"})
        if written != self.opset:
            raise CompressError(f"{WHERE}: asked for opset {self.opset}, torch wrote {written}; ask for that one")
        strip(model.graph)
        for function in model.functions:
            del function.value_info[:], function.metadata_props[:]
            function.doc_string = ""
            strip_nodes(function.node)
        del model.metadata_props[:]
        model.doc_string = ""
        model.producer_name, model.producer_version = "edge-compress", __version__
        if self.batch_size is None:
            for value in (model.graph.input[0], *model.graph.output):
                value.type.tensor_type.shape.dim[0].dim_param = "batch"


def _find_operator(error: BaseException) -> str:
    """Return the operator at the root of a failed conversion."""
    while error.__cause__ is not None:
        error = error.__cause__
    found = re.search(r"OpOverload\(op='([^']+)'", str(error))
    return f"operator for {found[1]}" if found else f"form of this network ({str(error).splitlines()[0]})"
