"""Differences of feature maps: squared, of directions (Factor Transfer 1802.04977), of attention (1612.03928)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.losses._samples import refuse_empty, require_same_shape, widen

CHANNEL_FLOOR = 1e-6
"""Added to the standard deviation of a channel, as the authors of PKD released it."""

NORM_FLOOR = 1e-6
"""Smallest norm by which `factor_l1` divides; bounds the gradient of an all-zero map."""


def pkd(student: Tensor, teacher: Tensor) -> Tensor:
    """Return half the squared difference of two standardised feature maps, averaged over all elements, [].

    Each channel has mean 0 and deviation 1 over samples and positions, so this is one minus Pearson's correlation.

    Args:
        student: Feature map, [B, c, h, w].
        teacher: Feature map of the same shape.

    Source:
        2207.02039; open-mmlab/mmrazor 90c7af1, mmrazor/models/losses/pkd_loss.py.
    """
    require_same_shape(student, teacher, "features")
    refuse_empty(student, "features")
    return F.mse_loss(_standardise_channels(student), _standardise_channels(teacher.detach())) / 2


def _standardise_channels(features: Tensor) -> Tensor:
    """Return each channel with mean 0 and deviation 1 over all else, [B, c, ...]."""
    wide = widen(features)
    axes = [axis for axis in range(wide.dim()) if axis != 1]
    deviation, mean = torch.std_mean(wide, dim=axes, keepdim=True)
    return (wide - mean) / (deviation + CHANNEL_FLOOR)


def feature_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared difference of two feature maps of one shape [B, ...], averaged over all elements, [].

    Source:
        FitNets 1412.6550; HobbitLong/RepDistiller b84f547, distiller_zoo/FitNet.py.
    """
    require_same_shape(student, teacher, "features")
    refuse_empty(student, "features")
    return F.mse_loss(widen(student), widen(teacher).detach())


def factor_l1(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the L1 distance of two feature maps, each scaled to unit L2 norm per sample, averaged over all elements.

    Args:
        student: Feature map after the translator, [B, c, h, w].
        teacher: Feature map of the same shape.

    Source:
        Factor Transfer 1802.04977; Jangho-Kim/Factor-Transfer-pytorch 19cce26, train_student.py.
    """
    require_same_shape(student, teacher, "features")
    refuse_empty(student, "features")
    of_student = F.normalize(widen(student).flatten(1), dim=1, eps=NORM_FLOOR)
    of_teacher = F.normalize(widen(teacher).detach().flatten(1), dim=1, eps=NORM_FLOOR)
    return F.l1_loss(of_student, of_teacher)


def attention_map(features: Tensor) -> Tensor:
    """Return where a feature map is active: the mean of squares over channels, scaled to unit L2 norm per sample.

    Args:
        features: Feature map, [B, c, h, w].

    Returns:
        [B, h·w], the pixels row by row; zeros where the whole map is zero.

    Source:
        Attention transfer 1612.03928; szagoruyko/attention-transfer 893df54, utils.py, with its smallest norm 1e-12.
    """
    energy = widen(features).square().mean(dim=1).flatten(1)  # [B, h·w]
    return F.normalize(energy, dim=1, eps=NORM_FLOOR**2)  # squares, hence the floor squared


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared difference of two attention maps, averaged over samples and pixels.

    Args:
        student: Feature map, [B, c, h, w].
        teacher: Feature map, [B, C, h, w]; only the number of channels may differ.

    Source:
        Attention transfer 1612.03928; szagoruyko/attention-transfer 893df54, utils.py: a mean, not the norm of the paper.
    """
    of_student, of_teacher = attention_map(student), attention_map(teacher).detach()
    require_same_shape(of_student, of_teacher, "attention maps")
    refuse_empty(of_student, "attention maps")
    return F.mse_loss(of_student, of_teacher)
