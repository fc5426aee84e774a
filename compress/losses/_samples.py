"""Logits as samples, in float32, and refusals of shapes that broadcasting would hide."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def flatten_samples(logits: Tensor, valid: Tensor | None = None, *, axis: int = 1) -> Tensor:
    """Return logits [..., N, K], the class axis last; of dense logits every valid pixel is a sample.

    Args:
        logits: [N, K, ...], or of a cohort [M, N, K, ...].
        valid: Which samples count, bool [N, ...].
        axis: Where the classes are.

    Raises:
        ValueError: There are no classes, no values, or `valid` does not fit or marks none.
    """
    if logits.dim() <= axis:
        kind = "[N, K] or [N, K, H, W]" if axis == 1 else "[M, N, K] or [M, N, K, H, W]"
        raise ValueError(f"logits have shape {list(logits.shape)}; give {kind}")
    refuse_empty(logits, "logits")
    apart = widen(logits).movedim(axis, -1)  # [..., N, H, W, K]
    samples = apart.flatten(axis - 1, -2)
    if valid is None:
        return samples
    if valid.dtype != torch.bool or valid.shape != apart.shape[:-1]:
        raise ValueError(f"valid is {valid.dtype} {list(valid.shape)}; it must be torch.bool {list(apart.shape[:-1])}")
    if not valid.any():
        raise ValueError(f"valid marks none of {valid.numel()} samples, and the mean over none is not defined; skip the batch")
    return samples[valid.flatten()]


def refuse_temperature(temperature: float) -> None:
    """Refuse a temperature that is not above 0.

    Raises:
        ValueError: It is not, or not finite.
    """
    if not 0 < temperature < math.inf:  # so that NaN is refused too
        raise ValueError(f"temperature is {temperature}; give a finite number above 0")


def refuse_empty(tensor: Tensor, what: str) -> None:
    """Refuse a tensor [...] without values.

    Raises:
        ValueError: It has none.
    """
    if tensor.numel() == 0:
        raise ValueError(f"{what} have shape {list(tensor.shape)}, and the mean over none is not defined; skip the batch")


def require_same_shape(student: Tensor, teacher: Tensor, what: str) -> None:
    """Refuse two tensors [...] whose shapes differ, which broadcasting would hide.

    Raises:
        ValueError: They differ.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"{what}: {list(student.shape)} and {list(teacher.shape)} differ; bring them to one shape first")


def require_same_shape_each(student: Tensor, teachers: Tensor) -> None:
    """Refuse a cohort [M, ...] that is empty, or whose members have another shape than the student's logits [...].

    Raises:
        ValueError: It is, or they have.
    """
    if teachers.dim() == 0 or len(teachers) == 0:
        raise ValueError("the cohort is empty; give the logits of at least one teacher")
    require_same_shape(student, teachers[0], "logits of the student and of each of the cohort")


def widen(tensor: Tensor) -> Tensor:
    """Return a tensor [...] of half precision as float32, others as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
