"""Optimizer, learning-rate schedule, and moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import Parameter
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from compress.copying import copy_module
from compress.errors import CompressError
from compress.models import Network
from compress.recipe import TrainSection

BuildOptimizer = Callable[[list[Parameter]], torch.optim.Optimizer]
"""From the parameters that one phase trains to their optimizer."""


def compute_learning_rate(settings: TrainSection, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step, counted from 0 over all epochs."""
    warmup = settings.warmup_epochs * steps_per_epoch
    if step < warmup:
        return settings.lr * (step + 1) / (warmup + 1)
    if settings.schedule == "cosine":
        progress = (step - warmup) / max(settings.epochs * steps_per_epoch - warmup, 1)
        return settings.lr * 0.5 * (1 + math.cos(math.pi * progress))
    if settings.schedule == "step":
        epoch = step // steps_per_epoch
        return settings.lr * settings.decay ** sum(epoch >= share * settings.epochs for share in settings.milestones)
    return settings.lr


def build_optimizer(parameters: list[Parameter] | list[dict[str, Any]], settings: TrainSection) -> torch.optim.Optimizer:
    """Return the optimizer of some parameters, as the recipe asks for it."""
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay, fused=settings.fused)
    return torch.optim.SGD(
        parameters,
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
        fused=settings.fused,
    )


def find_backbone(network: nn.Module) -> list[Parameter]:
    """Return the parameters of a network that are not its classifier's.

    Raises:
        CompressError: The network names no classifier.
    """
    if not isinstance(network, Network) or network.classifier_name is None:
        raise CompressError(
            "train.backbone_lr_scale: the network names no classifier, so nothing tells its backbone; remove it, or give "
            "compress.Network(..., classifier='name')"
        )
    head = {id(parameter) for parameter in network.classifier.parameters()}
    return [parameter for parameter in network.parameters() if id(parameter) not in head]


def build_scaled_optimizer(
    parameters: list[Parameter], backbone: Sequence[Parameter], settings: TrainSection
) -> torch.optim.Optimizer:
    """Return the optimizer of some parameters, of which those of the backbone have a learning rate of their own."""
    held = {id(parameter) for parameter in backbone}
    within = [parameter for parameter in parameters if id(parameter) in held]
    others = [parameter for parameter in parameters if id(parameter) not in held]
    groups = [(within, settings.lr * settings.backbone_lr_scale), (others, settings.lr)]
    return build_optimizer([{"params": group, "lr": rate} for group, rate in groups if group], settings)


def build_given_optimizer(build: BuildOptimizer, parameters: list[Parameter], phase: str) -> torch.optim.Optimizer:
    """Return the user's own optimizer of some parameters.

    Args:
        build: What the user gave.
        parameters: Of one phase.
        phase: Its name, for messages.

    Raises:
        CompressError: It returned no optimizer, or one that trains something else or nothing.
    """
    optimizer: object = build(list(parameters))
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise CompressError(
            f"optimizer: returned a {type(optimizer).__name__} for phase {phase!r}; return a torch.optim.Optimizer of the "
            "parameters that it is given, for example optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-3)"
        )
    known = {id(parameter) for parameter in parameters}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not held or any(id(parameter) not in known for parameter in held):
        found = "holds parameters that are not among those" if held else "holds none of the parameters"
        raise CompressError(f"optimizer: {found} that phase {phase!r} trains; build it of what it is given")
    return optimizer


def read_learning_rates(optimizer: torch.optim.Optimizer) -> list[float]:
    """Return the learning rate of each group of parameters."""
    return [float(group["lr"]) for group in optimizer.param_groups]


def select_held(optimizer: torch.optim.Optimizer, parameters: Sequence[Parameter]) -> list[Parameter]:
    """Return those parameters that an optimizer holds."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return [parameter for parameter in parameters if id(parameter) in held]


def build_average(product: nn.Module, decay: float | None) -> AveragedModel | None:
    """Return the exponential moving average of a network's weights, if one is kept."""
    if decay is None:
        return None
    return AveragedModel(copy_module(product), multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


@contextmanager
def use_averaged_weights(product: nn.Module, average: AveragedModel | None) -> Iterator[None]:
    """Let the product hold the averaged weights for a while."""
    if average is None:
        yield
        return
    trained = {name: value.detach().clone() for name, value in product.state_dict().items()}
    product.load_state_dict(average.module.state_dict())
    try:
        yield
    finally:
        product.load_state_dict(trained)
