"""Checks of a recipe's fields against each other that a method repeats with the settings it is given."""

from __future__ import annotations

from compress.errors import CompressError
from compress.recipe.sections import TrainSection
from compress.text import quantify


def find_drift_problem(where: str, weight: float, *, teachers: int, train: TrainSection) -> CompressError | None:
    """Return why a penalty on squared drift makes SGD diverge, if it does: its curvature alone exceeds what the rate allows.

    Args:
        where: What asks, for the message.
        weight: Weight of the sum of squared differences from the start, which is averaged over teachers.
        teachers: How many teachers drift.
        train: How they are trained.
    """
    step, momentum = train.lr * 2 * weight / teachers, train.momentum
    limit = 2 * (1 + momentum) / (1 + 2 * momentum if train.nesterov else 1)
    if train.optimizer != "sgd" or step < limit:
        return None
    kind = "Nesterov momentum" if train.nesterov else "momentum"
    return CompressError(
        f"{where}.drift_weight: {weight:g} with train.lr {train.lr:g} makes lr × 2 × drift_weight / "
        f"{quantify(teachers, 'teacher')} = {step:.3g}, and SGD with {kind} {momentum:g} "
        f"diverges from {limit:.3g} on; lower drift_weight or train.lr"
    )
