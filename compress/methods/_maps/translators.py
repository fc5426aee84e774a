"""Translators from a student's feature maps to a teacher's, and the pairs of taps that they stand between."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from torch import nn

from compress.errors import CompressError
from compress.methods._maps.align import Size, find_common_size
from compress.methods._method import Setting
from compress.models import Network, find_shapes
from compress.text import name_teacher

SLOPE = 0.1
"""Of LeakyReLU below zero, as Factor Transfer has it."""


class Pair(NamedTuple):
    """A tap of the student, and the tap of a teacher to whose map its map is translated."""

    name: str
    """Of the loss term."""
    teacher: int
    teacher_tap: int
    student_tap: int
    size: Size
    """Height and width at which the two maps meet."""
    student_channels: int
    teacher_channels: int


def pair_taps(
    setting: Setting, student_taps: tuple[str, ...] | None, teacher_taps: tuple[str, ...] | None, *, where: str
) -> list[Pair]:
    """Return every pair of a tap of the student and one of a teacher, teacher by teacher.

    Args:
        setting: Student, teachers, an image.
        student_taps: Names of the student's taps; `None` is the last.
        teacher_taps: Names of as many taps, which every teacher has; `None` is the last.
        where: Name of the method, for messages.

    Raises:
        CompressError: A tap does not exist or gives no feature map, or the two do not pair up.
    """
    own = _find_taps(setting.student, student_taps, f"{where}.student_taps: the student")
    if len(set(own)) != len(own):
        raise CompressError(f"{where}.student_taps: names a tap twice ({', '.join(student_taps or ())}); name each once")
    of_student = find_shapes(setting.student, setting.image).features
    pairs = []
    for index, teacher in enumerate(setting.teachers):
        others = _find_taps(teacher, teacher_taps, f"{where}.teacher_taps: teacher {index}")
        if len(others) != len(own):
            raise CompressError(
                f"{where}.teacher_taps: there are {len(others)} for {len(own)} of student_taps; name one for each"
            )
        of_teacher = find_shapes(teacher, setting.image).features
        for mine, theirs in zip(own, others, strict=True):
            size = find_common_size(of_student[mine], of_teacher[theirs], where=where)
            name = name_teacher(index, len(setting.teachers)) + (f"_tap{mine}" if len(own) > 1 else "")
            channels = of_student[mine].shape[1], of_teacher[theirs].shape[1]
            pairs.append(Pair(name, index, theirs, mine, size, *channels))
    return pairs


def _find_taps(network: Network, wanted: tuple[str, ...] | None, who: str) -> list[int]:
    """Return the places of taps among those of a network; of its last, if none are named."""
    if not network.taps:
        raise CompressError(f"{who} has no taps; name the layers that give feature maps: Network(module, taps=[...])")
    names = network.taps[-1:] if wanted is None else wanted
    unknown = [name for name in names if name not in network.taps]
    if unknown or not names:
        raise CompressError(f"{who} has no tap {unknown}; it has: {', '.join(network.taps)}")
    return [network.taps.index(name) for name in names]


def build_translator(inputs: int, outputs: int) -> nn.Sequential:
    """Return three 3 × 3 convolutions with bias, each followed by LeakyReLU: [B, inputs, h, w] -> [B, outputs, h, w].

    Source:
        Factor Transfer 1802.04977; Jangho-Kim/Factor-Transfer-pytorch e8d6ac6, Models/FeatureProjection.py.
    """
    return nn.Sequential(*build_layers(nn.Conv2d, inputs, inputs, outputs, outputs))


def build_layers(kind: type[nn.Conv2d | nn.ConvTranspose2d], *widths: int) -> Iterator[nn.Module]:
    """Yield 3 × 3 convolutions between widths, each followed by LeakyReLU."""
    for inputs, outputs in pairwise(widths):
        yield kind(inputs, outputs, kernel_size=3, stride=1, padding=1)
        yield nn.LeakyReLU(SLOPE)
