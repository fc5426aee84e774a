"""Contract of a distillation method: hooks that the one training loop calls.

A method is a class named after its file. Its constructor takes a `Setting` and, keyword-only, its options in the recipe. The
module docstring says the idea in its first paragraph and then, one labelled line each, `Trained:`, `Frozen:`, `Shipped:`,
`Stages:` and `Source:`, which `compress check` prints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from compress.data import Batch, Batches
from compress.errors import CompressError
from compress.methods._step import Forward, Signals, Step
from compress.models import Network, find_shapes
from compress.recipe import TrainSection
from compress.records import Accuracy, Analysis
from compress.tasks import CLASSIFICATION, Task


def _refuse_another(role: str) -> Network:
    raise CompressError(f"{role}: this method trains fresh students; give Setting another=, which builds one")


class Setting(NamedTuple):
    """What a method is built from."""

    student: Network
    teachers: tuple[Network, ...]
    image: Tensor
    """One image, [1, C, H, W], to find shapes with."""
    classes: int
    another: Callable[[str], Network] = _refuse_another
    """Builds one more student with random weights of its own, on the device, for a named role such as `generation1`."""
    task: Task = CLASSIFICATION
    """What is trained for."""


class Method(nn.Module):
    """One way to train a student with the help of teachers.

    Args:
        setting: Student, teachers, an image, the number of classes.
    """

    stage: ClassVar[str] = "student"
    """Name of the stage that this object trains."""
    moves_teacher: ClassVar[bool] = False
    """Whether training changes a teacher, so that nothing that was fitted to it before stays valid."""

    lr_field: ClassVar[str] = "train.lr"
    """Field of the recipe that holds the learning rate of this stage, for messages."""
    needs_labels: str = "it does not say that it can do without"
    """Why every image of this stage must have a label; empty where the teachers' answers are enough. Images without a label
    (`data.unlabelled`) have shares of 0 of every class, which `Step.supervise` leaves out."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.student, self.task = setting.student, setting.task
        self.teachers = nn.ModuleList(setting.teachers)

    def stages(self) -> list[Method]:
        """Return what is trained one after the other; the last is what is shipped."""
        return [self]

    def phases(self) -> dict[str, list[Parameter]]:
        """Return the parameters that each update of one step trains, in order; what is not listed is frozen."""
        return {"student": list(self.student.parameters())}

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the weighted terms of this phase, [] each, by name; the loop minimises their sum and logs each.

        Raises:
            NotImplementedError: The method does not define it.
        """
        raise NotImplementedError

    def deployable(self) -> nn.Module:
        """Return the network that is validated, selected and exported: images [B, C, H, W] to logits [B, K]."""
        return self.student

    def product(self) -> nn.Module:
        """Return the module whose weights this stage leaves behind."""
        return self.deployable()

    def predictions(self, step: Step) -> dict[str, Tensor]:
        """Return the logits that are validated, [B, K], by name of the network; unless `choose` does, their mean selects."""
        return {"student": self.deployable()(step.batch.images)}

    def choose(self, scores: Mapping[str, Accuracy]) -> dict[str, Accuracy]:
        """Settle what is decided by validation, and return the scores that count; called after every validation.

        Args:
            scores: Of `predictions`, by the network's name.
        """
        return dict(scores)

    def schedule(self, settings: TrainSection) -> TrainSection:
        """Return how this stage is trained, given how the recipe trains the student."""
        return settings

    def conclude(self, validation: Batches, get_signals: Callable[[Batch], Signals | None]) -> None:
        """Change what the finished stage leaves behind, such as a calibration; the selected weights are in place and frozen.

        Args:
            validation: The held-out images, whole and in order.
            get_signals: Returns outputs of frozen teachers for a batch of them; those that it does not give are computed.
        """

    def analyse(self, train: Batches, validation: Batches) -> tuple[Analysis, ...]:
        """Return tables about the finished stage, for the report; the selected weights are in place and frozen.

        Args:
            train: The training images, shuffled and augmented.
            validation: The held-out images, whole and in order.
        """
        del train, validation
        return ()

    def identity(self) -> Mapping[str, object]:
        """Return what, besides networks, data and training, decides the result of a preparatory stage."""
        return {}

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return the losses, [] each; every training step enters here, so that a wrapper such as DDP can stand around it."""
        return self.losses(step)

    def step(
        self,
        batch: Batch,
        *,
        phase: str = "student",
        autocast: torch.dtype | None = None,
        signals: Signals | None = None,
        forward: Forward | None = None,
    ) -> Step:
        """Return a step: one batch as this method's networks see it.

        Args:
            batch: Images [B, C, H, W] with labels [B, ...].
            phase: Name of the phase that is being updated.
            autocast: The reduced precision of forward passes, or `None` for float32.
            signals: Outputs of teachers that are known already.
            forward: Runs the student, in place of the student itself.
        """
        teachers = [teacher for teacher in self.teachers if isinstance(teacher, Network)]
        return Step(
            batch, self.student, teachers, phase=phase, autocast=autocast, signals=signals, forward=forward, task=self.task
        )


