"""Pairs of taps whose attention is compared: one of the student with one of each teacher, at the size of the smaller map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from compress.errors import CompressError
from compress.methods._maps.align import Size, find_common_size
from compress.methods._method import Setting
from compress.models import Network, find_shapes
from compress.text import quantify


class AttentionPair(NamedTuple):
    """A tap of the student and the tap of a teacher with which it is compared."""

    name: str
    """The student's tap."""
    student_tap: int
    teacher: int
    teacher_tap: int
    size: Size
    """Height and width at which the two maps meet."""


def average_pixel_share(pairs: Sequence[AttentionPair]) -> float:
    """Return the mean over pairs of the share of one pixel in their maps."""
    return sum(1 / (pair.size[0] * pair.size[1]) for pair in pairs) / len(pairs)


def pair_attention(
    setting: Setting, student_taps: Sequence[str] | None, teacher_taps: Sequence[str] | None
) -> list[AttentionPair]:
    """Return every pair of taps with every teacher.

    Raises:
        CompressError: Taps are unknown or do not pair up, are no feature maps, or have a single pixel.
    """
    own = _choose_taps(setting.student, student_taps, owner="the student", option="student_taps")
    if len(set(own)) < len(own):
        raise CompressError(f"method.attention_transfer.student_taps: {', '.join(own)} names a tap twice; name each once")
    guided = find_shapes(setting.student, setting.image).features
    pairs = []
    for index, teacher in enumerate(setting.teachers):
        theirs = _choose_taps(teacher, teacher_taps, owner=f"teacher {index}", option="teacher_taps")
        if len(own) != len(theirs):
            raise CompressError(
                f"method.attention_transfer: {quantify(len(own), 'tap')} of the student ({', '.join(own)}) stand against "
                f"{len(theirs)} of teacher {index} ({', '.join(theirs)}); name equally many in student_taps and "
                "teacher_taps, in one order"
            )
        shown = find_shapes(teacher, setting.image).features
        for tap, other in zip(own, theirs, strict=True):
            at, there = setting.student.taps.index(tap), teacher.taps.index(other)
            size = _find_size(
                guided[at], shown[there], where=f"method.attention_transfer: {tap!r} with {other!r} of teacher {index}"
            )
            pairs.append(AttentionPair(tap, at, index, there, size))
    return pairs


def _choose_taps(network: Network, taps: Sequence[str] | None, *, owner: str, option: str) -> tuple[str, ...]:
    listed = ", ".join(network.taps) or "none"
    chosen = tuple(network.taps if taps is None else taps)
    unknown = [tap for tap in chosen if tap not in network.taps]
    if unknown or not chosen:
        wrong = ", ".join(map(repr, unknown)) or "to choose from"
        raise CompressError(f"method.attention_transfer.{option}: {owner} has no tap {wrong}; it has: {listed}")
    return chosen


def _find_size(student: Tensor, teacher: Tensor, *, where: str) -> Size:
    size = find_common_size(student, teacher, where=where)
    if size == (1, 1):
        raise CompressError(f"{where} meet at a single pixel, whose attention is always 1; name taps with larger maps")
    return size
