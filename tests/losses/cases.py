"""Every loss of a student's and a teacher's tensor, beside its value and gradient in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from compress import losses
from tests.losses import reference
from tests.losses.reference import Array


class Case(NamedTuple):
    """One loss with its settings."""

    name: str
    loss: Callable[[Tensor, Tensor], Tensor]
    value: Callable[[Array, Array], float]
    gradient: Callable[[Array, Array], Array]

    def __str__(self) -> str:
        return self.name


def kd(temperature: float) -> Case:
    return Case(
        f"kd T{temperature:g}",
        lambda s, t: losses.kd(s, t, temperature=temperature),
        lambda s, t: reference.kd(s, t, temperature),
        lambda s, t: reference.kd_gradient(s, t, temperature),
    )


def dist(temperature: float, beta: float = 1.0, gamma: float = 1.0, activation: losses.Activation = "softmax") -> Case:
    return Case(
        f"dist T{temperature:g} beta{beta:g} gamma{gamma:g} {activation}",
        lambda s, t: losses.dist(s, t, temperature=temperature, beta=beta, gamma=gamma, activation=activation),
        lambda s, t: reference.dist(s, t, temperature, beta, gamma, activation),
        lambda s, t: reference.dist_gradient(s, t, temperature, beta, gamma, activation),
    )


LOGITS = [
    kd(1),
    kd(4),
    dist(1),
    dist(4),
    dist(4, beta=2, gamma=0),
    dist(2, beta=0, gamma=3),
    dist(1, activation="sigmoid"),
    dist(4, activation="sigmoid"),
]
"""Losses of logits [N, K]."""

FEATURES = [
    Case("feature_mse", losses.feature_mse, reference.feature_mse, reference.feature_mse_gradient),
    Case("factor_l1", losses.factor_l1, reference.factor_l1, reference.factor_l1_gradient),
    Case("attention_transfer", losses.attention_transfer, reference.attention_transfer, reference.attention_transfer_gradient),
]
"""Losses of feature maps [B, c, h, w]."""
