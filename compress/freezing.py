"""Freeze and unfreeze modules: `requires_grad`, evaluation mode and gradient are set here and nowhere else."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import Parameter


class HasPhases(Protocol):
    """A module that lists, by phase, the parameters that are trained."""

    @property
    def student(self) -> nn.Module:
        """The network that is trained; what it lists under `fixed`, by name within its `module`, never is."""

    def phases(self) -> dict[str, list[Parameter]]:
        """Return the parameters that each update of one step trains."""


def list_phases(method: HasPhases) -> dict[str, list[Parameter]]:
    """Return the phases of a method without the parameters of the student that its owner froze."""
    fixed: Collection[str] = getattr(method.student, "fixed", ())
    if not fixed:
        return method.phases()
    held = {id(parameter) for name, parameter in method.student.named_parameters() if name.removeprefix("module.") in fixed}
    return {name: [each for each in group if id(each) not in held] for name, group in method.phases().items()}


def list_trained_parameters(method: HasPhases) -> list[Parameter]:
    """Return the parameters of all phases, in order."""
    return [parameter for group in list_phases(method).values() for parameter in group]


def freeze_all_but(method: nn.Module, trained: Iterable[Parameter]) -> None:
    """Freeze everything that is not listed: no gradient, and evaluation mode for modules that hold nothing trained.

    A module without parameters, such as dropout, follows the module that it is in.
    """
    wanted = {id(parameter) for parameter in trained}
    for parameter in method.parameters():
        parameter.requires_grad_(id(parameter) in wanted)

    def set_mode(module: nn.Module, inherited: bool) -> None:
        own = [id(parameter) in wanted for parameter in module.parameters()]
        module.training = any(own) if own else inherited
        for child in module.children():
            set_mode(child, module.training)

    set_mode(method, False)


def find_moving_tensors(method: nn.Module) -> dict[str, Tensor]:
    """Return every tensor [...] that training changes, once, by name: all that a module in training mode holds itself."""
    tensors: dict[int, tuple[str, Tensor]] = {}
    for prefix, module in method.named_modules():
        if module.training:
            own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
            for name, tensor in own:
                tensors.setdefault(id(tensor), (f"{prefix}.{name}", tensor))
    return dict(tensors.values())


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Hold a module in evaluation mode, without gradient, for a while; each part gets its own mode back."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode


@contextmanager
def train_only(phases: Mapping[str, list[Parameter]], phase: str) -> Iterator[None]:
    """Let gradients flow to the parameters of one phase alone."""
    others = [parameter for name, group in phases.items() if name != phase for parameter in group]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)
