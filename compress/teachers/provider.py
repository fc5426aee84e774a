"""Teacher outputs for one stage: read from the on-disk store where that pays, else computed by the chosen inference engine.

Before the first epoch that shows a view of the training images, the outputs for that view are computed in one sweep and
written; every epoch, student, seed, run and process that meets the view again reads them. Nothing of this changes what a method
sees beyond the stated rounding: order and pixels do not depend on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from compress.data import Batch
from compress.errors import CompressError, Interrupted, Unreachable
from compress.methods import Signals
from compress.records import EngineTrial, TeacherOutputsResult
from compress.teachers import engines
from compress.teachers.engines import Engine
from compress.teachers.offload import offload_weights
from compress.teachers.plan import OutputsPlan, OutputsRequest, plan_outputs
from compress.teachers.store import Store, count_bytes_per_image

FOLDER = "teacher_outputs"
"""Of the store, in the cache of all runs."""


def provide_outputs(request: OutputsRequest) -> TeacherOutputs:
    """Plan how the teacher outputs of a stage are obtained, and return what gives them.

    Raises:
        CompressError: The recipe wants outputs stored and they cannot be, or they are not finite.
        Unreachable: The folder of the store cannot be written.
    """
    return TeacherOutputs(request, plan_outputs(request))


class TeacherOutputs:
    """The outputs of frozen teachers for the batches of one stage.

    Args:
        request: What the stage needs.
        plan: How it is obtained.
    """

    def __init__(self, request: OutputsRequest, plan: OutputsPlan) -> None:
        self.request, self.plan = request, plan
        self._store = Store(plan.storage.folder, precision=request.section.precision, events=request.events)
        self._engine: Engine | None = None
        self._trials = plan.trials
        self._views_computed, self._seconds, self._max_abs_error = 0, 0.0, 0.0
        self._is_offloaded, self._storage_before = False, ""

    def prepare_epoch(self, epoch: int, stopped: Callable[[], bool] = lambda: False) -> None:
        """Make sure that the outputs for the view that an epoch shows are stored, if they are to be.

        Raises:
            CompressError: Outputs are not finite, or cannot be stored in the recipe's precision.
            Interrupted: `stopped`, which is asked after every batch, said so; of this view nothing is stored.
        """
        if self.plan.storage.refusal:
            return
        view = self.request.batches.view(epoch)
        if self._find_missing(view):
            begun = time.monotonic()
            self._store_view(view, stopped)
            self._is_offloaded = False
            self._seconds += time.monotonic() - begun
        self._note_error(view)
        self._offload_teachers()

    def _find_missing(self, view: int) -> list[int]:
        """Return the places of the signals whose outputs for a view are not stored; of equal teachers one."""
        missing = {
            signal.key: place for place, signal in enumerate(self.plan.signals) if self._store.find(signal, view) is None
        }
        return list(missing.values())

    def _store_view(self, view: int, stopped: Callable[[], bool]) -> None:
        """Compute and write what is missing of a view, unless another process did meanwhile."""
        signals = self.plan.signals
        with self._store.lock(signals):
            if missing := self._find_missing(view):
                self._store.write([signals[place] for place in missing], view, self._sweep(view, missing, stopped))
                self._views_computed += 1
        if all(self._store.has(signal, each) for signal in signals for each in self.request.views):
            self._engine = None  # its memory is the student's now

    def _note_error(self, view: int) -> None:
        known = (self._store.read_record(signal, view) for signal in self.plan.signals)
        self._max_abs_error = max([self._max_abs_error, *(each.max_abs_error for each in known if each is not None)])

    def get_state(self) -> dict[str, Any]:
        """Return what was done, for a stage that is continued by another process or after other students' epochs."""
        return {
            "views_computed": self._views_computed, "seconds": self._seconds, "max_abs_error": self._max_abs_error,
            "store": self._describe_storage(),
        }  # fmt: skip

    def resume(self, state: Mapping[str, Any]) -> None:
        """Count on from what `get_state` returned."""
        self._views_computed, self._seconds = state["views_computed"], state["seconds"]
        self._max_abs_error = state["max_abs_error"]
        self._storage_before = state["store"] if state["store"] != self._describe_storage() else self._storage_before

    def _describe_storage(self) -> str:
        """Return whether outputs are stored, in words; also what was done before an interruption, if that was otherwise."""
        storage = self.plan.storage
        now = storage.refusal or ("kept, one view at a time" if storage.one_view else "kept")
        return f"{now}; before an interruption: {self._storage_before}" if self._storage_before else now

    def _offload_teachers(self) -> None:
        """Let the weights of the teachers leave memory until the next view that has to be computed."""
        if self._is_offloaded or self.plan.storage.one_view:  # with one view at a time that is soon
            return
        self._is_offloaded = True
        try:
            offload_weights([self.plan.teachers], self.request.folder)
        except (Unreachable, OSError) as error:
            self.request.events.say(f"{error}; the teachers stay in memory")

    def get_signals(self, batch: Batch) -> Signals:
        """Return the outputs for a batch, one tensor [B, ...] for each signal.

        Raises:
            CompressError: The batch does not say which images it holds, or their stored outputs are gone.
        """
        return self._compute(batch) if self.plan.storage.refusal else self._read(batch)

    def _compute(self, batch: Batch) -> Signals:
        begun = time.monotonic()
        outputs = [self._convert(output, place) for place, output in enumerate(self._run(batch.images))]
        self._seconds += time.monotonic() - begun
        return dict(zip(self.request.signals, outputs, strict=True))

    def _read(self, batch: Batch) -> Signals:
        if batch.rows is None:
            raise CompressError(
                "teacher_outputs: the batches do not say which images they hold; set teacher_outputs.store: off"
            )
        rows, found = batch.rows.numpy(), {}
        for place, (signal, stored) in enumerate(zip(self.request.signals, self.plan.signals, strict=True)):
            outputs = self._store.find(stored, batch.view)
            if outputs is None:
                raise CompressError(
                    f"teacher_outputs: the outputs for view {batch.view} are gone from {self._store.folder}; repeat the command"
                )
            found[signal] = self._convert(torch.from_numpy(outputs[rows]).to(batch.images.device), place)
        return found

    def _convert(self, output: Tensor, place: int) -> Tensor:
        """Return an output in the precision in which eager torch gives it, whatever engine or store it comes from."""
        return output.to(self.plan.probe[place].dtype)

    def summarize(self) -> TeacherOutputsResult:
        """Return what was done, for the report."""
        is_stored = not self.plan.storage.refusal
        views = self.request.views if is_stored else ()
        for view in views:  # also those that others computed and this stage read
            self._note_error(view)
        return TeacherOutputsResult(
            images=self.request.images,
            signals=tuple(signal.name for signal in self.plan.signals),
            engine=self.plan.engine,
            trials=self._trials,
            store=self._describe_storage(),
            precision=self.request.section.precision if is_stored else None,
            views=len(views),
            views_computed=self._views_computed,
            bytes_per_image=count_bytes_per_image(self.plan.probe, self.request.section) if is_stored else 0,
            max_abs_error=self._max_abs_error,
            seconds=self._seconds,
        )

    def _sweep(self, view: int, places: Sequence[int], stopped: Callable[[], bool]) -> Iterator[Sequence[Tensor]]:
        """Yield the outputs of some signals for each batch of a view, in order of the images."""
        total = -(-self.request.batches.rows // len(self.plan.sample))
        with self.request.events.task(
            f"teacher, view {view + 1} of {len(self.request.views)}", total, kind="teacher outputs"
        ) as task:
            for batch in self.request.batches.read_view(view):
                outputs = self._run(self._fill_up(batch.images))
                yield [outputs[place][: len(batch.images)] for place in places]
                task.advance()
                if stopped():
                    raise Interrupted(f"stopped while the teacher ran on view {view + 1}; repeat to continue")

    def _fill_up(self, images: Tensor) -> Tensor:
        """Return a batch of full size: in a smaller one torch may compute the same image with other last bits."""
        sample = self.plan.sample
        if len(images) == len(sample):
            return images
        whole = torch.empty_like(sample)
        whole[: len(images)], whole[len(images) :] = images, images[0]
        return whole

    def _run(self, images: Tensor) -> tuple[Tensor, ...]:
        if self._engine is None:
            plan = self.plan
            self._engine = engines.build_engine(plan.engine, plan.teachers, plan.sample, self.request.autocast)
            if self.request.section.engine not in ("auto", "eager"):
                self._trials = (self._check_engine(self._engine),)
        return self._engine(images)

    def _check_engine(self, engine: Engine) -> EngineTrial:
        """Return how far the engine that the recipe names is from eager float32.

        Raises:
            CompressError: It is too far.
        """
        plan, tolerance = self.plan, self.request.section.tolerance
        milliseconds = 1000 * engines.time_batch_seconds(engine, plan.sample)
        given, exact = [engine(plan.sample)], [engines.build_eager(plan.teachers)(plan.sample)]
        found = engines.compare_outputs(plan.teachers, plan.engine, given, exact, milliseconds)
        if not found.relative_difference <= tolerance:
            raise CompressError(
                f"teacher_outputs.engine: {plan.engine} differs from eager float32 by {found.relative_difference:.2g} of "
                f"the outputs' size, more than teacher_outputs.tolerance {tolerance:g}; raise that, or set engine: auto"
            )
        return found