def refuse_ignored_teacher(where: str, **weights: float) -> None:
    """Refuse weights of the terms that teach if all are 0: what is trained then is method `supervised` under another name.

    Raises:
        CompressError: They are.
    """
    if not any(weights.values()):
        names = " and ".join(weights)
        which = f".{names}: is 0" if len(weights) == 1 else f": {names} are 0"
        raise CompressError(f"{where}{which}, so the teacher is ignored; raise one, or use method 'supervised'")


def refuse_dense(setting: Setting, method: str, why: str) -> None:
    """Refuse a task with many answers an image.

    Args:
        setting: What the method is built from.
        method: Its name.
        why: What it needs that there is not, and what to use.

    Raises:
        CompressError: The task is such a one.
    """
    if setting.task.is_dense:
        raise CompressError(f"method.{method}: {why}")


def refuse_boxes(setting: Setting, method: str, why: str) -> None:
    """Refuse a task whose answers are boxes.

    Args:
        setting: What the method is built from.
        method: Its name.
        why: What it needs that there is not, and what to use.

    Raises:
        CompressError: The task is such a one.
    """
    if setting.task.boxes:
        raise CompressError(f"method.{method}: {why}")


def require_teacher(setting: Setting, method: str, *, reads_logits: str | None = "") -> None:
    """Refuse a method without a teacher, or with one whose classes are others.

    Args:
        setting: What the method is built from.
        method: Its name.
        reads_logits: Why the method reads the logits of teachers, where an option decides it, such as `kd_weight is above 0`;
            `None` where it reads maps alone, so that a teacher need not know the classes.

    Raises:
        CompressError: There is no teacher, or one gives another number of classes, or does not know them.
    """
    if not setting.teachers:
        raise CompressError(f"method.{method}: needs a teacher, and there is none; add one, or use method 'supervised'")
    own = {id(parameter) for parameter in setting.student.parameters()}
    for index, teacher in enumerate(setting.teachers):
        if any(id(parameter) in own for parameter in teacher.parameters()):
            raise CompressError(
                f"method.{method}: teacher {index} shares weights with the student, and would be trained; copy it"
            )
        if not teacher.knows_classes:
            if reads_logits is None:
                continue
            why = f", as {reads_logits}" if reads_logits else ""
            raise CompressError(
                f"method.{method}: reads the logits of teacher {index}{why}, which does not know the classes (classes: none); "
                "give it `probe: true` in place of that, or use a method on maps alone: fitnet, feed, attention_transfer"
            )
        given = setting.task.count_classes(find_shapes(teacher, setting.image).logits.shape)
        if given != setting.classes:
            raise CompressError(
                f"method.{method}: teacher {index} gives {given} classes and the data has {setting.classes}; "
                "use a matching teacher"
            )
