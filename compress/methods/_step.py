"""One batch in one phase of training, and the outputs of student and teachers for it.

A `Signal` is one output of a teacher for a batch: its logits, the map at one tap, or the output of a frozen module of the
method on such a map. A step computes each on first use, unless it was given: from the store on disk, or by a faster engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property, partial
from typing import NamedTuple, overload

import torch
from torch import Tensor, nn

from compress.data import Batch
from compress.errors import CompressError
from compress.models import Network, Outputs
from compress.tasks import CLASSIFICATION, Task

AUXILIARY_WEIGHT = 0.4
"""Of an auxiliary classifier's losses beside the classifier's own, as in the code of 2205.10536 and of the papers before it."""


class Signal(NamedTuple):
    """One output of a teacher; of a frozen one it is fixed by the image alone."""

    teacher: int
    tap: int | None = None
    """Place among the teacher's taps; `None` is the logits."""
    module: nn.Module | None = None
    """A frozen module that is applied to the map of the tap, such as a classifier head."""


Signals = Mapping[Signal, Tensor]
"""Outputs for the images of one batch, [B, ...] each, in its order."""

Forward = Callable[[Tensor], Outputs]
"""Runs a network: images [B, C, H, W] to logits and maps."""


class Step:
    """One batch in one phase; each network runs once, on first use.

    The single place for frozen networks without gradient, for mixed precision, and for outputs of teachers that need not be
    computed again.

    Args:
        batch: The batch.
        student: The student.
        teachers: The teachers.
        phase: Name of the phase that is being updated.
        autocast: The reduced precision of forward passes, or `None` for float32.
        signals: Outputs of teachers that are known already.
        forward: Runs the student, in place of the student itself.
        task: What is trained for.
    """

    def __init__(
        self,
        batch: Batch,
        student: Network,
        teachers: Sequence[Network],
        *,
        phase: str,
        autocast: torch.dtype | None = None,
        signals: Signals | None = None,
        forward: Forward | None = None,
        task: Task = CLASSIFICATION,
    ) -> None:
        self.batch, self.phase, self.task = batch, phase, task
        self.observed: dict[str, Tensor] = {}
        """What `observe` was given."""
        self.signals_read: dict[Signal, None] = {}
        """Signals of frozen teachers that were read, in order; one that only serves to compute another is not listed."""
        self.student_taps: set[int] = set()
        """Places of the student's taps whose maps were read."""
        self._student, self._teachers, self._autocast, self._forward = student, teachers, autocast, forward
        self._known: dict[Signal, Tensor] = dict(signals or {})
        self._outputs: dict[int, Outputs] = {}
        self._inside = False

    @cached_property
    def student(self) -> Outputs:
        """Logits and features of the student on this batch."""
        outputs = self._outputs_of("student", self._student, self._forward)

        def read(place: int) -> Tensor:
            self.student_taps.add(place)
            return outputs.features[place]

        return Outputs(outputs.logits, LazyFeatures(len(outputs.features), read))

    def supervise(self, logits: Tensor | None = None, *, smoothing: float = 0.0) -> Tensor:
        """Return the task's loss against the labels, [].

        Args:
            logits: Of whom, [B, K, ...]; default: the student, whose auxiliary classifier counts `AUXILIARY_WEIGHT` as much.
            smoothing: Share of the target that is spread over all classes.
        """
        height, width = self.batch.images.shape[2:]
        compute = partial(self.task.compute_loss, labels=self.batch.labels, size=(height, width), smoothing=smoothing)
        if logits is not None:
            return compute(logits)
        further = self.auxiliary
        return compute(self.student.logits) + (0.0 if further is None else AUXILIARY_WEIGHT * compute(further))

    @cached_property
    def auxiliary(self) -> Tensor | None:
        """Logits of the student's auxiliary classifier, [B, K, h, w], if it has one."""
        found = self._student.find_auxiliary()
        return None if found is None else self.apply(found[1], self.student.features[found[0]])

    def teacher_auxiliary(self, index: int = 0) -> Tensor | None:
        """Return the logits of a teacher's auxiliary classifier, [B, K, h, w], if it has one."""
        teacher = self._teachers[_count_from_front("teacher", index, len(self._teachers))]
        found = teacher.find_auxiliary()
        return None if found is None else self.apply_to_teacher(found[1], index, found[0])

    def teacher(self, index: int = 0) -> LazyOutputs:
        """Logits and features of one teacher on this batch, each computed when it is read."""
        place = _count_from_front("teacher", index, len(self._teachers))
        return LazyOutputs(self, place, len(self._teachers[place].taps))

    def apply_to_teacher(self, module: nn.Module, index: int, tap: int) -> Tensor:
        """Return `module` of the map at one tap of a teacher, [B, c, h, w] -> [B, ...].

        Of a frozen teacher and a frozen module this is a signal like the logits: it is stored instead of the map. A module
        that is being trained gets the map, in the step's precision.
        """
        if _is_trained(module):
            return self.apply(module, self.teacher(index).features[tap])
        place = _count_from_front("teacher", index, len(self._teachers))
        return self.compute(Signal(place, _count_from_front("tap", tap, len(self._teachers[place].taps)), module))

    def apply(self, module: nn.Module, tensor: Tensor) -> Tensor:
        """Return `module(tensor)`, [B, ...] -> [B, ...], in the step's precision; a frozen module gets no gradient.

        Raises:
            CompressError: The module changes the tensor in place.
        """
        version = _read_version(tensor)
        with self._precision(tensor):
            result: Tensor = module(tensor)
        _refuse_change(type(module).__name__, tensor, version)
        return result

    def observe(self, name: str, value: Tensor) -> None:
        """Log a number [] that is not a loss, such as a weight; its mean over the epoch stands beside the losses."""
        self.observed[name] = value.detach()

    def compute(self, signal: Signal) -> Tensor:
        """Return one output of a teacher, [B, ...]."""
        frozen = not _is_trained(self._teachers[signal.teacher])
        if frozen and not self._inside:
            self.signals_read[signal] = None
        if not frozen or signal not in self._known:
            self._known[signal] = self._run(signal)
        return self._known[signal]

    def _run(self, signal: Signal) -> Tensor:
        if signal.module is not None:
            with self._within(), nullcontext() if _is_trained(self._teachers[signal.teacher]) else torch.no_grad():
                return self.apply(signal.module, self.compute(signal._replace(module=None)))
        if signal.teacher not in self._outputs:
            self._outputs[signal.teacher] = self._outputs_of(f"teacher {signal.teacher}", self._teachers[signal.teacher])
        outputs = self._outputs[signal.teacher]
        return outputs.logits if signal.tap is None else outputs.features[signal.tap]

    @contextmanager
    def _within(self) -> Iterator[None]:
        before, self._inside = self._inside, True
        try:
            yield
        finally:
            self._inside = before

    def _outputs_of(self, who: str, network: Network, forward: Forward | None = None) -> Outputs:
        images = self.batch.images
        version = _read_version(images)
        with nullcontext() if _is_trained(network) else torch.no_grad(), self._precision(images):
            outputs = (forward or network.outputs)(images)
        _refuse_change(who, images, version)
        return outputs

    def _precision(self, tensor: Tensor) -> torch.autocast:
        return torch.autocast(tensor.device.type, dtype=self._autocast or torch.bfloat16, enabled=self._autocast is not None)


