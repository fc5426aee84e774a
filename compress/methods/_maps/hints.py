"""Hints of FitNets: which map of a teacher a layer of the student learns to give, and the regressor between the two."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from compress.errors import CompressError
from compress.freezing import evaluating
from compress.methods._maps.align import Size, find_common_size
from compress.methods._method import Setting
from compress.models import Network, find_shapes


class Hint(NamedTuple):
    """The map of one teacher, and the sizes between which its regressor stands."""

    tap: int
    channels: int
    reads: Size
    """Height and width to which the student's map is pooled."""
    gives: Size
    """Height and width to which the teacher's map is pooled, and which the regressor gives."""
    never_negative: bool
    """Whether the map of the setting's image is."""


def find_hints(setting: Setting, student_tap: int, teacher_tap: str | None) -> list[Hint]:
    """Return the hint of each teacher for a tap of the student.

    Args:
        setting: Student, teachers, an image.
        student_tap: Place of the tap that is guided.
        teacher_tap: Name of the tap of every teacher; `None` is its middle one.

    Raises:
        CompressError: A teacher has no such tap, or what is tapped is no feature map.
    """
    guided = find_shapes(setting.student, setting.image).features[student_tap]
    hints = []
    for index, teacher in enumerate(setting.teachers):
        tap = find_tap(teacher, teacher_tap, owner=f"teacher {index}", option="teacher_tap")
        with evaluating(teacher):
            target = teacher.outputs(setting.image).features[tap]
        reads, gives = _choose_sizes(guided, target, where=f"method.fitnet: teacher {index}")
        hints.append(Hint(tap, target.shape[1], reads, gives, bool((target >= 0).all())))
    return hints


def find_tap(network: Network, tap: str | None, *, owner: str, option: str) -> int:
    """Return the place of a named tap, or of the middle one.

    Raises:
        CompressError: There is no such tap, or none at all.
    """
    if tap is None and network.taps:
        return (len(network.taps) - 1) // 2
    if tap not in network.taps:
        wanted = "no taps" if tap is None else f"no tap {tap!r}"
        advice = f"it has: {', '.join(network.taps)}" if network.taps else "name its layers as taps first"
        raise CompressError(f"method.fitnet.{option}: {owner} has {wanted}; {advice}")
    return network.taps.index(tap)


def _choose_sizes(student: Tensor, teacher: Tensor, *, where: str) -> tuple[Size, Size]:
    """Return the sizes that a regressor reads and gives: those of the maps, where one is the other or twice it."""
    common = find_common_size(student, teacher, where=where)
    reads, gives = (student.shape[2], student.shape[3]), (teacher.shape[2], teacher.shape[3])
    return (reads, gives) if reads == _double(gives) or gives == _double(reads) else (common, common)


def _double(size: Size) -> Size:
    return 2 * size[0], 2 * size[1]


def build_regressor(inputs: int, hint: Hint, *, final_relu: bool) -> nn.Sequential:
    """Return a convolution with batch-norm: [B, inputs, *hint.reads] -> [B, hint.channels, *hint.gives].

    Source:
        HobbitLong/RepDistiller b84f547, models/util.py: the kernels for equal, half and double size; its biases, which
        batch-norm cancels, are left out.
    """
    convolution: nn.Module
    if hint.reads == hint.gives:
        convolution = nn.Conv2d(inputs, hint.channels, 1, bias=False)
    elif hint.reads == _double(hint.gives):
        convolution = nn.Conv2d(inputs, hint.channels, 3, stride=2, padding=1, bias=False)
    else:
        convolution = nn.ConvTranspose2d(inputs, hint.channels, 4, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(hint.channels), *([nn.ReLU()] if final_relu else []))
