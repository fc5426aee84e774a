"""Maps of a backbone at several resolutions, and a light decoder that brings them together from the deepest up.

Everything is convolution, batch norm, ReLU, sum and bilinear resizing, which all formats have and which stand int8: no
squeeze-and-excitation, no hard-swish, no transposed convolution.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torchvision.models.feature_extraction import create_feature_extractor

from compress.errors import CompressError
from compress.models._network import Network, find_shapes

PROBED = 128
"""Height and width of the image by which the strides of a backbone are found."""


class Backbone(nn.Module):
    """The taps of a network for classification as one module, without what follows the last of them.

    Args:
        network: Its taps give maps [B, c, h, w]; names of its layers are kept below `body`, so that its weights load.
        channels: Of the images.
        name: What the network is called in messages.

    Raises:
        CompressError: It has no taps that give maps, or its layers cannot be followed.
    """

    def __init__(self, network: Network, channels: int, *, name: str) -> None:
        super().__init__()
        side = getattr(network, "largest", None) or PROBED
        features = find_shapes(network, torch.zeros(1, channels, side, side)).features
        if {feature.ndim for feature in features} != {4}:
            raise CompressError(f"{name}: has no taps that give maps, and a decoder needs them; choose one of convolutions")
        self.widths = [feature.shape[1] for feature in features]
        self.strides = [side // feature.shape[2] for feature in features]
        nodes = {tap: str(place) for place, tap in enumerate(network.taps)}
        try:
            self.body = create_feature_extractor(network.module, nodes)
        except (ValueError, TypeError, fx.proxy.TraceError) as error:
            reason = str(error).partition("\n")[0]
            raise CompressError(f"{name}: its layers cannot be followed ({reason}); choose another backbone") from error
        _remove_unused(self.body)
        self.stages = nn.ModuleList(nn.Identity() for _ in network.taps)  # what is tapped: the body's layers are inlined

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the map of each stage, [B, c, h, w], shallow to deep, of images [B, C, H, W]."""
        maps = self.body(images)
        return [stage(maps[str(place)]) for place, stage in enumerate(self.stages)]


def _remove_unused(body: fx.GraphModule) -> None:
    """Remove what follows the last tap and was left in the graphs, of training and of evaluation, because it checks shapes."""
    was_training = body.training
    for mode in (True, False):
        body.train(mode)
        for node in reversed(body.graph.nodes):
            if node.target is torch._assert:
                body.graph.erase_node(node)
        body.graph.eliminate_dead_code()
        body.recompile()
    body.delete_all_unused_submodules()
    body.train(was_training)


class Convolutions(nn.Module):
    """A backbone for small images: stages of 3 × 3 convolutions, each of which halves the size.

    Args:
        widths: Channels of each stage; the first is a stem.
        channels: Of the images.
        blocks: Residual blocks of two convolutions in each stage behind the stem.
    """

    def __init__(self, widths: Sequence[int], channels: int, *, blocks: int) -> None:
        super().__init__()
        self.widths, self.strides = list(widths[1:]), [2 << place for place in range(1, len(widths))]
        self.stages = nn.ModuleList()
        for place, width in enumerate(widths):
            halving = convolve(channels, width, stride=2)
            self.stages.append(nn.Sequential(halving, *(_Residual(width) for _ in range(blocks if place else 0))))
            channels = width

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the map of each stage but the stem, [B, c, h, w], shallow to deep, of images [B, C, H, W]."""
        maps, last = [], images
        for stage in self.stages:
            last = stage(last)
            maps.append(last)
        return maps[1:]


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = convolve(width, width), convolve(width, width, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class TopDown(nn.Module):
    """A decoder: each map in as many channels, and from the deepest on added to the next, resized.

    Args:
        inputs: Channels of the maps, shallow to deep.
        width: Channels of the decoder.
        separable: Smooth each level by a convolution for each channel and one across them, instead of a full one.
    """

    def __init__(self, inputs: Sequence[int], width: int, *, separable: bool) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(convolve(channels, width, kernel=1, activate=False) for channels in inputs)
        self.smooth = nn.ModuleList(_smooth(width, separable=separable) for _ in inputs)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return a map [B, width, h, w] for each of the maps [B, c, h, w], shallow to deep."""
        levels: list[Tensor] = []
        for stage, lateral, smooth in reversed(list(zip(maps, self.laterals, self.smooth, strict=True))):
            level = lateral(stage)
            if levels:
                level = level + _enlarge(levels[0], level.shape[2], level.shape[3])
            levels.insert(0, smooth(F.relu(level)))
        return levels


def _enlarge(deeper: Tensor, height: int, width: int) -> Tensor:
    """Return a map [B, c, h, w] in another size, [B, c, H, W]; twice the size is a factor, which files need not compute."""
    size = (height, width)
    if size == (2 * deeper.shape[2], 2 * deeper.shape[3]):
        return F.interpolate(deeper, scale_factor=2.0, mode="bilinear", align_corners=False)
    return F.interpolate(deeper, size=size, mode="bilinear", align_corners=False)


def _smooth(width: int, *, separable: bool) -> nn.Module:
    if not separable:
        return convolve(width, width)
    return nn.Sequential(convolve(width, width, groups=width), convolve(width, width, kernel=1))


def convolve(
    inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, groups: int = 1, activate: bool = True
) -> nn.Sequential:
    """Return a convolution, its batch norm and, unless told otherwise, a ReLU."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), *([nn.ReLU()] if activate else []))
