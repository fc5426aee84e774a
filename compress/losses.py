"""Distillation losses: pure functions of tensors.

Logits are [N, K], or dense [N, K, H, W], where every pixel counts as a sample. `teacher` never receives a gradient. Half
precision is widened to float32 before anything is computed. Equations and their sources: DIST 2205.10536, KD 1503.02531,
Factor Transfer 1802.04977, ATSC 2406.08528, DSKD 2202.07846.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

DIST_EPSILON = 1e-8
"""Added to the product of the two norms of a correlation, as the authors of DIST released it."""

DEGENERATE = 1e-6
"""A vector whose centred norm is below this share of its norm is constant: its direction is rounding noise."""

NORM_FLOOR = 1e-6
"""Smallest norm by which `factor_l1` divides; bounds the gradient of an all-zero map."""


def kd(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Return the Kullback-Leibler divergence of softened predictions, times temperature².

    Summed over classes, averaged over samples. The factor keeps the gradient's size independent of the temperature.

    Args:
        student: Logits, [N, K] or [N, K, H, W].
        teacher: Logits of the same shape.
        temperature: Divides both logits before the softmax.

    Source:
        Hinton et al., 1503.02531, section 2; HobbitLong/RepDistiller b84f547, distiller_zoo/KD.py.
    """
    of_student = F.log_softmax(_samples(student) / temperature, dim=1)
    of_teacher = F.log_softmax(_samples(teacher).detach() / temperature, dim=1)
    return F.kl_div(of_student, of_teacher, reduction="batchmean", log_target=True) * temperature**2


def dist(student: Tensor, teacher: Tensor, *, temperature: float = 1.0, beta: float = 1.0, gamma: float = 1.0) -> Tensor:
    """Return the DIST loss: beta × inter-class plus gamma × intra-class, times temperature².

    Args:
        student: Logits, [N, K] or [N, K, H, W].
        teacher: Logits of the same shape.
        temperature: Divides both logits before the softmax.
        beta: Weight of the inter-class relation.
        gamma: Weight of the intra-class relation.

    Source:
        2205.10536; hunto/image_classification_sota 6f7a70a, lib/models/losses/dist_kd.py. The factor temperature² is the
        released code's; the paper's listing does not have it.
    """
    inter, intra = dist_relations(student, teacher, temperature=temperature)
    return (beta * inter + gamma * intra) * temperature**2


def dist_relations(student: Tensor, teacher: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """Return one minus the mean correlation of predictions over classes (inter) and over samples (intra).

    A row or column that is constant has correlation 0 and passes no gradient; the released code gives the same value there
    but a gradient of up to 1e6.
    """
    of_student = F.softmax(_samples(student) / temperature, dim=1)  # [N, K]
    of_teacher = F.softmax(_samples(teacher).detach() / temperature, dim=1)
    inter = 1 - _correlation(of_student, of_teacher).mean()
    intra = 1 - _correlation(of_student.T, of_teacher.T).mean()
    return inter, intra


def feature_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared difference of two feature maps of one shape, averaged over all elements.

    Source:
        FitNets 1412.6550; HobbitLong/RepDistiller b84f547, distiller_zoo/FitNet.py.
    """
    return F.mse_loss(_wide(student), _wide(teacher).detach())


def factor_l1(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the L1 distance of two feature maps, each scaled to unit L2 norm per sample, averaged over all elements.

    Args:
        student: Feature map after the translator, [B, c, h, w].
        teacher: Feature map of the same shape.

    Source:
        Factor Transfer 1802.04977; Jangho-Kim/Factor-Transfer-pytorch 19cce26, train_student.py.
    """
    of_student = F.normalize(_wide(student).flatten(1), dim=1, eps=NORM_FLOOR)
    of_teacher = F.normalize(_wide(teacher).detach().flatten(1), dim=1, eps=NORM_FLOOR)
    return F.l1_loss(of_student, of_teacher)


def drift(parameters: Iterable[Tensor], anchors: Iterable[Tensor]) -> Tensor:
    """Return the sum of squared differences between parameters and where they started.

    Args:
        parameters: Tensors that move and receive the gradient.
        anchors: Tensors of the same shapes, in the same order, that do not.

    Raises:
        ValueError: The two do not pair up, or there are none.

    Source:
        ATSC 2406.08528; random2314235/ATSC 8bde1b2: a sum, not a mean.
    """
    terms = [(_wide(here) - _wide(there).detach()).square().sum() for here, there in zip(parameters, anchors, strict=True)]
    if not terms:
        raise ValueError("drift of no parameters is not defined")
    total: Tensor = torch.stack(terms).sum()
    return total


def softmax_weights(losses: Sequence[Tensor] | Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return weights that sum to one, larger for larger losses, through which no gradient flows.

    Args:
        losses: Scalars, or one tensor [L].
        temperature: Divides the losses before the softmax; larger is more even.

    Source:
        DSKD 2202.07846 as re-implemented by its readers; the direction is a proposal, not confirmed against the paper.
    """
    stacked = losses if isinstance(losses, Tensor) else torch.stack(list(losses))
    return F.softmax(_wide(stacked).detach() / temperature, dim=0)


def _samples(logits: Tensor) -> Tensor:
    """Return logits [N, K]; of dense logits [N, K, H, W] every pixel is a sample."""
    logits = _wide(logits)
    return logits if logits.dim() == 2 else logits.movedim(1, -1).flatten(0, -2)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _correlation(left: Tensor, right: Tensor) -> Tensor:
    """Return Pearson's correlation of each row of `left` with the same row of `right`: [R, S], [R, S] -> [R]."""
    u, v = left - left.mean(dim=1, keepdim=True), right - right.mean(dim=1, keepdim=True)
    constant = _is_constant(u, left) | _is_constant(v, right)  # [R]
    u_norm = u.square().sum(dim=1).masked_fill(constant, 1).sqrt()
    v_norm = v.square().sum(dim=1).masked_fill(constant, 1).sqrt()
    correlation = (u * v).sum(dim=1) / (u_norm * v_norm + DIST_EPSILON)
    return correlation.masked_fill(constant, 0)


def _is_constant(centred: Tensor, rows: Tensor) -> Tensor:
    constant: Tensor = centred.norm(dim=1).detach() <= DEGENERATE * rows.norm(dim=1).detach()
    return constant
