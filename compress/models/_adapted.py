"""Changes to networks of other packages: colour channels, the first halvings, the sizes they take, and tokens as maps.

Names of layers stay as they are there, so that weights of those packages load.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from compress.errors import CompressError
from compress.models._network import Auxiliary, Network, Outputs

FULL_STRIDE = 32
"""Pixels for each cell of the last map, in networks made for photographs: five halvings."""


class Sized(Network):
    """A network that takes images of some sizes only, and refuses others with a message.

    Args:
        module: As for `Network`.
        taps: As for `Network`.
        classifier: As for `Network`.
        smallest: Least height and width in pixels.
        largest: Most height and width in pixels; `None` takes any.
        auxiliary: As for `Network`.
        prefix_tokens: Tokens before those of the patches, which are laid out as maps; `None` leaves tokens as they are.
    """

    def __init__(
        self, module: nn.Module, *, taps: Sequence[str], classifier: str | None, smallest: int, largest: int | None = None,
        auxiliary: Auxiliary | None = None, prefix_tokens: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(module, taps=taps, classifier=classifier, auxiliary=auxiliary)
        self.smallest, self.largest, self.prefix_tokens = smallest, largest, prefix_tokens

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, K] for images [B, C, H, W].

        Raises:
            CompressError: The images are too small or too large.
        """
        height, width = images.shape[-2:]
        if min(height, width) < self.smallest or (self.largest is not None and max(height, width) > self.largest):
            wanted = f"{self.smallest} × {self.smallest} pixels" + ("" if self.smallest == self.largest else " or more")
            raise CompressError(
                f"{type(self.module).__name__}: takes images of {wanted}, not of {height} × {width}; change data.image_size, "
                "or the image_size of the model if it has one"
            )
        return super().forward(images)

    def outputs(self, images: Tensor) -> Outputs:
        """Return logits [B, K] and what each tap gives, for images [B, C, H, W]: tokens [B, t, c] as maps if that is wanted.

        Raises:
            CompressError: As for `Network`; or the tokens are no grid of patches.
        """
        found = super().outputs(images)
        if self.prefix_tokens is None:
            return found
        height, width = images.shape[-2:]
        maps = [lay_out_tokens(each, prefix=self.prefix_tokens, ratio=height / width) for each in found.features]
        return found._replace(features=tuple(maps))


def lay_out_tokens(tokens: Tensor, *, prefix: int, ratio: float) -> Tensor:
    """Return the tokens of patches [B, prefix + h·w, c], row after row, as maps [B, c, h, w]; maps come back as they are.

    Args:
        tokens: What a layer of a transformer gives.
        prefix: How many tokens of classes and registers come first; they have no place in the image and are left out.
        ratio: Height of the image in its width.

    Raises:
        CompressError: So many patches are no grid of this shape.
    """
    if tokens.dim() != 3:
        return tokens
    patches = tokens.shape[1] - prefix
    rows = max(round((patches * ratio) ** 0.5), 1)
    if patches < 1 or patches % rows:
        raise CompressError(
            f"token_maps: {tokens.shape[1]} tokens, {prefix} of which are of no patch, are no grid for an image {ratio:g} "
            "times as high as wide; leave token_maps out, or tap other layers"
        )
    return tokens[:, prefix:].transpose(1, 2).reshape(len(tokens), -1, rows, patches // rows)


def take_channels(module: nn.Module, first: str, channels: int) -> None:
    """Let the first convolution take images of so many channels; its weights stay spread as they were.

    Args:
        module: Takes RGB images.
        first: Name of its first convolution.
        channels: Of the images.

    Raises:
        TypeError: That layer is no convolution.
    """
    layer = module.get_submodule(first)
    if not isinstance(layer, nn.Conv2d):
        raise TypeError(f"{first} is a {type(layer).__name__}, not a convolution")
    if channels != layer.in_channels:
        kept = [channel % layer.in_channels for channel in range(channels)]
        layer.in_channels, layer.weight = channels, nn.Parameter(layer.weight.detach()[:, kept].clone())


def keep_size(module: nn.Module, halvings: Sequence[Sequence[str]], output_stride: int) -> None:
    """Let the first layers that halve the map keep its size: convolutions lose their stride, poolings vanish.

    Args:
        module: Halves the map five times.
        halvings: Names of the layers of the first halvings; several where branches meet.
        output_stride: Pixels for each cell of the last map that are wanted: 32, 16 or 8.
    """
    for names in halvings[: (FULL_STRIDE // output_stride).bit_length() - 1]:
        for name in names:
            layer = module.get_submodule(name)
            if isinstance(layer, nn.Conv2d):
                layer.stride = (1, 1)
            else:
                module.set_submodule(name, nn.Identity())
