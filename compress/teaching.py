"""What frozen teachers say during one stage: kept in the target store where that pays, computed by the chosen engine where not.

Before the first epoch that shows a view of the training images, the answers to that view are computed in one sweep and
written; every epoch, student, seed, run and process that meets the view again reads them. Nothing of this changes what a method
sees beyond the stated rounding: order and pixels do not depend on it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from compress import engines, records, stages, targets
from compress.data._loader import InMemory
from compress.engines import Answering, Engine
from compress.errors import CompressError
from compress.events import Events
from compress.files import writable
from compress.freezing import freeze_all_but
from compress.methods._method import Method
from compress.methods._step import Signal, Targets
from compress.models._network import Batch, Network
from compress.recipe import TargetsSection
from compress.records import EngineTrial, EngineTrials, Teaching

TRIAL_BATCHES = 4
WORTH_A_TRIAL_SECONDS = 20.0
"""A teacher that eager torch runs in less than that, all batches together, is not worth trying engines for."""


class Teachers:
    """The answers of frozen teachers for the batches of one stage.

    Args:
        method: The stage.
        signals: What it reads of them (`read_by`).
        batches: The training images.
        section: How the recipe wants answers computed and kept.
        folder: Of the store.
        epochs: Epochs of the stage.
        shared: Whether other stages read the same answers, so that keeping them pays even if this one reads them once.
        autocast: The precision of the stage's forward passes.
        events: Where progress goes.
    """

    def __init__(
        self,
        method: Method,
        signals: Sequence[Signal],
        batches: InMemory,
        *,
        section: TargetsSection,
        folder: Path,
        epochs: int,
        shared: bool,
        autocast: torch.dtype | None,
        events: Events,
    ) -> None:
        self._signals, self._batches, self._section, self._events = tuple(signals), batches, section, events
        self._autocast, self._folder = autocast, folder
        networks = [teacher for teacher in method.teachers if isinstance(teacher, Network)]
        self._answering = Answering(networks, signals).eval()
        self._views = len({batches.view(epoch) for epoch in range(epochs)})
        self._sample = next(batches.in_order(0)).images
        self._engine_name, self._trials = self._choice()
        self._engine: Engine | None = None
        self._store = targets.Store(folder, precision=section.precision, events=events)
        self._answers = [targets.Answer(_name(method, signal), self._key(networks, signal)) for signal in signals]
        self._why_not = self._refusal(reread=shared or self._views < epochs)
        self._made, self._seconds = 0, 0.0

    def begin(self, epoch: int) -> None:
        """Make sure that the answers to the view that an epoch shows are there, if they are kept."""
        view = self._batches.view(epoch)
        if self._why_not or all(self._store.find(answer, view) is not None for answer in self._answers):
            return
        begun = time.monotonic()
        with self._store.locked(self._answers):
            missing = [place for place, answer in enumerate(self._answers) if self._store.find(answer, view) is None]
            if missing:
                wanted = [self._answers[place] for place in missing]
                self._store.make(wanted, view, rows=self._batches.rows, batches=self._sweep(view, missing))
                self._made += 1
        self._seconds += time.monotonic() - begun

    def of(self, batch: Batch) -> Targets:
        """Return the answers for a batch."""
        if self._why_not:
            return dict(zip(self._signals, self._run(batch.images), strict=True))
        if batch.rows is None:
            raise CompressError("targets: the batches do not say which images they hold; set targets.store: off")
        rows, found = batch.rows.numpy(), {}
        for signal, answer in zip(self._signals, self._answers, strict=True):
            kept = self._store.find(answer, batch.view)
            if kept is None:
                raise CompressError(
                    f"targets: the answers to view {batch.view} are gone from {self._folder}; repeat the command"
                )
            found[signal] = torch.from_numpy(kept[rows]).to(batch.images.device).float()
        return found

    def summary(self) -> Teaching:
        """Return what was done, for the report."""
        kept = self._store.views.values()
        return Teaching(
            signals=tuple(answer.name for answer in self._answers),
            engine=self._engine_name,
            trials=self._trials,
            store=self._why_not or "kept",
            precision=self._section.precision if not self._why_not else None,
            views=0 if self._why_not else self._views,
            views_made=self._made,
            bytes_per_image=0 if self._why_not else self._bytes_per_image(),
            max_abs_error=max((view.max_abs_error for view in kept), default=0.0),
            seconds=self._seconds,
        )

    def _sweep(self, view: int, places: Sequence[int]) -> Iterator[Sequence[Tensor]]:
        with self._events.task(f"teacher, view {view + 1} of {self._views}", len(self._batches)) as task:
            for batch in self._batches.in_order(view):
                answers = self._run(batch.images)
                yield [answers[place] for place in places]
                task.advance()

    def _run(self, images: Tensor) -> tuple[Tensor, ...]:
        if self._engine is None:
            self._engine = engines.build(self._engine_name, self._answering, self._sample, self._autocast)
            self._check(self._engine)
        return self._engine(images)

    def _check(self, engine: Engine) -> None:
        """Refuse an engine whose answers to these very signals are too far from those of eager float32."""
        if self._engine_name == "eager":
            return
        given, exact = [engine(self._sample)], [engines.eager(self._answering)(self._sample)]
        found = engines.compared(self._engine_name, given, exact, 0.0)
        if found.relative_difference > self._section.tolerance:
            raise CompressError(
                f"targets.engine: {self._engine_name} differs from eager float32 by {found.relative_difference:.2g} of the "
                f"answers' size, more than targets.tolerance {self._section.tolerance:g}; set targets.engine: eager"
            )

    def _choice(self) -> tuple[str, tuple[EngineTrial, ...]]:
        """Return the engine, and what was tried if something had to be."""
        if self._section.engine != "auto":
            return self._section.engine, ()
        work = {
            "teachers": targets.digest(self._answering.teachers), "images": list(self._sample.shape),
            "machine": dict(stages.engine()), "autocast": str(self._autocast), "tolerance": self._section.tolerance,
            "device": self._sample.device.type,
        }  # fmt: skip
        path = self._folder / "engines" / f"{stages.key(**work)}.json"
        if path.is_file():
            known = records.read(path, EngineTrials).trials
            return known[0].engine, known
        self._eager_seconds()  # the first call is slow
        if self._eager_seconds() * len(self._batches) * self._views < WORTH_A_TRIAL_SECONDS:
            return "eager", ()
        tried = engines.choose(self._answering, self._some_images(), self._autocast, tolerance=self._section.tolerance)
        with writable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        records.save(path, EngineTrials(trials=tried))
        self._events.say(f"teacher: {', '.join(f'{each.engine} {each.ms_per_batch:.0f} ms' for each in tried)} per batch")
        return tried[0].engine, tried

    def _some_images(self) -> list[Tensor]:
        batches = [batch.images for batch, _ in zip(self._batches.in_order(0), range(TRIAL_BATCHES), strict=False)]
        return [images for images in batches if len(images) == len(self._sample)]

    def _eager_seconds(self) -> float:
        begun = time.perf_counter()
        engines.eager(self._answering, self._autocast)(self._sample)
        return time.perf_counter() - begun

    def _key(self, networks: Sequence[Network], signal: Signal) -> str:
        return stages.key(
            teacher=targets.digest(networks[signal.teacher]), taps=networks[signal.teacher].taps, tap=signal.tap,
            module=targets.digest(signal.module) if signal.module is not None else None, images=self._batches.identity,
            engine=self._engine_name, autocast=str(self._autocast), device=self._sample.device.type,
            machine={name: value for name, value in stages.engine().items() if name != "source"},
        )  # fmt: skip

    def _bytes_per_image(self) -> int:
        shapes = [answer.shape[1:] for answer in engines.eager(self._answering)(self._sample[:1])]
        return sum(shape.numel() for shape in shapes) * targets.DTYPES[self._section.precision].itemsize

    def _refusal(self, *, reread: bool) -> str:
        """Return why answers are not kept, or nothing.

        Raises:
            CompressError: The recipe insists, and they cannot be.
        """
        if self._section.store == "off":
            return "off in the recipe"
        size = self._bytes_per_image() * self._batches.rows * self._views / 2**30
        where = targets.file_system(self._folder.parent)
        why = ""
        if where in targets.NETWORK:
            why = f"{self._folder} is on {where}, where a mapped file can change under its reader; put --runs on a local disk"
        elif size > self._section.max_gib:
            why = f"{self._views} view(s) would take {size:.1f} GiB, more than targets.max_gib {self._section.max_gib:g}"
        if why and self._section.store == "on":
            raise CompressError(f"targets.store: on, but {why}, or set targets.store: auto")
        if not why and not reread and self._section.store == "auto":
            why = "every view is read once"
        return why


def read_by(method: Method, batch: Batch) -> list[Signal]:
    """Return what a stage reads of frozen teachers, found by running each of its phases once; nothing changes."""
    phases = method.phases()
    freeze_all_but(method, (parameter for group in phases.values() for parameter in group))
    buffers = {name: value.clone() for name, value in method.named_buffers()}
    found: dict[Signal, None] = {}
    with torch.no_grad(), torch.random.fork_rng():
        for phase in phases:
            step = method.step(batch, phase=phase)
            method(step)
            found |= step.read
    for name, value in method.named_buffers():
        value.copy_(buffers[name])
    freeze_all_but(method, ())
    return list(found)


def _name(method: Method, signal: Signal) -> str:
    """Return what people call a signal: `teacher logits`, `teacher1 layer3`, `teacher head2`."""
    owner = "teacher" if len(method.teachers) == 1 else f"teacher{signal.teacher}"
    network = method.teachers[signal.teacher]
    if signal.tap is None or not isinstance(network, Network):
        return f"{owner} logits"
    if signal.module is None:
        return f"{owner} {network.taps[signal.tap]}"
    names = {id(module): name for name, module in method.named_modules()}
    return f"{owner} {names[id(signal.module)].rpartition('.')[2]} on {network.taps[signal.tap]}"
