"""Combination of several methods on one student.

Preparatory stages run in order, the last stages run as one with all terms added, and each network runs once per step. What
cannot combine is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn
from torch.nn import Parameter

from compress.data import Batch, Batches
from compress.errors import CompressError
from compress.methods._method import Method, Setting
from compress.methods._step import Signals, Step
from compress.records import Analysis


class Combined(Method):
    """The sum of several methods.

    Args:
        setting: Student, teachers, an image, the number of classes.
        methods: By the name that their terms carry in logs; all were built from this very setting.

    Raises:
        CompressError: The methods contradict each other; the message says how.
    """

    def __init__(self, setting: Setting, methods: Mapping[str, Method]) -> None:
        super().__init__(setting)
        self.methods = nn.ModuleDict(methods)
        self._parts = dict(methods)
        self.needs_labels = next((part.needs_labels for part in methods.values() if part.needs_labels), "")
        self._refuse_contradictions()

    def _refuse_contradictions(self) -> None:
        parts = self._parts
        if "supervised" in parts:
            raise CompressError("method: 'supervised' adds nothing to other methods, whose terms hold the labels; remove it")
        for name, method in parts.items():
            if method.stages()[-1] is not method:
                raise CompressError(f"method: {name!r} trains several students one after the other; run it alone")
        moving = [name for name, method in parts.items() if method.moves_teacher]
        fitted = [name for name, method in parts.items() if len(method.stages()) > 1]
        if moving and fitted:
            raise CompressError(
                f"method: {moving[0]!r} changes the teacher to which {fitted[0]!r} fitted its modules; drop one"
            )
        replacing = [name for name, method in parts.items() if method.deployable() is not self.student]
        if len(replacing) > 1:
            raise CompressError(
                f"method: {replacing[0]!r} and {replacing[1]!r} each ship another head than the student's own; drop one"
            )
        if replacing and len(parts) > 1:
            others = ", ".join(repr(name) for name in parts if name != replacing[0])
            raise CompressError(
                f"method: {replacing[0]!r} ships another head than the student's own, which is what the terms on labels and "
                f"logits of {others} train; terms on maps alone, with ce_weight: 0, are not combined with it either; run "
                f"{replacing[0]!r} alone"
            )

    def stages(self) -> list[Method]:
        """Return all preparatory stages in order, then the combined one."""
        return [*(stage for method in self._parts.values() for stage in method.stages()[:-1]), self]

    def phases(self) -> dict[str, list[Parameter]]:
        """Return the phases of all methods; a parameter that several train is listed once."""
        merged: dict[str, dict[int, Parameter]] = {}
        for method in self._parts.values():
            for phase, parameters in method.phases().items():
                merged.setdefault(phase, {}).update({id(parameter): parameter for parameter in parameters})
        return {phase: list(parameters.values()) for phase, parameters in merged.items()}

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the terms of all methods that have this phase, [] each, under the names of their methods."""
        terms: dict[str, Tensor] = {}
        observed: dict[str, Tensor] = {}
        for name, method in self._parts.items():
            if step.phase in method.phases():
                terms |= {f"{name}.{term}": value for term, value in method.losses(step).items()}
                observed |= {f"{name}.{what}": value for what, value in step.observed.items()}
                step.observed.clear()
        step.observed.update(observed)
        return terms

    def deployable(self) -> nn.Module:
        """Return the network that the methods agree on."""
        return next((m.deployable() for m in self._parts.values() if m.deployable() is not self.student), self.student)

    def conclude(self, validation: Batches, get_signals: Callable[[Batch], Signals | None]) -> None:
        """Let every method change what it leaves behind."""
        for method in self._parts.values():
            method.conclude(validation, get_signals)

    def analyse(self, train: Batches, validation: Batches) -> tuple[Analysis, ...]:
        """Return the tables of all methods."""
        return tuple(table for method in self._parts.values() for table in method.analyse(train, validation))
