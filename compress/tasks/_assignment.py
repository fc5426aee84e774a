"""Which cell of a detector answers for which box, and the loss of its answers.

A cell answers for a box if it lies in it and near its centre; of several boxes it takes the smallest. A map answers for the
boxes whose longer side is at most eight of its strides and that a map before it does not answer for; the last takes all larger
ones. A box without such a cell gets the cell nearest to its centre. Cells in ignored boxes that answer for nothing are not
trained.

Source: FCOS, arXiv:1904.01355, without its centre-ness, with the centre sampling of its later code (radius 1.5 strides); focal
loss arXiv:1708.02002 and generalized IoU arXiv:1902.09630, as torchvision has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from compress.tasks._cells import Level

RADIUS = 1.5
"""So many strides from the centre of a box a cell may lie."""
LARGEST = 8
"""So many strides long may the longer side of a box be."""
BACKGROUND, UNTRAINED = -1, -2
"""Of a cell that answers for no box: of class -1 it is, and what -2 is nobody knows."""


class Targets(NamedTuple):
    """What each cell should answer."""

    classes: Tensor
    """Class of its box, `BACKGROUND` or `UNTRAINED`, [B, A]."""
    boxes: Tensor
    """[B, A, 4]; of cells that answer for none, of the unit square."""

    @property
    def positive(self) -> Tensor:
        """Which cells answer for a box, [B, A]."""
        return self.classes >= 0


def list_centres(levels: Sequence[Level], like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centres [A, 2], x and y, and the strides [A] of all cells in pixels, as type and device of a tensor [...]."""
    centres, strides = [], []
    for level in levels:
        down, across = ((torch.arange(count, device=like.device, dtype=like.dtype) + 0.5) * level.stride for count in level[1:])
        centres.append(torch.stack([across.repeat(level.height), down.repeat_interleave(level.width)], dim=1))
        strides.append(torch.full((level.cells,), float(level.stride), device=like.device, dtype=like.dtype))
    return torch.cat(centres), torch.cat(strides)


def assign(levels: Sequence[Level], labels: Tensor) -> Targets:
    """Return what each cell should answer.

    Args:
        levels: The maps, A cells in all.
        labels: Left, top, right, bottom and class of each box, [B, M, 5]; class -1 is none, and below that one to ignore.
    """
    centres, strides = list_centres(levels, labels)
    boxes, classes = labels[..., :4], labels[..., 4].long()
    inside = _find_inside(centres, boxes)  # [B, A, M]
    fits = _find_fitting(levels, boxes) & (classes >= 0)[:, None]  # [B, A, M]
    away = (centres[None, :, None] - (boxes[:, None, :, :2] + boxes[:, None, :, 2:]) / 2).abs()  # [B, A, M, 2]
    answers = inside & fits & (away <= RADIUS * strides[None, :, None, None]).all(dim=3)
    distance = away.square().sum(dim=3).masked_fill(~fits, float("inf"))
    nearest = torch.zeros_like(answers).scatter_(1, distance.argmin(dim=1, keepdim=True), value=True)
    answers |= nearest & fits & ~answers.any(dim=1, keepdim=True)
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(dim=2)[:, None].masked_fill(~answers, float("inf"))  # [B, A, M]
    chosen = areas.argmin(dim=2)  # [B, A]
    found = torch.where(answers.any(dim=2), classes.gather(1, chosen), BACKGROUND)
    unknown = (inside & (classes < -1)[:, None]).any(dim=2) & (found == BACKGROUND)
    unit = boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    wanted = torch.where((found >= 0)[..., None], boxes.gather(1, chosen[..., None].expand(-1, -1, 4)), unit)
    return Targets(torch.where(unknown, UNTRAINED, found), wanted)


def _find_inside(centres: Tensor, boxes: Tensor) -> Tensor:
    """Return which cells [A, 2] lie in which boxes [B, M, 4], [B, A, M]."""
    places = centres[None, :, None]
    return (places > boxes[:, None, :, :2]).all(dim=3) & (places < boxes[:, None, :, 2:]).all(dim=3)


def _find_fitting(levels: Sequence[Level], boxes: Tensor) -> Tensor:
    """Return which cells are of the map that answers for boxes [B, M, 4] of their size, [B, A, M]."""
    sides = (boxes[..., 2:] - boxes[..., :2]).amax(dim=2)[:, None]  # [B, 1, M]
    least, parts = -1.0, []
    for level in levels:
        most = float("inf") if level is levels[-1] else float(LARGEST * level.stride)
        parts.append(((sides > least) & (sides <= most)).expand(-1, level.cells, -1))
        least = most
    return torch.cat(parts, dim=1)


def compute_detection_loss(answers: Tensor, targets: Targets) -> Tensor:
    """Return the focal loss of the classes plus the generalized IoU loss of the boxes, over the cells that answer, [].

    Args:
        answers: Of each cell, the logit of each class and then its box, [B, A, K + 4].
        targets: Of the same cells.
    """
    logits, boxes = answers[..., :-4].float(), answers[..., -4:].float()
    count = targets.positive.sum().clamp(min=1)
    wanted = torch.nn.functional.one_hot(targets.classes.clamp(min=0), logits.shape[2]) * targets.positive[..., None]
    focal = sigmoid_focal_loss(logits, wanted.to(logits.dtype), alpha=0.25, gamma=2.0)
    known = (targets.classes != UNTRAINED)[..., None]
    judged = torch.where(targets.positive[..., None], boxes, targets.boxes)
    overlap = generalized_box_iou_loss(judged.flatten(0, 1), targets.boxes.float().flatten(0, 1))
    loss: Tensor = ((focal * known).sum() + (overlap * targets.positive.flatten()).sum()) / count
    return loss