class LazyOutputs:
    """Outputs of one teacher for a batch, each computed or fetched when it is read."""

    def __init__(self, step: Step, index: int, taps: int) -> None:
        self._step, self._index, self._taps = step, index, taps

    @property
    def logits(self) -> Tensor:
        """Logits, [B, K]."""
        return self._step.compute(Signal(self._index))

    @property
    def features(self) -> Sequence[Tensor]:
        """One map per tap, shallow to deep, [B, c, h, w]; only those that are read are computed or fetched."""
        return LazyFeatures(self._taps, lambda place: self._step.compute(Signal(self._index, place)))


class LazyFeatures(Sequence[Tensor]):
    """One map per tap, each looked up when it is read.

    Args:
        count: How many taps there are.
        read: Returns the map of one, by its place from 0 on.
    """

    def __init__(self, count: int, read: Callable[[int], Tensor]) -> None:
        self._count, self._read = count, read

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> Tensor: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, place: int | slice) -> Tensor | Sequence[Tensor]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(self._count))]
        return self._read(_count_from_front("tap", place, self._count))


def _count_from_front(what: str, index: int, count: int) -> int:
    """Return an index counted from the front, so that one output has one signal."""
    if not -count <= index < count:
        raise IndexError(f"{what} {index} of {count}")
    return index % count


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _read_version(tensor: Tensor) -> int:
    """Return how often a tensor [...] was changed in place; 0 where torch does not count."""
    return 0 if tensor.is_inference() else tensor._version


def _refuse_change(who: str, tensor: Tensor, version: int) -> None:
    """Refuse a module that has changed its input [...], which others read too."""
    if _read_version(tensor) != version:
        raise CompressError(
            f"{who}: its forward pass changes its input {list(tensor.shape)} in place, which others read too; write "
            "x = x - mean for x.sub_(mean) and the like, or give compress.Network(..., copies_input=True)"
        )
