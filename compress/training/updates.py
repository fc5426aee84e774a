"""Change the weights of a stage by the gradients of its losses, and keep their moving average."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from compress.freezing import list_phases
from compress.methods import Method
from compress.recipe import TrainSection
from compress.training.optimizer import (
    BuildOptimizer,
    build_average,
    build_given_optimizer,
    build_optimizer,
    build_scaled_optimizer,
    find_backbone,
    read_learning_rates,
    select_held,
    use_averaged_weights,
)


class Updates:
    """Everything that moves the weights of a stage: an optimizer for each phase, the gradient scaler, the moving average.

    Args:
        method: The stage, on its device.
        settings: How it is trained.
        build: Builds the optimizers of the user's own; `None` builds those of the settings.
    """

    def __init__(self, method: Method, settings: TrainSection, build: BuildOptimizer | None = None) -> None:
        self._product, self._max_gradient_norm = method.product(), settings.max_gradient_norm
        self.phases = list_phases(method)
        self._rates: dict[str, list[float]] = {}
        """Learning rates at the start of each group of parameters, where they differ or are the user's own."""
        if build is None and settings.backbone_lr_scale != 1:
            backbone = find_backbone(method.student)
            if settings.backbone_lr_scale == 0:  # what no phase lists is frozen
                held = {id(parameter) for parameter in backbone}
                self.phases = {name: [each for each in group if id(each) not in held] for name, group in self.phases.items()}
            self.optimizers = {
                name: build_scaled_optimizer(group, backbone, settings) for name, group in self.phases.items() if group
            }
            self.phases = {name: self.phases[name] for name in self.optimizers}
            self._rates = {name: read_learning_rates(optimizer) for name, optimizer in self.optimizers.items()}
        elif build is None:
            self.optimizers = {name: build_optimizer(group, settings) for name, group in self.phases.items()}
        else:
            self.optimizers = {name: build_given_optimizer(build, group, name) for name, group in self.phases.items()}
            self._rates = {name: read_learning_rates(optimizer) for name, optimizer in self.optimizers.items()}
            self.phases = {name: select_held(self.optimizers[name], group) for name, group in self.phases.items()}
        self._highest = settings.lr
        self.device = next(self._product.parameters()).device
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "fp16")
        self._average = build_average(self._product, settings.ema_decay)

    def set_learning_rate(self, rate: float) -> None:
        """Let all phases use a learning rate; optimizers of the user's own use their own, by the same factor."""
        for name, optimizer in self.optimizers.items():
            for number, group in enumerate(optimizer.param_groups):
                group["lr"] = self._rates[name][number] * (rate / self._highest) if self._rates else rate

    def update(self, total: Tensor, phase: str) -> None:
        """Change the parameters of a phase by the gradient of a loss []."""
        optimizer = self.optimizers[phase]
        optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(total).backward()
        if self._max_gradient_norm is not None:
            self._scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(self.phases[phase], self._max_gradient_norm)
        self._scaler.step(optimizer)
        self._scaler.update()

    def update_average(self) -> None:
        """Let the average follow the weights, if one is kept."""
        if self._average is not None:
            self._average.update_parameters(self._product)

    def use_average(self) -> AbstractContextManager[None]:
        """Let the product hold the averaged weights for a while, if an average is kept."""
        return use_averaged_weights(self._product, self._average)

    def get_state(self) -> dict[str, Any]:
        """Return what `resume` needs."""
        return {
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "scaler": self._scaler.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Continue from what `get_state` returned."""
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self._scaler.load_state_dict(state["scaler"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
