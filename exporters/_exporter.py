"""The contract of a deployment format.

An exporter is a class named after its file whose keyword-only arguments, each with a default, are its options in the recipe.
It turns a torch
module into one self-contained file and nothing else: proving the file is the gate's work (`_verify.py`), running it the
runner's. Input and output are named `images` (float32 [batch, channels, height, width]) and `logits` (float32 [batch,
classes]) in every format. Heavy packages are imported inside functions, so that asking an exporter for a path costs nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from compress.records import Precision

if TYPE_CHECKING:
    from torch import Tensor, nn

INPUT, OUTPUT = "images", "logits"


class Exporter(Protocol):
    """What every exporter does."""

    runtime: ClassVar[str]
    """The runtime (`benchmarks/runtimes`) on which its files are gated."""
    inert: ClassVar[bool]
    """Whether a file is data only. One whose loading can run code never enters a bundle, for bundles come from strangers."""
    batch_size: int | None
    """The only number of images that its files take in a call; `None` takes any."""
    precision: Precision
    """Precision of the weights in the file."""

    def path(self, folder: Path, stem: str) -> Path:
        """Return the path of the file that the runtime opens, for example `folder/student-fp32.onnx`."""

    def parts(self, path: Path) -> tuple[Path, ...]:
        """Return every file that belongs to `path`, itself included."""

    def export(self, module: nn.Module, example: Tensor, path: Path) -> None:
        """Write `module`, in evaluation mode and float32 on the CPU, whole or not at all.

        Args:
            module: Maps images [batch, channels, height, width] to logits [batch, classes]; left as it was.
            example: One image, [1, channels, height, width]; only its shape is used.
            path: As `path` returns it.

        Raises:
            CompressError: The format cannot hold this network; the message names the operator or weight.
            Unreachable: The disk is full or the folder cannot be written.
        """
