"""OpenVINO IR: an `.xml` graph and its `.bin` weights, derived from the ONNX graph of the same network.

OpenVINO compresses weights to fp16 whenever it saves, unless told otherwise, and then clamps what fp16 cannot hold. So the
precision is always said, weights beyond fp16 are refused, and the files are read again before they are handed over. int8 is
made by NNCF on the OpenVINO graph.

Importing `openvino` reports the import to its makers (and writes an identity below the user's home) unless the user opted
out or the optional package `openvino_telemetry` is missing, and `nncf` reports every quantization. We make that package look
missing for the time of the import: both then take a stub. No setting of the user is changed.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from compress.errors import CompressError
from compress.recipe import Count
from compress.records import Precision, Preprocess
from exporters._exporter import About, check_option, name_options, parse_batch, parse_places, refuse_without_images
from exporters._onnx.graph import check_preprocess
from exporters._openvino.file import list_parts, write_files
from exporters._openvino.graph import find_constants, find_layers, translate, write_metadata
from exporters._openvino.int8 import ESTIMATIONS, QuantizableOpenvino
from exporters._torch.calibration_images import check_images
from exporters.onnx import Onnx

if TYPE_CHECKING:
    from torch import Tensor, nn

WHERE = "exporters/openvino"
LARGEST_FP16 = 65504.0
_STORED = {"fp32": "f32", "fp16": "f16"}
_TOLERATED = {"fp32": 0.0, "fp16": 0.01}
"""Share of the stored numbers that may have another type: OpenVINO keeps shape arithmetic in fp32."""


class Openvino:
    """Writes OpenVINO IR, an `.xml` file with a `.bin` file beside it.

    Args:
        precision: Precision of the stored weights; the arithmetic is the runtime's choice. int8 is estimated on images.
        batch: Images in every call; a fixed number lets the compiler do better, and then every caller must feed it.
        preprocess: Whether images are normalised before they come or inside, where they come as uint8 pixels [batch, H, W, C].
        postprocess: Whether logits become class and score behind the file or inside, which then gives both, each [batch];
            of maps of logits the class of each pixel alone, [batch, height, width].

    Raises:
        CompressError: An option has a value that is not offered.
    """

    runtime: ClassVar[str] = "openvino"
    inert: ClassVar[bool] = True
    gives_boxes: ClassVar[bool] = True
    gives_maps: ClassVar[bool] = True
    statistics: ClassVar[tuple[str, ...]] = tuple(ESTIMATIONS)
    no_spare_bit: ClassVar[str] = ""

    def __init__(
        self,
        *,
        precision: Literal["fp32", "fp16", "int8"] = "fp32",
        batch: Literal["dynamic"] | Count = "dynamic",
        preprocess: Literal["outside", "inside"] = "outside",
        postprocess: Literal["outside", "inside"] = "outside",
    ) -> None:
        check_option(WHERE, "precision", precision, ("fp32", "fp16", "int8"))
        self.precision: Precision = precision
        self.takes_pixels, self.gives_class = parse_places(WHERE, preprocess, postprocess)
        self.batch_size = parse_batch(WHERE, batch)

    def name_file(self, folder: Path, stem: str) -> Path:
        """Return `folder/STEM-PRECISION.xml`, with what differs from the default options in its name."""
        others = name_options(self.batch_size, takes_pixels=self.takes_pixels, gives_class=self.gives_class)
        return folder / f"{stem}-{self.precision}{others}.xml"

    def list_parts(self, path: Path) -> tuple[Path, Path]:
        """Return the graph and its weights."""
        return list_parts(path)

    def export(self, module: nn.Module, example: Tensor, path: Path, *, about: About | None = None) -> None:
        """Write the network that maps images [B, C, H, W] to logits [B, K]; see the contract in `_exporter.py`.

        Raises:
            CompressError: As in the contract.
            Unreachable: As in the contract.
        """
        refuse_without_images(self.precision, type(module).__name__)
        pixels = self._choose_preprocess(module, example, about)
        content = Onnx(batch=self.batch_size or "dynamic").convert(module, example).SerializeToString(deterministic=True)
        model = translate(content)
        if self.precision == "fp16":
            _refuse_beyond_fp16(model, path)
        write_metadata(model, about, takes_pixels=self.takes_pixels)
        write_files(
            model, path, check=lambda stored: self._check_stored(stored, path), half=self.precision == "fp16", pixels=pixels,
            gives_class=self.gives_class,
        )  # fmt: skip

    def prepare_int8(
        self, module: nn.Module, example: Tensor, images: NDArray[np.float32], *, about: About | None = None
    ) -> QuantizableOpenvino:
        """Translate the network and keep the calibration images [N, C, H, W]; see the contract in `_exporter.py`.

        A fixed batch is set on the finished graphs: calibrated image by image, they have the ranges of a dynamic one.

        Raises:
            CompressError: Besides what the contract says: no layer has weights to quantize.
        """
        if self.precision != "int8":
            raise CompressError(f"{WHERE}: precision is {self.precision!r}; only 'int8' is quantized")
        name = type(module).__name__
        pixels = self._choose_preprocess(module, example, about)
        check_images(images, tuple(example.shape[1:]), f"export of {name}")
        content = Onnx().convert(module, example).SerializeToString(deterministic=True)
        model = translate(content)
        layers = find_layers(model, content, {weight for weight, _ in module.named_parameters()})
        if not layers:
            raise CompressError(
                f"export of {name}: no convolution or linear layer has weights to quantize; use precision: fp32"
            )
        write_metadata(model, about, takes_pixels=self.takes_pixels)
        return QuantizableOpenvino(
            model, layers, images, batch_size=self.batch_size, pixels=pixels, gives_class=self.gives_class
        )

    def _choose_preprocess(self, module: nn.Module, example: Tensor, about: About | None) -> Preprocess | None:
        """Return the preprocessing that goes into the file, if any."""
        if not self.takes_pixels:
            return None
        name = type(module).__name__
        if about is None:
            raise CompressError(f"export of {name}: preprocess: inside needs to know the preprocessing; give `about`")
        check_preprocess(about.preprocess, tuple(example.shape), f"export of {name}")
        return about.preprocess

    def _check_stored(self, stored: Any, path: Path) -> None:
        """Refuse a file that is not of the precision that its name says."""
        elements = _count_elements(stored)
        total, kept = sum(elements.values()), elements[_STORED[self.precision]]
        if total - kept > _TOLERATED[self.precision] * total:
            raise CompressError(
                f"{path}: OpenVINO stored only {kept} of {total} weights in {self.precision}; use the other precision"
            )


def _count_elements(model: Any) -> Counter[str]:
    """Count the stored weights by their type."""
    elements: Counter[str] = Counter()
    for constant in find_constants(model):
        elements[constant.get_element_type().get_type_name()] += constant.get_byte_size() // constant.get_element_type().size
    return elements


def _refuse_beyond_fp16(model: Any, path: Path) -> None:
    for constant in find_constants(model):
        largest = float(abs(constant.get_data()).max(initial=0))
        if largest > LARGEST_FP16:
            name = constant.get_friendly_name()
            raise CompressError(
                f"{path}: weight {name!r} reaches {largest:g}, beyond the {LARGEST_FP16:g} of fp16; export with precision: fp32"
            )
