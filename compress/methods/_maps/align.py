"""Bring feature maps of two networks to one height and width: the larger is average-pooled to the smaller."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from compress.errors import CompressError

Size = tuple[int, int]


def find_common_size(student: Tensor, teacher: Tensor, *, where: str) -> Size:
    """Return the height and width at which two feature maps [B, c, h, w] meet.

    Args:
        student: Any map of the student's tap; only its shape is read.
        teacher: The same of the teacher's tap.
        where: Name of the method and the taps, for the message.

    Raises:
        CompressError: One of them is no feature map.
    """
    for owner, tensor in (("student", student), ("teacher", teacher)):
        if tensor.dim() != 4:
            raise CompressError(f"{where}: the {owner}'s tap gives {list(tensor.shape)}; tap a layer with maps [B, c, h, w]")
    return min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])


def pool_to(features: Tensor, size: Size) -> Tensor:
    """Return maps [B, c, h, w] average-pooled to a size; unchanged where they have it."""
    return features if features.shape[2:] == size else F.adaptive_avg_pool2d(features, size)


def resize_to(logits: Tensor, like: Tensor) -> Tensor:
    """Return a teacher's logits at the size of the student's; unchanged where they have it.

    The teacher's are resampled, never the student's: bilinear, corners not aligned, before any softmax.

    Args:
        logits: [..., B, K] or dense [..., B, K, h, w].
        like: The student's, [B, K] or [B, K, H, W].
    """
    if like.dim() < 4 or logits.shape[-2:] == like.shape[-2:]:
        return logits
    wide = logits.float().flatten(0, -4)
    size = (like.shape[-2], like.shape[-1])
    resized = F.interpolate(wide, size=size, mode="bilinear", align_corners=False)
    return resized.view(*logits.shape[:-2], *size)
