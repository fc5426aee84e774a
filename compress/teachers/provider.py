"""What frozen teachers say during one stage: kept in the target store where that pays, computed by the chosen engine where not.

Before the first epoch that shows a view of the training images, the answers to that view are computed in one sweep and
written; every epoch, student, seed, run and process that meets the view again reads them. Nothing of this changes what a method
sees beyond the stated rounding: order and pixels do not depend on it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from compress import records
from compress.data import Batch, InMemory
from compress.errors import CompressError, Interrupted, Unreachable
from compress.events import Events
from compress.fingerprint import describe_training, make_key
from compress.methods import Method, Signal, Signals
from compress.models import Network
from compress.recipe import TeacherOutputsSection
from compress.records import EngineTrial, EngineTrials, TeacherOutputsResult
from compress.system.files import writable
from compress.teachers import engines
from compress.teachers.engines import Engine, JointTeachers
from compress.teachers.identity import hash_module, identify_class
from compress.teachers.offload import offload_weights
from compress.teachers.signals import name_signal
from compress.teachers.store import Store, StoredSignal, count_bytes_per_image, find_obstacle

FOLDER = "teacher_outputs"
"""Of the store, in the cache of all runs."""
TRIAL_BATCHES = 4
PROBE_IMAGES = 4
"""Whose answers are part of a key: two networks that differ in what no weight, attribute or source shows give others."""
WORTH_A_TRIAL_SECONDS = 20.0
"""A teacher that eager torch runs in less than that, all batches together, is not worth trying engines for."""


class TeacherOutputs:
    """The answers of frozen teachers for the batches of one stage.

    Args:
        method: The stage.
        signals: What it reads of them (`find_required_signals`).
        batches: The training images.
        section: How the recipe wants answers computed and kept.
        folder: Of the store.
        epochs: Epochs of the stage.
        shared: Whether other stages read the same answers, so that keeping them pays even if this one reads them once.
        autocast: The precision of the stage's forward passes.
        events: Where progress goes.
        decision: File that remembers the engine of this stage, so that it continues with the same; default: in `folder`.
        images: What the images are called in the report.
        one_view: Folder for the answers to one view at a time, used where those to all views cannot be kept; the caller empties
            it (`compress.run.lockstep`).
    """

    def __init__(
        self,
        method: Method,
        signals: Sequence[Signal],
        batches: InMemory,
        *,
        section: TeacherOutputsSection,
        folder: Path,
        epochs: int,
        shared: bool,
        autocast: torch.dtype | None,
        events: Events,
        decision: Path | None = None,
        images: str = "training",
        one_view: Path | None = None,
    ) -> None:
        self._signals, self._batches, self._section, self._events = tuple(signals), batches, section, events
        self._autocast, self._folder, self._images = autocast, folder, images
        networks = [teacher for teacher in method.teachers if isinstance(teacher, Network)]
        self._answering = JointTeachers(networks, signals)
        self._shown = sorted({batches.view(epoch) for epoch in range(epochs)})
        self._sample = next(batches.read_view(0)).images
        self._probe = engines.build_eager(self._answering)(self._sample[:PROBE_IMAGES])
        too_much = self._obstacle(len(self._shown))
        self._one_view = bool(too_much and one_view and section.store == "auto" and not self._obstacle(1))
        self._why_not = "" if self._one_view else self._refusal(too_much, reread=shared or len(self._shown) < epochs)
        runs = epochs if self._why_not or self._one_view else len(self._shown)
        self._engine_name, self._trials = self._choice(runs * len(batches), decision)
        self._engine: Engine | None = None
        kept_in = one_view if one_view is not None and self._one_view else folder
        self._store = Store(kept_in, precision=section.precision, events=events)
        self._answers = [
            StoredSignal(name_signal(method, signal), self._key(networks, signal, probe), (batches.rows, *probe.shape[1:]))
            for signal, probe in zip(signals, self._probe, strict=True)
        ]
        self._made, self._seconds, self._max_abs_error, self._resting, self._before = 0, 0.0, 0.0, False, ""

    def begin(self, epoch: int, stopped: Callable[[], bool] = lambda: False) -> None:
        """Make sure that the answers to the view that an epoch shows are there, if they are kept.

        Raises:
            Interrupted: `stopped`, which is asked after every batch, said so; of this view nothing is kept.
        """
        view = self._batches.view(epoch)
        if self._why_not:
            return
        if all(self._store.find(answer, view) is not None for answer in self._answers):
            self._note_error(view)
            self._rest()
            return
        begun = time.monotonic()
        with self._store.locked(self._answers):
            missing = {  # by key: two teachers may be equal
                answer.key: place for place, answer in enumerate(self._answers) if self._store.find(answer, view) is None
            }
            if missing:
                wanted = [self._answers[place] for place in missing.values()]
                self._store.make(wanted, view, self._sweep(view, list(missing.values()), stopped))
                self._made += 1
        self._note_error(view)
        if all(self._store.has(answer, each) for answer in self._answers for each in self._shown):
            self._engine = None  # its memory is the student's now
        self._resting = False
        self._rest()
        self._seconds += time.monotonic() - begun

    def _note_error(self, view: int) -> None:
        known = (self._store.record(answer, view) for answer in self._answers)
        self._max_abs_error = max([self._max_abs_error, *(each.max_abs_error for each in known if each is not None)])

    def state(self) -> dict[str, Any]:
        """Return what was done, for a stage that is continued by another process or in another turn."""
        return {"made": self._made, "seconds": self._seconds, "max_abs_error": self._max_abs_error, "store": self._kept()}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Count on from what `state` returned."""
        self._made, self._seconds, self._max_abs_error = state["made"], state["seconds"], state["max_abs_error"]
        self._before = state["store"] if state["store"] != self._kept() else self._before

    def _kept(self) -> str:
        """Return whether answers are kept, in words; also what was done before an interruption, if that was something else."""
        now = self._why_not or ("kept, one view at a time" if self._one_view else "kept")
        return f"{now}; before an interruption: {self._before}" if self._before else now

    def _rest(self) -> None:
        """Let the weights of the teachers leave memory until the next view that they have to answer."""
        if self._resting or self._one_view:  # with one view at a time that is soon
            return
        self._resting = True
        try:
            offload_weights([self._answering], self._folder)
        except (Unreachable, OSError) as error:
            self._events.say(f"{error}; the teachers stay in memory")

    def of(self, batch: Batch) -> Signals:
        """Return the answers for a batch."""
        if self._why_not:
            begun = time.monotonic()
            answers = [self._as_run(answer, place) for place, answer in enumerate(self._run(batch.images))]
            self._seconds += time.monotonic() - begun
            return dict(zip(self._signals, answers, strict=True))
        if batch.rows is None:
            raise CompressError(
                "teacher_outputs: the batches do not say which images they hold; set teacher_outputs.store: off"
            )
        rows, found = batch.rows.numpy(), {}
        for place, (signal, answer) in enumerate(zip(self._signals, self._answers, strict=True)):
            kept = self._store.find(answer, batch.view)
            if kept is None:
                raise CompressError(
                    f"teacher_outputs: the answers to view {batch.view} are gone from {self._store.folder}; repeat the command"
                )
            found[signal] = self._as_run(torch.from_numpy(kept[rows]).to(batch.images.device), place)
        return found

    def _as_run(self, answer: Tensor, place: int) -> Tensor:
        """Return an answer in the precision in which eager torch gives it, whatever engine or store it comes from."""
        return answer.to(self._probe[place].dtype)

    def summary(self) -> TeacherOutputsResult:
        """Return what was done, for the report."""
        views = [] if self._why_not else self._shown
        for view in views:  # also those that others made and read
            self._note_error(view)
        return TeacherOutputsResult(
            images=self._images,
            signals=tuple(answer.name for answer in self._answers),
            engine=self._engine_name,
            trials=self._trials,
            store=self._kept(),
            precision=self._section.precision if not self._why_not else None,
            views=len(views),
            views_computed=self._made,
            bytes_per_image=0 if self._why_not else self._bytes_per_image(),
            max_abs_error=self._max_abs_error,
            seconds=self._seconds,
        )

    def _sweep(self, view: int, places: Sequence[int], stopped: Callable[[], bool]) -> Iterator[Sequence[Tensor]]:
        total = -(-self._batches.rows // len(self._sample))
        with self._events.task(f"teacher, view {view + 1} of {len(self._shown)}", total) as task:
            for batch in self._batches.read_view(view):
                answers = self._run(self._filled(batch.images))
                yield [answers[place][: len(batch.images)] for place in places]
                task.advance()
                if stopped():
                    raise Interrupted(f"stopped while the teacher answered view {view + 1}; repeat to continue")

    def _filled(self, images: Tensor) -> Tensor:
        """Return a batch of full size: in a smaller one torch may compute the same image with other last bits."""
        if len(images) == len(self._sample):
            return images
        whole = torch.empty_like(self._sample)
        whole[: len(images)], whole[len(images) :] = images, images[0]
        return whole

    def _run(self, images: Tensor) -> tuple[Tensor, ...]:
        if self._engine is None:
            self._engine = engines.build_engine(self._engine_name, self._answering, self._sample, self._autocast)
            if self._section.engine not in ("auto", "eager"):
                self._trials = (self._checked(self._engine),)
        return self._engine(images)

    def _checked(self, engine: Engine) -> EngineTrial:
        """Return how far the engine that the recipe names is from eager float32.

        Raises:
            CompressError: It is too far.
        """
        milliseconds = 1000 * engines.time_batch_seconds(engine, self._sample)
        given, exact = [engine(self._sample)], [engines.build_eager(self._answering)(self._sample)]
        found = engines.compare_outputs(self._answering, self._engine_name, given, exact, milliseconds)
        if not found.relative_difference <= self._section.tolerance:
            raise CompressError(
                f"teacher_outputs.engine: {self._engine_name} differs from eager float32 by {found.relative_difference:.2g} of "
                f"the answers' size, more than teacher_outputs.tolerance {self._section.tolerance:g}; raise that, or set "
                "engine: auto"
            )
        return found

    def _choice(self, calls: int, decision: Path | None) -> tuple[str, tuple[EngineTrial, ...]]:
        """Return the engine for so many batches, and what was tried if something had to be.

        What was decided is kept for this stage, so that one that continues never decides anew; a trial is kept for every stage
        that asks the same.
        """
        if self._section.engine != "auto":
            return self._section.engine, ()
        work = {
            "answering": hash_module(self._answering), "images": list(self._sample.shape),
            "strides": self._sample.stride(), "machine": dict(describe_training()), "autocast": str(self._autocast),
            "tolerance": self._section.tolerance, "device": self._sample.device.type,
        }  # fmt: skip
        folder = self._folder / "engines"
        general = folder / f"{make_key(**work)}.json"
        own = decision or folder / f"{make_key(**work, calls=calls)}.json"
        with writable(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / "lock"):
                tried = engines.read_trials(own, self._events) or engines.read_trials(general, self._events)
                if not tried:
                    tried = self._tried(calls)
                    if len(tried) > 1:
                        records.save(general, EngineTrials(trials=tried))
                if not own.is_file():
                    records.save(own, EngineTrials(trials=tried))
        return tried[0].engine, tried if len(tried) > 1 else ()

    def _tried(self, calls: int) -> tuple[EngineTrial, ...]:
        """Return a trial of all engines, or eager alone where that is done before a trial would have paid."""
        self._eager_seconds()  # the first call is slow
        seconds = self._eager_seconds()
        if seconds * calls < WORTH_A_TRIAL_SECONDS:
            return (EngineTrial(engine="eager", ms_per_batch=1000 * seconds, relative_difference=0.0),)
        tried = engines.try_engines(
            self._answering, self._some_images(), self._autocast, tolerance=self._section.tolerance, events=self._events
        )
        self._events.say(f"teacher: {', '.join(f'{each.engine} {each.ms_per_batch:.0f} ms' for each in tried)} per batch")
        return tried

    def _some_images(self) -> list[Tensor]:
        batches = [batch.images for batch, _ in zip(self._batches.read_view(0), range(TRIAL_BATCHES), strict=False)]
        return [images for images in batches if len(images) == len(self._sample)]

    def _eager_seconds(self) -> float:
        return engines.time_batch_seconds(engines.build_eager(self._answering, self._autocast), self._sample)

    def _key(self, networks: Sequence[Network], signal: Signal, probe: Tensor) -> str:
        """Return the name of the answers: the sha256 over all that decides their bits."""
        network, module = networks[signal.teacher], signal.module
        exact = probe.float().cpu().contiguous().numpy().tobytes()
        return make_key(
            teacher=hash_module(network), tap=signal.tap, images=self._batches.identity,
            module=module and hash_module(module), probe=hashlib.sha256(exact).hexdigest(), engine=self._engine_name,
            batch=[self._sample.shape, self._sample.stride()], autocast=str(self._autocast), device=self._sample.device.type,
            machine={name: value for name, value in describe_training().items() if name != "source"},
            made_by=[
                identify_class(type(self._batches)), identify_class(JointTeachers), np.__version__,
                _openvino(self._engine_name),
            ],
        )  # fmt: skip

    def _refusal(self, too_much: str, *, reread: bool) -> str:
        """Return why answers are not kept, or nothing.

        Raises:
            CompressError: The recipe insists, and they cannot be.
        """
        if self._section.store == "off":
            return "off in the recipe"
        if too_much and self._section.store == "on":
            raise CompressError(f"teacher_outputs.store: on, but {too_much}, or set teacher_outputs.store: auto")
        if too_much:
            self._events.say(f"teacher_outputs: answers of the teacher are not kept: {too_much}")
        if not too_much and not reread and self._section.store == "auto":
            return "every view is read once"
        return too_much

    def _obstacle(self, views: int) -> str:
        bytes_per_view = self._bytes_per_image() * self._batches.rows
        return find_obstacle(self._folder, self._section, bytes_per_view=bytes_per_view, views=views)

    def _bytes_per_image(self) -> int:
        return count_bytes_per_image(self._probe, self._section)


def _openvino(engine: str) -> str:
    """Return the versions of the runtime, and of who quantised for it, where that is what answers."""
    packages = ("openvino", *(("nncf",) if engine == "openvino_int8" else ()))
    return " ".join(importlib.metadata.version(name) for name in packages) if engine.startswith("openvino") else ""
