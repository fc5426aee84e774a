"""ExecuTorch: a `.pte` program for phones and boards, whose work is done by XNNPACK.

The file takes 1 to 128 images in a call, or exactly `batch`: ExecuTorch plans memory ahead, so it needs an
upper bound. Input and output have places in it, not names.

int8 is static PT2E quantization with ExecuTorch's own quantizer for XNNPACK: signed int8, and a scale for each channel of the
weights. Input and output stay float32.

A `.pte` lists instructions for operators that the runtime has, and blobs for its backends. XNNPACK's blobs are graphs and
weights; other backends may take compiled code, which is why `benchmarks/runtimes/executorch.py` opens files for XNNPACK only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from compress.errors import CompressError
from compress.recipe import Count
from exporters._exporter import parse_batch
from exporters._torch.ends import Ends, add_ends
from exporters._torch.pt2e import Pt2eExporter, choose_observers, trace_bounded

if TYPE_CHECKING:
    from torch import nn

LARGEST_BATCH = 128
"""XNNPACK takes any batch; memory for the other operators is planned for so many images, and pages that are not touched cost
nothing."""


class Executorch(Pt2eExporter):
    """Writes a `.pte` file for XNNPACK; needs `pip install 'edge-compress[executorch]'`.

    Args:
        precision: Precision of weights and arithmetic; int8 is made from images.
        batch: Images in every call; dynamic takes 1 to 128.
        preprocess: Whether images are normalised before they come or inside, where they come as uint8 pixels [batch, H, W, C].
        postprocess: Whether logits become class and score behind the file or inside, which then gives both, each [batch].
    """

    runtime: ClassVar[str] = "executorch"
    inert: ClassVar[bool] = True
    where: ClassVar[str] = "exporters/executorch"
    suffix: ClassVar[str] = ".pte"
    usual_batch_size: ClassVar[int | None] = None
    fold: ClassVar[bool] = True

    def __init__(
        self,
        *,
        precision: Literal["fp32", "int8"] = "fp32",
        batch: Literal["dynamic"] | Count = "dynamic",
        preprocess: Literal["outside", "inside"] = "outside",
        postprocess: Literal["outside", "inside"] = "outside",
    ) -> None:
        batch_size = parse_batch(self.where, batch)
        super().__init__(precision=precision, batch_size=batch_size, preprocess=preprocess, postprocess=postprocess)

    def lower(self, graph: nn.Module, shape: tuple[int, ...], name: str, carried: Ends) -> bytes:
        """Lower a traced network; operators that XNNPACK lacks are left to ExecuTorch's portable ones.

        Raises:
            CompressError: ExecuTorch lacks an operator of the network.
        """
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
        from executorch.exir.error import ExportError, InternalError
        from executorch.exir.passes import MemoryPlanningPass

        zeros = carried.make_example(self.batch_size or LARGEST_BATCH, shape)
        program = trace_bounded(add_ends(graph, carried), zeros, batch_size=self.batch_size, largest=LARGEST_BATCH)
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

    def make_quantizer(self, statistics: str) -> Any:
        """Make ExecuTorch's quantizer for XNNPACK."""
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config

        config = get_symmetric_quantization_config(is_per_channel=True)
        return XNNPACKQuantizer().set_global(choose_observers(config, statistics))
