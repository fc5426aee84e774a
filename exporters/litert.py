"""LiteRT (TensorFlow Lite): a `.tflite` file for phones, boards and microcontroller-class processors.

Images come in as everywhere here, float32 [batch, channels, height, width]; the file turns them round once for its own layout.
The signature names input and output `images` and `logits`. The batch is fixed, as is usual for this format: litert-torch 0.10
cannot hold so plain a thing as `flatten(1)` of a dynamic batch.

int8 is static PT2E quantization with litert-torch's own quantizer: signed int8, and a scale for each channel of the weights.
The file is quantized through and through: it takes and gives int8, and says by which scale and zero point.
`benchmarks/runtimes/litert.py` rounds images and scales logits by these, so whoever uses it still sees float32; an application
does the same. What is put around the network stays in floating point: a file that normalises by itself takes uint8 pixels, and
one that gives class and score gives float32 logits with them. The class is int32 in this format.

Writing needs litert-torch, which brings jax and holds typing_extensions back; running needs the small package ai-edge-litert
only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from compress.errors import CompressError
from compress.recipe import Count
from exporters._exporter import CLASS, INPUT, OUTPUT, SCORE
from exporters._torch.ends import Ends, add_ends
from exporters._torch.pt2e import Pt2eExporter, choose_observers

if TYPE_CHECKING:
    from torch import Tensor, nn


class Litert(Pt2eExporter):
    """Writes a `.tflite` file; needs `pip install 'edge-compress[litert]'`, best in an environment of its own.

    Args:
        precision: Precision of weights and arithmetic; int8 is made from images.
        batch: Images in every call; the format has no dynamic batch.
        preprocess: Whether images are normalised before they come or inside, where they come as uint8 pixels [batch, H, W, C].
        postprocess: Whether logits become class and score behind the file or inside, which then gives both, each [batch].
    """

    runtime: ClassVar[str] = "litert"
    inert: ClassVar[bool] = True
    where: ClassVar[str] = "exporters/litert"
    suffix: ClassVar[str] = ".tflite"
    usual_batch_size: ClassVar[int | None] = 1
    fold: ClassVar[bool] = False

    def __init__(
        self,
        *,
        precision: Literal["fp32", "int8"] = "fp32",
        batch: Count = 1,
        preprocess: Literal["outside", "inside"] = "outside",
        postprocess: Literal["outside", "inside"] = "outside",
    ) -> None:
        super().__init__(precision=precision, batch_size=batch, preprocess=preprocess, postprocess=postprocess)

    def lower(self, graph: nn.Module, shape: tuple[int, ...], name: str, carried: Ends) -> bytes:
        """Convert a traced network with litert-torch.

        Raises:
            CompressError: LiteRT lacks an operator of the network.
        """
        with _silence_native_log():
            return self._convert(graph, shape, name, carried)

    def _convert(self, graph: nn.Module, shape: tuple[int, ...], name: str, carried: Ends) -> bytes:
        import litert_torch
        from litert_torch import progress

        progress.console.quiet = True  # it is this library's alone, and writes to stdout
        named, zeros = _name_ports(add_ends(graph, carried)), carried.make_example(self.batch_size or 1, shape)
        try:
            model = litert_torch.convert(named, sample_kwargs={INPUT: zeros}, quant_config=self._make_quant_config())
            return bytes(model.model_content())
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CompressError(
                f"export of {name}: LiteRT cannot hold this network ({reason}); replace that operator, or use format onnx"
            ) from error

    def _make_quant_config(self) -> Any:
        if self.precision != "int8":
            return None
        from litert_torch.quantize.quant_config import QuantConfig

        return QuantConfig(pt2e_quantizer=self.make_quantizer("default"))

    def make_quantizer(self, statistics: str) -> Any:
        """Make litert-torch's own quantizer."""
        from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config

        config = get_symmetric_quantization_config(is_per_channel=True)
        return PT2EQuantizer().set_global(choose_observers(config, statistics))


@contextmanager
def _silence_native_log() -> Iterator[None]:
    """Silence the converter's C++ log, which has no switch; whatever is written to stderr meanwhile is lost with it."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as sink:
            os.dup2(sink.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _name_ports(graph: nn.Module) -> nn.Module:
    """Name the input and the outputs of a graph [batch, ...]: the names are those of the file's signature."""
    import torch

    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = graph
            self.training = False  # traced programs refuse `eval()`, and litert-torch asks

        def forward(self, images: Tensor) -> dict[str, Tensor]:
            outputs = self.network(images)
            return dict(zip((OUTPUT, CLASS, SCORE), outputs, strict=True)) if isinstance(outputs, tuple) else {OUTPUT: outputs}

    return Named()
