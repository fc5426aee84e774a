"""ExecuTorch: a `.pte` program for phones and boards, whose work is done by XNNPACK.

The file takes 1 to 128 images in a call, or exactly as many as `batch` says: ExecuTorch plans memory ahead, so it needs an
upper bound. Input and output have places in it, not names.

int8 is static PT2E quantization with ExecuTorch's own quantizer for XNNPACK: signed int8, and a scale for each channel of the
weights. Input and output stay float32.

A `.pte` lists instructions for operators that the runtime has, and blobs for its backends. XNNPACK's blobs are graphs and
weights; other backends may take compiled code, which is why `benchmarks/runtimes/executorch.py` opens files for XNNPACK only.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from compress.errors import CompressError
from compress.recipe import Count
from compress.records import Precision
from compress.system.files import whole
from exporters._exporter import About
from exporters._torch import pt2e as _pt2e
from exporters._torch.ends import Ends, ends, with_ends
from exporters._torch.trace import trace

if TYPE_CHECKING:
    from torch import Tensor, nn

WHERE = "exporters/executorch"
LARGEST_BATCH = 128
"""What XNNPACK does not take over is planned for so many images; pages that are not touched cost nothing."""


class Executorch:
    """Writes a `.pte` file for XNNPACK; needs `pip install 'edge-compress[executorch]'`.

    Args:
        precision: Precision of weights and arithmetic; int8 is made from images.
        batch: Images in every call; dynamic takes 1 to 128.
        preprocess: Whether images are normalised before they come or inside, where they come as uint8 pixels [batch, H, W, C].
        postprocess: Whether logits become class and score behind the file or inside, which then gives both, each [batch].
    """

    runtime: ClassVar[str] = "executorch"
    inert: ClassVar[bool] = True
    statistics: ClassVar[tuple[str, ...]] = _pt2e.STATISTICS
    no_spare_bit: ClassVar[str] = _pt2e.NO_SPARE_BIT

    def __init__(
        self,
        *,
        precision: Literal["fp32", "int8"] = "fp32",
        batch: Literal["dynamic"] | Count = "dynamic",
        preprocess: Literal["outside", "inside"] = "outside",
        postprocess: Literal["outside", "inside"] = "outside",
    ) -> None:
        if precision not in {"fp32", "int8"}:
            raise CompressError(f"{WHERE}: precision {precision!r} is not offered; use 'fp32' or 'int8'")
        for option, value in (("preprocess", preprocess), ("postprocess", postprocess)):
            if value not in {"outside", "inside"}:
                raise CompressError(f"{WHERE}: {option} {value!r} is not offered; use 'outside' or 'inside'")
        self.precision: Precision = precision
        self.takes_pixels, self.gives_class = preprocess == "inside", postprocess == "inside"
        self.batch_size: int | None = None if batch == "dynamic" else batch

    def path(self, folder: Path, stem: str) -> Path:
        """Return `folder/STEM-PRECISION.pte`, with what differs from the default options in its name."""
        batch = "" if self.batch_size is None else f"-batch{self.batch_size}"
        return folder / f"{stem}-{self.precision}{batch}{'-pixels' * self.takes_pixels}{'-scores' * self.gives_class}.pte"

    def parts(self, path: Path) -> tuple[Path, ...]:
        """Return the file itself."""
        return (path,)

    def export(self, module: nn.Module, example: Tensor, path: Path, *, about: About | None = None) -> None:
        """Write the network; see the contract in `_exporter.py`."""
        name = type(module).__name__
        if self.precision == "int8":
            raise CompressError(f"export of {name}: precision int8 needs images to estimate ranges; give calibration images")
        carried = self._ends(about, example, name)
        program = trace(module, example, batch=self.batch_size)
        self._save(program.module(), tuple(example.shape[1:]), path, name, carried)

    def quantisable(
        self,
        module: nn.Module,
        example: Tensor,
        images: NDArray[np.float32],
        *,
        about: About | None = None,
    ) -> _pt2e.Pt2e:
        """Trace the network and keep the images for calibration; see the contract in `_exporter.py`."""
        name, shape = type(module).__name__, tuple(example.shape[1:])
        carried = self._ends(about, example, name)
        return _pt2e.Pt2e(
            where=WHERE,
            traced=_pt2e.traced(module, example, images, self.batch_size),
            images=images,
            batch_size=self.batch_size,
            quantizer=_quantizer,
            save=lambda graph, path: self._save(graph, shape, path, name, carried),
            fold=True,
        )

    def _ends(self, about: About | None, example: Tensor, name: str) -> Ends:
        return ends(about, example, takes_pixels=self.takes_pixels, gives_class=self.gives_class, where=f"export of {name}")

    def _save(self, graph: nn.Module, shape: tuple[int, ...], path: Path, name: str, carried: Ends) -> None:
        """Lower a traced network and write it; what XNNPACK cannot do is left to ExecuTorch's portable operators."""
        with whole(path) as temporary, _pt2e.foreign(WHERE):  # lowering itself needs room on the disk
            temporary.write_bytes(self._lowered(graph, shape, name, carried))

    def _lowered(self, graph: nn.Module, shape: tuple[int, ...], name: str, carried: Ends) -> bytes:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
        from executorch.exir.error import ExportError, InternalError
        from executorch.exir.passes import MemoryPlanningPass

        zeros = carried.example(self.batch_size or LARGEST_BATCH, shape)
        program = _pt2e.bounded(with_ends(graph, carried), zeros, batch_size=self.batch_size, largest=LARGEST_BATCH)
        planned = ExecutorchBackendConfig(
            memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False),  # the caller's own images are used
        )
        try:
            lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            return bytes(lowered.to_executorch(planned).buffer)
        except (ExportError, InternalError, RuntimeError, NotImplementedError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CompressError(
                f"export of {name}: ExecuTorch cannot hold this network ({reason}); replace that operator, or use format onnx"
            ) from error


def _quantizer(statistics: str) -> Any:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config

    config = get_symmetric_quantization_config(is_per_channel=True)
    return XNNPACKQuantizer().set_global(_pt2e.with_statistics(config, statistics))
