"""Divergences of softened predictions (KD 1503.02531), in two parts (DKD 2203.08679), over positions (CWD 2011.13256)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.losses._samples import (
    flatten_samples,
    refuse_empty,
    refuse_temperature,
    require_same_shape,
    require_same_shape_each,
    widen,
)

STANDARDISATION_FLOOR = 1e-7
"""Added to the standard deviation of a sample's logits, as the authors of logit standardisation released it."""


def kd(student: Tensor, teacher: Tensor, *, temperature: float, valid: Tensor | None = None) -> Tensor:
    """Return the Kullback-Leibler divergence of softened predictions, times temperature².

    Summed over classes, averaged over samples. The factor keeps the gradient's size independent of the temperature.

    Args:
        student: Logits, [N, K] or [N, K, H, W].
        teacher: Logits of the same shape.
        temperature: Divides both logits before the softmax.
        valid: Which samples or pixels count, bool [N] or [N, H, W]; default all.

    Source:
        Hinton et al., 1503.02531, section 2; HobbitLong/RepDistiller b84f547, distiller_zoo/KD.py.
    """
    require_same_shape(student, teacher, "logits")
    return _compute_divergence(flatten_samples(student, valid), flatten_samples(teacher, valid), temperature)


def binary_kd(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Return the divergence of independent classes, each softened by a sigmoid, summed over all, times temperature², [].

    Args:
        student: Logits, [...].
        teacher: Logits of the same shape.
        temperature: Divides both logits before the sigmoid.

    Source:
        The Kullback-Leibler divergence of Bernoulli distributions; for one-stage detectors also in arXiv:2308.14286, weighed.
    """
    require_same_shape(student, teacher, "logits")
    refuse_temperature(temperature)
    softened, wanted = student.float() / temperature, teacher.detach().float() / temperature
    shares = wanted.sigmoid()
    crossed, own = (F.binary_cross_entropy_with_logits(each, shares, reduction="none") for each in (softened, wanted))
    return (crossed - own).sum() * temperature**2  # the difference before the sum: it may be small


def kd_cohort(student: Tensor, teachers: Tensor, *, temperature: float) -> Tensor:
    """Return `kd` of the student with each of M teachers, [M], in one pass.

    Args:
        student: Logits, [N, K] or [N, K, H, W].
        teachers: Logits, [M, N, K] or [M, N, K, H, W].
        temperature: Divides all logits before the softmax.
    """
    require_same_shape_each(student, teachers)
    return _compute_divergence(flatten_samples(student), flatten_samples(teachers, axis=2), temperature)


def standardise(logits: Tensor, *, axis: int = 1) -> Tensor:
    """Return logits with mean 0 and standard deviation 1 over the classes of each sample, [N, K, ...] -> [N, K, ...].

    A divergence of standardised logits asks for the teacher's order and relations, not for the size of its logits.

    Args:
        logits: [N, K, ...], or of a cohort [M, N, K, ...].
        axis: Where the classes are.

    Raises:
        ValueError: There is one class, whose deviation is that of a single number.

    Source:
        2403.01427; sunshangquan/logit-standardization-KD, whose floor under the deviation this is.
    """
    wide = widen(logits)
    if wide.shape[axis] < 2:
        raise ValueError(
            f"logits have shape {list(logits.shape)}, one class, and its deviation is not defined; do not standardise"
        )
    deviation, mean = torch.std_mean(wide, dim=axis, keepdim=True)
    return (wide - mean) / (deviation + STANDARDISATION_FLOOR)


def dkd(student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the two parts of the divergence, of the labelled class against the rest and among the rest, [] each.

    Each is summed over classes, averaged over samples and multiplied by temperature².

    Args:
        student: Logits, [N, K], K at least 3.
        teacher: Logits of the same shape.
        labels: [N].
        temperature: Divides both logits before the softmax.

    Raises:
        ValueError: There are fewer than three classes, so that there is nothing among the rest.

    Source:
        2203.08679, equations 5 to 7; megvii-research/mdistiller, distillers/DKD.py.
    """
    require_same_shape(student, teacher, "logits")
    if student.dim() != 2 or student.shape[1] < 3:
        raise ValueError(f"logits have shape {list(student.shape)}; decoupling needs [N, K] with at least 3 classes")
    refuse_temperature(temperature)
    target = F.one_hot(labels, student.shape[1]).bool()
    of_student, of_teacher = widen(student) / temperature, widen(teacher).detach() / temperature
    of_target = _compute_divergence(_pool_rest(of_student, target), _pool_rest(of_teacher, target), 1.0)
    of_rest = _compute_divergence(of_student[~target].view(len(target), -1), of_teacher[~target].view(len(target), -1), 1.0)
    return of_target * temperature**2, of_rest * temperature**2


def cwd(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Return the divergence of where each class is answered, times temperature², averaged over samples and classes, [].

    Each map of a class is a distribution over its positions.

    Args:
        student: Logits, [N, K, h, w].
        teacher: Logits of the same shape.
        temperature: Divides both logits before the softmax over positions.

    Raises:
        ValueError: The logits have no positions.

    Source:
        2011.13256, equations 3 and 4; irfanICMLL/TorchDistiller 78bac7c, SemSeg-distill; logarithm and softmax
        are one step, so that positions that underflow pass no infinity.
    """
    require_same_shape(student, teacher, "logits")
    if student.dim() != 4:
        raise ValueError(f"logits have shape {list(student.shape)}; positions need [N, K, h, w]")
    refuse_empty(student, "logits")
    return _compute_divergence(widen(student).flatten(2).flatten(0, 1), widen(teacher).flatten(2).flatten(0, 1), temperature)


def _pool_rest(logits: Tensor, target: Tensor) -> Tensor:
    """Return logits of the labelled class and of all the rest as one, [N, K] -> [N, 2].

    Args:
        logits: [N, K].
        target: Which class is the labelled one, bool [N, K].
    """
    rest = logits.masked_fill(target, -math.inf).logsumexp(dim=1)
    return torch.stack([logits[target], rest], dim=1)


def _compute_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return temperature² × the divergence of samples, [N, K] with [N, K] or a cohort's [M, N, K] -> [] or [M]."""
    refuse_temperature(temperature)
    of_student = F.log_softmax(student / temperature, dim=-1)
    of_teacher = F.softmax(teacher.detach() / temperature, dim=-1)  # a class that is masked with -inf has 0 × log 0 = 0
    each = F.kl_div(of_student, of_teacher, reduction="none")  # as large as `teacher`
    return each.sum(dim=-1).mean(dim=-1) * temperature**2
