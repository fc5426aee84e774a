"""Every loss and its gradient a second time: NumPy, float64, from the equations.

A value takes the student's and the teacher's array; a gradient is that of the value by the student's array, by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

EPSILON = 1e-8
DEGENERATE = 1e-6
FLOOR = 1e-6


def softmax(logits: Array) -> Array:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def sigmoid(logits: Array) -> Array:
    return 1 / (1 + np.exp(-logits))


def pixels(dense: Array) -> Array:
    """Return dense logits [N, K, H, W] with a row for every pixel, [N·H·W, K]."""
    return dense.transpose(0, 2, 3, 1).reshape(-1, dense.shape[1])


def kd(student: Array, teacher: Array, temperature: float) -> float:
    p, q = log_softmax(teacher / temperature), log_softmax(student / temperature)
    return float((np.exp(p) * (p - q)).sum(axis=1).mean() * temperature**2)


def kd_gradient(student: Array, teacher: Array, temperature: float) -> Array:
    return temperature * (softmax(student / temperature) - softmax(teacher / temperature)) / len(student)


def constant(vectors: Array) -> NDArray[np.bool_]:
    spread = np.linalg.norm(vectors - vectors.mean(axis=1, keepdims=True), axis=1)
    return np.asarray(spread <= DEGENERATE * np.linalg.norm(vectors, axis=1))


def correlation(left: Array, right: Array) -> Array:
    """Return Pearson's correlation of each row, [R]; 0 where one of the two is constant."""
    u, v = left - left.mean(axis=1, keepdims=True), right - right.mean(axis=1, keepdims=True)
    raw = (u * v).sum(axis=1) / (np.linalg.norm(u, axis=1) * np.linalg.norm(v, axis=1) + EPSILON)
    return np.where(constant(left) | constant(right), 0, raw)


def correlation_gradient(left: Array, right: Array, *, guard: bool) -> Array:
    """Return the gradient of each row's correlation by the left row, [R, S]."""
    u, v = left - left.mean(axis=1, keepdims=True), right - right.mean(axis=1, keepdims=True)
    of_u, of_v = np.linalg.norm(u, axis=1, keepdims=True), np.linalg.norm(v, axis=1, keepdims=True)
    below = of_u * of_v + EPSILON
    along_u = np.divide(u, of_u, out=np.zeros_like(u), where=of_u > 0)
    gradient = v / below - (u * v).sum(axis=1, keepdims=True) * of_v * along_u / below**2
    gradient -= gradient.mean(axis=1, keepdims=True)
    if guard:
        gradient[constant(left) | constant(right)] = 0
    return gradient


def dist_relations(student: Array, teacher: Array, temperature: float, activation: str = "softmax") -> tuple[float, float]:
    act = softmax if activation == "softmax" else sigmoid
    p, q = act(student / temperature), act(teacher / temperature)
    return float(1 - correlation(p, q).mean()), float(1 - correlation(p.T, q.T).mean())


def dist(
    student: Array,
    teacher: Array,
    temperature: float,
    beta: float = 1.0,
    gamma: float = 1.0,
    activation: str = "softmax",
) -> float:
    inter, intra = dist_relations(student, teacher, temperature, activation)
    return temperature**2 * (beta * inter + gamma * intra)


def dist_gradient(
    student: Array,
    teacher: Array,
    temperature: float,
    beta: float = 1.0,
    gamma: float = 1.0,
    activation: str = "softmax",
    *,
    guard: bool = True,
) -> Array:
    act = softmax if activation == "softmax" else sigmoid
    p, q = act(student / temperature), act(teacher / temperature)
    by_p = -beta * correlation_gradient(p, q, guard=guard) / p.shape[0]
    by_p -= gamma * correlation_gradient(p.T, q.T, guard=guard).T / p.shape[1]
    if activation == "softmax":
        return temperature * p * (by_p - (by_p * p).sum(axis=1, keepdims=True))
    return temperature * p * (1 - p) * by_p


def feature_mse(student: Array, teacher: Array) -> float:
    return float(((student - teacher) ** 2).mean())


def feature_mse_gradient(student: Array, teacher: Array) -> Array:
    return 2 * (student - teacher) / student.size


def unit(maps: Array, floor: float) -> tuple[Array, Array]:
    """Return each sample flattened and scaled to norm 1, [B, S], and what it was divided by, [B, 1]."""
    flat = maps.reshape(len(maps), -1)
    norm = np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), floor)
    return flat / norm, norm


def factor_l1(student: Array, teacher: Array) -> float:
    return float(np.abs(unit(student, FLOOR)[0] - unit(teacher, FLOOR)[0]).mean())


def factor_l1_gradient(student: Array, teacher: Array) -> Array:
    (a, norm), (b, _) = unit(student, FLOOR), unit(teacher, FLOOR)
    by_unit = np.sign(a - b) / a.size
    inside = norm > FLOOR  # below the floor the divisor is a constant
    by_flat = (by_unit - inside * a * (a * by_unit).sum(axis=1, keepdims=True)) / norm
    return by_flat.reshape(student.shape)


def attention_map(features: Array) -> Array:
    return unit((features**2).mean(axis=1), FLOOR**2)[0]


def attention_transfer(student: Array, teacher: Array) -> float:
    return float(((attention_map(student) - attention_map(teacher)) ** 2).mean())


def attention_transfer_gradient(student: Array, teacher: Array) -> Array:
    a, norm = unit((student**2).mean(axis=1), FLOOR**2)
    by_map = 2 * (a - attention_map(teacher)) / a.size
    inside = norm > FLOOR**2
    by_energy = (by_map - inside * a * (a * by_map).sum(axis=1, keepdims=True)) / norm
    channels = student.shape[1]
    return 2 * student / channels * by_energy.reshape(len(student), 1, *student.shape[2:])


def drift(parameters: Sequence[Array], anchors: Sequence[Array]) -> float:
    return float(sum(((here - there) ** 2).sum() for here, there in zip(parameters, anchors, strict=True)))


def drift_gradient(parameters: Sequence[Array], anchors: Sequence[Array]) -> list[Array]:
    return [2 * (here - there) for here, there in zip(parameters, anchors, strict=True)]


def softmax_weights(losses: Array, temperature: float) -> Array:
    return softmax(losses[None] / temperature)[0]


def numeric_gradient(function: Callable[[Array], float], at: Array, step: float = 1e-5) -> Array:
    """Return central differences, good to about 1e-9 for losses of order 1."""
    gradient = np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        here = at.copy()
        here[index] += step
        above = function(here)
        here[index] -= 2 * step
        gradient[index] = (above - function(here)) / (2 * step)
    return gradient


def pair(*shape: int, scale: float = 2.0, seed: int = 0) -> tuple[Array, Array]:
    """Return two arrays of normal numbers."""
    random = np.random.default_rng([seed, *shape])
    return random.normal(scale=scale, size=shape), random.normal(scale=scale, size=shape)
