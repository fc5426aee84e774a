"""A detector: a backbone, a neck, and for each of its maps the logits of each class and a box in every cell.

The box of a cell is how far its sides lie from the cell's centre, in strides: softplus of a convolution, so that none is
negative. Centres and strides are constants of the graph. Nothing chooses among the boxes inside the network: that (NMS) has no
fixed number of results, and is done behind it.

Source: FCOS, arXiv:1904.01355, without centre-ness; one head for each map instead of one for all, so that each has ranges of
its own in int8. The bias that begins all scores at 0.01 is that of arXiv:1708.02002.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.errors import CompressError
from compress.models._pyramid import Backbone, Convolutions, TopDown, convolve

PRIOR = 0.01
"""Score with which every class begins in every cell."""
FIRST_DISTANCE = 2.0
"""Strides from the centre of a cell to each side of its box, about, with which training begins."""


class Head(nn.Module):
    """Logits and distances of one map.

    Args:
        width: Channels of the map.
        classes: Number of classes.
        stride: Pixels for each cell.
        separable: Use a convolution for each channel and one across them, instead of a full one.
    """

    def __init__(self, width: int, classes: int, stride: int, *, separable: bool) -> None:
        super().__init__()
        self.stride = stride
        self.of_classes, self.of_boxes = (_make_branch(width, separable=separable) for _ in range(2))
        self.classify, self.locate = nn.Conv2d(width, classes, 1), nn.Conv2d(width, 4, 1)
        for layer, bias in ((self.classify, -math.log((1 - PRIOR) / PRIOR)), (self.locate, FIRST_DISTANCE)):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type]  # it has one

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, h·w, K] and boxes [B, h·w, 4] in pixels of the image, of a map [B, c, h, w]."""
        logits = self.classify(self.of_classes(x)).flatten(2).transpose(1, 2)
        distances = self.locate(self.of_boxes(x)).flatten(2).transpose(1, 2).float()
        centres = _list_centres(x.shape[2], x.shape[3], self.stride, x.device)  # [h·w, 2]
        away = F.softplus(distances) * self.stride
        return logits, torch.cat([centres - away[..., :2], centres + away[..., 2:]], dim=2)


def _make_branch(width: int, *, separable: bool) -> nn.Module:
    if not separable:
        return convolve(width, width)
    return nn.Sequential(convolve(width, width, groups=width), convolve(width, width, kernel=1))


def _list_centres(height: int, width: int, stride: int, device: torch.device) -> Tensor:
    """Return the centres of cells in pixels, row by row, [h·w, 2], x and y."""
    down, across = ((torch.arange(count, device=device, dtype=torch.float32) + 0.5) * stride for count in (height, width))
    return torch.stack([across.expand(height, width), down[:, None].expand(height, width)], dim=2).reshape(-1, 2)


class Detector(nn.Module):
    """A backbone, a neck, and a head for each map from the first stride on.

    Args:
        backbone: Images [B, C, H, W] to maps [B, c, h, w], shallow to deep.
        classes: Number of classes.
        channels: Of the neck.
        first_stride: Pixels for each cell of the first map that answers.
        levels: How many maps answer, each of twice the stride.
        separable: As for `TopDown`.
        name: What the network is called in messages.

    Raises:
        CompressError: The backbone gives no maps of these strides.
    """

    def __init__(
        self, backbone: Backbone | Convolutions, classes: int, *, channels: int, first_stride: int, levels: int,
        separable: bool, name: str,
    ) -> None:  # fmt: skip
        super().__init__()
        strides = [first_stride << place for place in range(levels)]
        if not set(strides) <= set(backbone.strides):
            wanted, shown = (", ".join(map(str, sorted(set(each)))) for each in (strides, backbone.strides))
            raise CompressError(
                f"{name}: answers at strides {wanted} pixels, and the maps of its backbone have {shown}; choose "
                "first_stride and levels among them"
            )
        last = {stride: place for place, stride in enumerate(backbone.strides) if stride >= first_stride}
        self.chosen = sorted(last.values())  # of several maps of one stride the deepest
        self.backbone = backbone
        self.neck = TopDown([backbone.widths[place] for place in self.chosen], channels, separable=separable)
        self.levels = nn.ModuleList(nn.Identity() for _ in strides)
        self.heads = nn.ModuleList(Head(channels, classes, stride, separable=separable) for stride in strides)

    def split_answers(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, A, K] and boxes [B, A, 4] in pixels of images [B, C, H, W]: the outputs of a file."""
        maps = self.backbone(images)
        maps = self.neck([maps[place] for place in self.chosen])
        answers = [head(level(each)) for head, level, each in zip(self.heads, self.levels, maps, strict=False)]
        logits, boxes = (torch.cat(parts, dim=1) if len(parts) > 1 else parts[0] for parts in zip(*answers, strict=True))
        return logits, boxes

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of each class and the box of each cell, [B, A, K + 4], of images [B, C, H, W]."""
        logits, boxes = self.split_answers(images)
        return torch.cat([logits.float(), boxes], dim=2)
