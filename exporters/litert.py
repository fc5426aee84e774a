"""LiteRT (TensorFlow Lite): a `.tflite` file for phones, boards and microcontroller-class processors.

Images come in as everywhere here, float32 [batch, channels, height, width]; the file turns them round once for its own layout.
The signature names input and output `images` and `logits`. The batch is fixed, as is usual for this format: litert-torch 0.10
cannot hold so plain a thing as `flatten(1)` of a dynamic batch.

int8 is static PT2E quantization with litert-torch's own quantizer: signed int8, and a scale for each channel of the weights.
The file is quantised through and through: it takes and gives int8, and says by which scale and zero point.
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

import numpy as np
from numpy.typing import NDArray

from compress.errors import CompressError
from compress.recipe import Count
from compress.records import Precision
from compress.system.files import whole
from exporters._exporter import CLASS, INPUT, OUTPUT, SCORE, About
from exporters._torch import pt2e as _pt2e
from exporters._torch.ends import Ends, ends, with_ends
from exporters._torch.trace import trace

if TYPE_CHECKING:
    from torch import Tensor, nn

WHERE = "exporters/litert"


class Litert:
    """Writes a `.tflite` file; needs `pip install 'edge-compress[litert]'`, best in an environment of its own.

    Args:
        precision: Precision of weights and arithmetic; int8 is made from images.
        batch: Images in every call; the format has no dynamic batch.
        preprocess: Whether images are normalised before they come or inside, where they come as uint8 pixels [batch, H, W, C].
        postprocess: Whether logits become class and score behind the file or inside, which then gives both, each [batch].
    """

    runtime: ClassVar[str] = "litert"
    inert: ClassVar[bool] = True
    statistics: ClassVar[tuple[str, ...]] = _pt2e.STATISTICS
    no_spare_bit: ClassVar[str] = _pt2e.NO_SPARE_BIT

    def __init__(
        self,
        *,
        precision: Literal["fp32", "int8"] = "fp32",
        batch: Count = 1,
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
        self.batch_size: int | None = batch

    def path(self, folder: Path, stem: str) -> Path:
        """Return `folder/STEM-PRECISION.tflite`, with what differs from the default options in its name."""
        batch = "" if self.batch_size == 1 else f"-batch{self.batch_size}"
        return folder / f"{stem}-{self.precision}{batch}{'-pixels' * self.takes_pixels}{'-scores' * self.gives_class}.tflite"

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
            fold=False,
        )

    def _ends(self, about: About | None, example: Tensor, name: str) -> Ends:
        return ends(about, example, takes_pixels=self.takes_pixels, gives_class=self.gives_class, where=f"export of {name}")

    def _save(self, graph: nn.Module, shape: tuple[int, ...], path: Path, name: str, carried: Ends) -> None:
        with whole(path) as temporary, _pt2e.foreign(WHERE), _without_native_log():
            temporary.write_bytes(self._converted(graph, shape, name, carried))

    def _converted(self, graph: nn.Module, shape: tuple[int, ...], name: str, carried: Ends) -> bytes:
        import litert_torch
        from litert_torch import progress

        progress.console.quiet = True  # it is this library's alone, and writes to stdout
        named, zeros = _named(with_ends(graph, carried)), carried.example(self.batch_size or 1, shape)
        try:
            model = litert_torch.convert(named, sample_kwargs={INPUT: zeros}, quant_config=self._quant_config())
            return bytes(model.model_content())
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CompressError(
                f"export of {name}: LiteRT cannot hold this network ({reason}); replace that operator, or use format onnx"
            ) from error

    def _quant_config(self) -> Any:
        if self.precision != "int8":
            return None
        from litert_torch.quantize.quant_config import QuantConfig

        return QuantConfig(pt2e_quantizer=_quantizer("default"))


@contextmanager
def _without_native_log() -> Iterator[None]:
    """Keep the converter's C++ log away, which has no switch: what anybody writes to stderr meanwhile is lost with it."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as sink:
            os.dup2(sink.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _quantizer(statistics: str) -> Any:
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config

    config = get_symmetric_quantization_config(is_per_channel=True)
    return PT2EQuantizer().set_global(_pt2e.with_statistics(config, statistics))


def _named(graph: nn.Module) -> nn.Module:
    """Return the graph with names for its input and outputs, which are those of the file's signature."""
    import torch

    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = graph
            self.training = False  # traced programs refuse `eval()`, and litert-torch asks

        def forward(self, images: Tensor) -> dict[str, Tensor]:
            answer = self.network(images)
            return dict(zip((OUTPUT, CLASS, SCORE), answer, strict=True)) if isinstance(answer, tuple) else {OUTPUT: answer}

    return Named()
