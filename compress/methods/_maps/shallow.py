"""Shallow taps of a student against the last maps of its teachers: the choice of taps, adapters and classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from compress.errors import CompressError
from compress.methods._maps.align import Size, find_common_size
from compress.methods._method import Setting
from compress.models import Network, find_shapes


class ShallowPlace(NamedTuple):
    """A shallow tap of the student, and a teacher that supervises it."""

    tap: str
    student_tap: int
    teacher: int
    size: Size
    """Height and width at which the two maps meet."""
    student_channels: int
    teacher_channels: int


def choose_taps(student: Network, taps: Sequence[str] | None) -> Sequence[str]:
    """Return the names of the supervised taps.

    Raises:
        CompressError: There is none, one is unknown, or one is named twice.
    """
    listed = ", ".join(student.taps) or "none"
    chosen = tuple(student.taps[:-1] if taps is None else taps)
    if not chosen:
        raise CompressError(
            f"method.dskd.taps: no shallow layer is left (the student's taps: {listed}); name at least one here, or tap one "
            "that comes before the last"
        )
    unknown = [tap for tap in chosen if tap not in student.taps]
    if unknown:
        raise CompressError(f"method.dskd.taps: the student has no tap {', '.join(map(repr, unknown))}; it has: {listed}")
    if len(set(chosen)) < len(chosen):
        raise CompressError(f"method.dskd.taps: {', '.join(chosen)} names a tap twice; name each once")
    return chosen


def find_places(setting: Setting, taps: Sequence[str]) -> list[ShallowPlace]:
    """Return every shallow tap with every teacher, tap by tap.

    Raises:
        CompressError: A teacher has no tap, or what is tapped is no feature map.
    """
    own = find_shapes(setting.student, setting.image).features
    maps = [find_shapes(teacher, setting.image).features for teacher in setting.teachers]
    places = []
    for tap in taps:
        at = setting.student.taps.index(tap)
        for index, features in enumerate(maps):
            if not features:
                raise CompressError(
                    f"method.dskd: teacher {index} has no tap, and its last map is needed; name its last map as a tap"
                )
            size = find_common_size(own[at], features[-1], where=f"method.dskd: student's tap {tap!r}, teacher {index}")
            places.append(ShallowPlace(tap, at, index, size, own[at].shape[1], features[-1].shape[1]))
    return places


def average_by_tap(places: Sequence[ShallowPlace], values: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return for each tap the mean over its teachers, [] each.

    Args:
        places: Every shallow tap with every teacher.
        values: A value [] for each place.
    """
    by_tap: dict[str, list[Tensor]] = {}
    for place, value in zip(places, values, strict=True):
        by_tap.setdefault(place.tap, []).append(value)
    return {tap: torch.stack(each).mean() for tap, each in by_tap.items()}


def build_adapter(inputs: int, inside: int, outputs: int) -> nn.Sequential:
    """Return a bottleneck that ends without activation, so that it can give any map: [B, inputs, h, w] -> [B, outputs, h, w].

    Source:
        DefangChen/SimKD 2b389c3, models/util.py, the projection of SemCKD: widths, layers, no bias.
    """
    return nn.Sequential(
        nn.Conv2d(inputs, inside, 1, bias=False), nn.BatchNorm2d(inside), nn.ReLU(),
        nn.Conv2d(inside, inside, 3, padding=1, bias=False), nn.BatchNorm2d(inside), nn.ReLU(),
        nn.Conv2d(inside, outputs, 1, bias=False),
    )  # fmt: skip


def build_classifier(channels: int, classes: int, *, is_dense: bool = False) -> nn.Sequential:
    """Return global average pooling and a linear layer, [B, channels, h, w] -> [B, classes].

    For dense logits it is a 1×1 convolution: [B, channels, h, w] -> [B, classes, h, w].
    """
    if is_dense:
        return nn.Sequential(nn.Conv2d(channels, classes, 1))
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
