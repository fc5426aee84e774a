"""Correlations of predictions between classes and between samples (DIST 2205.10536)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.losses._samples import flatten_samples, refuse_temperature, require_same_shape, require_same_shape_each

DIST_EPSILON = 1e-8
"""Added to the product of the two norms of a correlation, as the authors of DIST released it, or the least of each norm."""

DEGENERATE = 1e-6
"""A vector whose centred norm is below this share of its norm is constant: its direction is rounding noise."""

Activation = Literal["softmax", "sigmoid"]
"""From logits to probabilities: of one of K classes, or of K independent ones as in one-stage detection."""

Denominator = Literal["product", "norms"]
"""Guard against a division by 0: a constant added to the product of the norms, or a floor under each norm."""


def dist(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    tau2: bool = True,
    activation: Activation = "softmax",
    valid: Tensor | None = None,
    guard: bool = True,
    denominator: Denominator = "product",
) -> Tensor:
    """Return the DIST loss: beta × inter-class plus gamma × intra-class, times temperature².

    Args:
        student: Logits, [N, K] or [N, K, H, W]. Of a detector, the output of the classification convolution as it is: anchors
            and classes together are one long class axis.
        teacher: Logits of the same shape.
        temperature: Divides both logits before the activation.
        beta: Weight of the inter-class relation.
        gamma: Weight of the intra-class relation.
        tau2: Multiply by temperature².
        activation: `softmax`, or `sigmoid` as released for one-stage detection.
        valid: Which samples or pixels count, bool [N] or [N, H, W]; default all, as the authors do with ignored pixels.
        guard: Let constant rows and columns pass no gradient; see `dist_relations`.
        denominator: `product`, as the authors, or `norms`, as torchdistill; they part where predictions are confident and
            classes many.

    Source:
        2205.10536; hunto/image_classification_sota 6f7a70a, lib/models/losses/dist_kd.py. The factor temperature² is the
        released code's; the paper's listing does not have it. Sigmoid: hunto/MasKD b5af34f, mmrazor/models/losses/dist_kd.py.
        Floors under the norms: yoshitomo-matsubara/torchdistill 3e4373c.
    """
    inter, intra = dist_relations(
        student, teacher, temperature=temperature, activation=activation, valid=valid, guard=guard, denominator=denominator
    )
    return (beta * inter + gamma * intra) * (temperature**2 if tau2 else 1.0)


def dist_relations(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float,
    activation: Activation = "softmax",
    valid: Tensor | None = None,
    guard: bool = True,
    denominator: Denominator = "product",
) -> tuple[Tensor, Tensor]:
    """Return one minus the mean correlation of predictions over classes (inter) and over samples (intra), [] each.

    A row or column that is constant but for rounding has correlation 0 and passes no gradient. The released code
    (`guard=False`) agrees on rows that are exactly constant, with a gradient of up to 1e6, and correlates the rounding of the
    others. With a single sample every column is constant.

    Args:
        student: Logits, [N, K] or [N, K, H, W].
        teacher: Logits of the same shape.
        temperature: Divides both logits before the activation.
        activation: `softmax` or `sigmoid`.
        valid: Which samples or pixels count, bool [N] or [N, H, W]; default all.
        guard: Let constant rows and columns pass no gradient.
        denominator: `product` or `norms`.
    """
    require_same_shape(student, teacher, "logits")
    of_student = _compute_probabilities(flatten_samples(student, valid), temperature, activation)  # [N, K]
    of_teacher = _compute_probabilities(flatten_samples(teacher, valid).detach(), temperature, activation)
    return _compute_relations(of_student, of_teacher, guard=guard, denominator=denominator)


def dist_cohort(
    student: Tensor,
    teachers: Tensor,
    *,
    temperature: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    tau2: bool = True,
    activation: Activation = "softmax",
) -> Tensor:
    """Return `dist` of the student with each of M teachers, [M], in one pass.

    Args:
        student: Logits, [N, K] or [N, K, H, W].
        teachers: Logits, [M, N, K] or [M, N, K, H, W].
        temperature: Divides all logits before the activation.
        beta: Weight of the inter-class relation.
        gamma: Weight of the intra-class relation.
        tau2: Multiply by temperature².
        activation: `softmax` or `sigmoid`.
    """
    require_same_shape_each(student, teachers)
    of_student = _compute_probabilities(flatten_samples(student), temperature, activation)  # [N, K]
    of_teachers = _compute_probabilities(flatten_samples(teachers, axis=2).detach(), temperature, activation)  # [M, N, K]
    inter, intra = _compute_relations(of_student, of_teachers, guard=True, denominator="product")
    return (beta * inter + gamma * intra) * (temperature**2 if tau2 else 1.0)


def _compute_probabilities(samples: Tensor, temperature: float, activation: Activation) -> Tensor:
    if activation not in ("softmax", "sigmoid"):
        raise ValueError(f"activation {activation!r} is not known; use 'softmax' or 'sigmoid'")
    refuse_temperature(temperature)
    softened = samples / temperature
    return torch.sigmoid(softened) if activation == "sigmoid" else F.softmax(softened, dim=-1)


def _compute_relations(student: Tensor, teacher: Tensor, *, guard: bool, denominator: Denominator) -> tuple[Tensor, Tensor]:
    """Return inter and intra of probabilities, [N, K] with [N, K] or a cohort's [M, N, K] -> [] or [M] each."""
    inter, intra = (
        (1 - _correlate(student, teacher, dim=dim, guard=guard, denominator=denominator)).mean(dim=-1)
        for dim in (-1, -2)  # the difference before the mean: it may be small
    )
    return inter, intra


def _correlate(left: Tensor, right: Tensor, *, dim: int, guard: bool, denominator: Denominator = "product") -> Tensor:
    """Return Pearson's correlation along one dimension, which is reduced; the others broadcast."""
    u, v = left - left.mean(dim, keepdim=True), right - right.mean(dim, keepdim=True)
    u_norm, v_norm = torch.linalg.vector_norm(u, dim=dim), torch.linalg.vector_norm(v, dim=dim)
    correlation: Tensor = (u * v).sum(dim) / _compute_denominator(u_norm, v_norm, denominator)
    if not guard:
        return correlation
    constant = _is_constant(u_norm, left, dim) | _is_constant(v_norm, right, dim)
    return correlation.masked_fill(constant, 0)


def _compute_denominator(u_norm: Tensor, v_norm: Tensor, kind: Denominator) -> Tensor:
    if kind == "product":
        return u_norm * v_norm + DIST_EPSILON
    if kind == "norms":
        return u_norm.clamp_min(DIST_EPSILON) * v_norm.clamp_min(DIST_EPSILON)
    raise ValueError(f"denominator {kind!r} is not known; use 'product' or 'norms'")


def _is_constant(centred_norm: Tensor, vectors: Tensor, dim: int) -> Tensor:
    constant: Tensor = centred_norm.detach() <= DEGENERATE * torch.linalg.vector_norm(vectors.detach(), dim=dim)
    return constant
