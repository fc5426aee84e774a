"""The contract of a distillation method: four hooks, and one loop that calls them.

A method is a class named after its file. Its constructor takes a `Setting` and, keyword-only, its options in the recipe. The
module docstring says the idea in its first paragraph and then, one labelled line each, `Trained:`, `Frozen:`, `Shipped:`,
`Stages:` and `Source:`, which `compress check` prints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from compress.errors import CompressError
from compress.models._network import Batch, Network, Outputs
from compress.recipe import TrainSection


class Setting(NamedTuple):
    """What every method starts from."""

    student: Network
    teachers: tuple[Network, ...]
    image: Tensor
    """One image, [1, C, H, W], to find shapes with."""
    classes: int


class Step:
    """One batch in one phase; each network runs once, on first use.

    The single place for frozen networks without gradient, for mixed precision, and for teacher targets that need not be
    computed again.

    Args:
        batch: The batch.
        student: The student.
        teachers: The teachers.
        phase: Name of the phase that is being updated.
        autocast: The reduced precision of forward passes, or `None` for float32.
    """

    def __init__(
        self, batch: Batch, student: Network, teachers: Sequence[Network], *, phase: str, autocast: torch.dtype | None = None
    ) -> None:
        self.batch, self.phase = batch, phase
        self._student, self._teachers, self._autocast = student, teachers, autocast
        self._outputs: dict[int, Outputs] = {}

    @cached_property
    def student(self) -> Outputs:
        """Logits and features of the student on this batch."""
        return self._outputs_of(self._student)

    def teacher(self, index: int = 0) -> Outputs:
        """Logits and features of one teacher on this batch."""
        if index not in self._outputs:
            self._outputs[index] = self._outputs_of(self._teachers[index])
        return self._outputs[index]

    def through(self, module: nn.Module, tensor: Tensor) -> Tensor:
        """Return `module(tensor)` in the step's precision, without gradient to the module where it is frozen."""
        with self._precision(tensor):
            result: Tensor = module(tensor)
        return result

    def _outputs_of(self, network: Network) -> Outputs:
        moving = any(parameter.requires_grad for parameter in network.parameters())
        with nullcontext() if moving else torch.no_grad(), self._precision(self.batch.images):
            return network.outputs(self.batch.images)

    def _precision(self, tensor: Tensor) -> torch.autocast:
        return torch.autocast(tensor.device.type, dtype=self._autocast or torch.bfloat16, enabled=self._autocast is not None)


class Method(nn.Module):
    """How teachers teach a student.

    Args:
        setting: Student, teachers, an image, the number of classes.
    """

    stage: ClassVar[str] = "student"
    """Name of the stage that this object trains."""
    moves_teacher: ClassVar[bool] = False
    """Whether training changes a teacher, so that nothing that was fitted to it before stays valid."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.student = setting.student
        self.teachers = nn.ModuleList(setting.teachers)

    def stages(self) -> list[Method]:
        """Return what is trained one after the other; the last is what is shipped."""
        return [self]

    def phases(self) -> dict[str, list[Parameter]]:
        """Return the parameters that each update of one step trains, in order; what is not listed is frozen."""
        return {"student": list(self.student.parameters())}

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the named, weighted terms of this phase; the loop minimises their sum and logs each."""
        raise NotImplementedError

    def deployable(self) -> nn.Module:
        """Return the network that is validated, selected and exported: images [B, C, H, W] to logits [B, K]."""
        return self.student

    def product(self) -> nn.Module:
        """Return the module whose weights this stage leaves behind."""
        return self.deployable()

    def predictions(self, step: Step) -> dict[str, Tensor]:
        """Return the logits that are validated, by name of who gives them; the mean of their top-1 selects the epoch."""
        return {"student": self.deployable()(step.batch.images)}

    def schedule(self, settings: TrainSection) -> TrainSection:
        """Return how this stage is trained, given how the recipe trains the student."""
        return settings

    def identity(self) -> Mapping[str, object]:
        """Return what, besides networks, data and training, decides the result of a preparatory stage."""
        return {}

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return the losses; every training step enters here, so that a wrapper such as DDP can stand around it."""
        return self.losses(step)

    def step(self, batch: Batch, *, phase: str = "student", autocast: torch.dtype | None = None) -> Step:
        """Return one batch as this method's networks see it."""
        teachers = [teacher for teacher in self.teachers if isinstance(teacher, Network)]
        return Step(batch, self.student, teachers, phase=phase, autocast=autocast)


def needs_teacher(setting: Setting, method: str) -> None:
    """Refuse a method without a teacher.

    Raises:
        CompressError: There is no teacher.
    """
    if not setting.teachers:
        raise CompressError(f"method.{method}: needs a teacher, and there is none; add one, or use method 'supervised'")
