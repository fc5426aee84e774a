"""torch.export: the network as a `.pt2` program, so that another process can run it in torch without any of our code.

Loading one is not safe: torch 2.13 reads custom constants with `pickle.loads`, tensor subclasses with
`torch.load(weights_only=False)`, falls back to that for the sample inputs, and parses symbolic shapes with sympy's `eval`.
So these files are only ever loaded from a run's own folder, never put in a bundle. What we write ourselves is plain: raw
tensors, JSON, and zeros for sample inputs.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from compress.records import Precision
from compress.system import quiet
from compress.system.files import write_whole
from exporters._exporter import About, check_option
from exporters._onnx.reuse import find_or_trace

if TYPE_CHECKING:
    from torch import Tensor, nn


class Torch:
    """Writes a `.pt2` file for `torch.export.load(path).module()`.

    Args:
        precision: Precision of weights and arithmetic.
    """

    runtime: ClassVar[str] = "torch"
    inert: ClassVar[bool] = False
    gives_boxes: ClassVar[bool] = True

    def __init__(self, *, precision: Literal["fp32"] = "fp32") -> None:
        check_option("exporters/torch", "precision", precision, ("fp32",))
        self.precision: Precision = precision
        self.takes_pixels = self.gives_class = False
        self.batch_size: int | None = None

    def name_file(self, folder: Path, stem: str) -> Path:
        """Return `folder/STEM-fp32.pt2`."""
        return folder / f"{stem}-{self.precision}.pt2"

    def list_parts(self, path: Path) -> tuple[Path, ...]:
        """Return the file itself."""
        return (path,)

    def export(self, module: nn.Module, example: Tensor, path: Path, *, about: About | None = None) -> None:  # noqa: ARG002 (no room for it)
        """Write the network with a dynamic batch, images [B, C, H, W] to logits [B, K]; see the contract in `_exporter.py`.

        Raises:
            CompressError: As in the contract.
            Unreachable: As in the contract.
        """
        import torch

        # through memory: an archive that is written by name repeats that name inside, here a random temporary one
        archive = io.BytesIO()
        program = find_or_trace(module, example)
        with quiet.silence_tracer():
            torch.export.save(program, archive)
        with write_whole(path) as temporary:
            temporary.write_bytes(archive.getvalue())
