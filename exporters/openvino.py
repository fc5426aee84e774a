"""OpenVINO IR: an `.xml` graph and its `.bin` weights, derived from the ONNX graph of the same network.

OpenVINO compresses weights to fp16 whenever it saves, unless told otherwise, and then clamps what fp16 cannot hold. So the
precision is always said, weights beyond fp16 are refused, and the files are read again before they are handed over.

Importing `openvino` reports the import to its makers (and writes an identity below the user's home) unless the user opted
out or the optional package `openvino_telemetry` is missing. We make that package look missing for the time of the import:
OpenVINO then takes its own stub. No setting of the user is changed.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from compress import _quiet
from compress.errors import CompressError, Unreachable
from compress.files import writable
from compress.records import Precision
from exporters._exporter import About
from exporters.onnx import Onnx

if TYPE_CHECKING:
    from torch import Tensor, nn

LARGEST_FP16 = 65504.0
_STORED = {"fp32": "f32", "fp16": "f16"}
_TOLERATED = {"fp32": 0.0, "fp16": 0.01}
"""Share of the stored numbers that may have another type: OpenVINO keeps shape arithmetic in fp32."""


class Openvino:
    """Writes OpenVINO IR, an `.xml` file with a `.bin` file beside it.

    Args:
        precision: Precision of the stored weights; the arithmetic is the runtime's choice.
    """

    runtime: ClassVar[str] = "openvino"
    inert: ClassVar[bool] = True

    def __init__(self, *, precision: Literal["fp32", "fp16"] = "fp32") -> None:
        if precision not in {"fp32", "fp16"}:
            raise CompressError(f"exporters/openvino: precision {precision!r} is not offered; use 'fp32' or 'fp16'")
        self.precision: Precision = precision
        self.inside = False
        self.batch_size: int | None = None

    def path(self, folder: Path, stem: str) -> Path:
        """Return `folder/STEM-PRECISION.xml`."""
        return folder / f"{stem}-{self.precision}.xml"

    def parts(self, path: Path) -> tuple[Path, Path]:
        """Return the graph and its weights."""
        return (path, path.with_suffix(".bin"))

    def export(self, module: nn.Module, example: Tensor, path: Path, *, about: About | None = None) -> None:  # noqa: ARG002
        """Write the network with a dynamic batch; see the contract in `_exporter.py`."""
        content = Onnx().convert(module, example).SerializeToString(deterministic=True)
        core = _quiet.openvino().Core()
        model = core.read_model(content)
        if self.precision == "fp16":
            _refuse_beyond_fp16(model, path)
        _name_steadily(model)
        with _together(self.parts(path)) as temporary:
            self._save(model, temporary, path)

    def _save(self, model: Any, temporary: Path, path: Path) -> None:
        """Save the model, and read it again: it must be whole and of the precision that its name says."""
        openvino = _quiet.openvino()
        try:
            openvino.save_model(model, temporary, compress_to_fp16=self.precision == "fp16")
            elements = _elements(openvino.Core().read_model(temporary))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise Unreachable(f"{path}: cannot be written ({reason}); free space or choose another folder") from error
        total, kept = sum(elements.values()), elements[_STORED[self.precision]]
        if total - kept > _TOLERATED[self.precision] * total:
            raise CompressError(
                f"{path}: OpenVINO stored only {kept} of {total} weights in {self.precision}; use the other precision"
            )


def _constants(model: Any) -> Iterator[Any]:
    return (
        node for node in model.get_ordered_ops() if node.get_type_name() == "Constant" and node.get_element_type().is_real()
    )


def _elements(model: Any) -> Counter[str]:
    """Count the stored weights by their type."""
    elements: Counter[str] = Counter()
    for constant in _constants(model):
        elements[constant.get_element_type().get_type_name()] += constant.get_byte_size() // constant.get_element_type().size
    return elements


def _refuse_beyond_fp16(model: Any, path: Path) -> None:
    for constant in _constants(model):
        largest = float(abs(constant.get_data()).max(initial=0))
        if largest > LARGEST_FP16:
            name = constant.get_friendly_name()
            raise CompressError(
                f"{path}: weight {name!r} reaches {largest:g}, beyond the {LARGEST_FP16:g} of fp16; export with precision: fp32"
            )


def _name_steadily(model: Any) -> None:
    """Rename nodes that OpenVINO named by a counter of the whole process, so that equal networks give equal bytes."""
    for index, node in enumerate(model.get_ordered_ops()):
        if re.fullmatch(rf"{node.get_type_name()}_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{node.get_type_name()}_{index}")


@contextmanager
def _together(parts: tuple[Path, Path]) -> Iterator[Path]:
    """Give a temporary path for the graph; graph and weights take their places together, or neither does.

    An older graph is removed before the weights change, so a graph that is there always fits the weights beside it.

    Raises:
        Unreachable: The disk is full or the folder cannot be written.
    """
    graph, weights = parts
    with writable(graph):
        graph.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=graph.parent, prefix=f".{graph.name}.") as folder:
            temporary = Path(folder) / graph.name
            yield temporary
            graph.unlink(missing_ok=True)
            temporary.with_suffix(".bin").replace(weights)
            temporary.replace(graph)
