"""Put normalisation in front of a traced network, and class and score behind it; for formats that torch lowers by itself.

Both are put around the finished graph, behind quantization, so they are computed in float32 whatever the precision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from compress.errors import CompressError
from compress.preprocess import compute_scale_shift
from compress.records import Preprocess
from exporters._exporter import About
from exporters._onnx.graph import check_preprocess

if TYPE_CHECKING:
    from torch import Tensor, nn


class Ends(NamedTuple):
    """Normalisation, class and score that a file carries beside its network."""

    pixels: Preprocess | None
    """The preprocessing to put in front; the file then takes uint8 [batch, height, width, channels]."""
    gives_class: bool
    """Put class and score behind; the file then gives logits, class [batch], and score [batch]."""

    def make_example(self, batch: int, shape: tuple[int, ...]) -> Tensor:
        """Make an input for tracing: zeros, float32 [batch, C, H, W], or uint8 [batch, H, W, C] where the file normalises.

        Args:
            batch: Number of images.
            shape: Of a normalised image, (C, H, W).
        """
        import torch

        channels, height, width = shape
        if self.pixels is None:
            return torch.zeros(batch, channels, height, width)
        return torch.zeros(batch, height, width, channels, dtype=torch.uint8)


def choose_ends(about: About | None, example: Tensor, *, takes_pixels: bool, gives_class: bool, where: str) -> Ends:
    """Choose what a file carries beside its network.

    Args:
        about: Holds the preprocessing.
        example: One image, [1, channels, height, width].
        takes_pixels: Whether the file shall normalise by itself.
        gives_class: Whether it shall give class and score.
        where: What is exported, for messages.

    Raises:
        CompressError: The preprocessing is not known, or does not make what the network takes.
    """
    if not takes_pixels:
        return Ends(None, gives_class)
    if about is None:
        raise CompressError(f"{where}: preprocess: inside needs to know the preprocessing; give `about`")
    check_preprocess(about.preprocess, tuple(example.shape), where)
    return Ends(about.preprocess, gives_class)


def add_ends(graph: nn.Module, carried: Ends) -> nn.Module:
    """Put the ends around a network: it then gives logits, or a tuple of logits, class and score.

    Args:
        graph: Maps images [batch, channels, height, width] to logits [batch, classes].
        carried: The ends.
    """
    import torch

    pixels, gives_class = carried
    if pixels is None and not gives_class:
        return graph

    class Whole(torch.nn.Module):
        scale: Tensor
        shift: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.network = graph
            self.training = False  # traced programs refuse `eval()`, and litert-torch asks
            if pixels is not None:
                scale, shift = compute_scale_shift(pixels)
                self.register_buffer("scale", torch.from_numpy(scale.copy())[:, None, None])
                self.register_buffer("shift", torch.from_numpy(shift.copy())[:, None, None])

        def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
            if pixels is not None:
                planar = images.permute(0, 3, 1, 2).contiguous().to(torch.float32)  # [batch, channels, height, width]
                images = planar * self.scale + self.shift
            logits: Tensor = self.network(images)
            return (logits, logits.argmax(1), logits.softmax(1).amax(1)) if gives_class else logits

    return Whole()
