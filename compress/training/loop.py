"""The only training loop.

`fit` trains one stage of a method: every phase of every step in order, validation of what will be shipped after every epoch,
and a state file from which a killed run continues with the same bytes. It knows nothing of any particular method.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from compress.data import Batch, Batches
from compress.errors import CompressError, Interrupted, Unreachable
from compress.events import Events, Task
from compress.forward_pass import read_reason
from compress.freezing import find_moving_tensors, freeze_all_but, train_only
from compress.methods import Forward, Method, Signals
from compress.recipe import TrainSection
from compress.records import Accuracy, Epoch
from compress.teachers.provider import TeacherOutputs
from compress.training import checkpoint, evaluate
from compress.training.calibrate import calibrate, find_classifier
from compress.training.optimizer import (
    BuildOptimizer,
    compute_learning_rate,
)
from compress.training.updates import Updates

LOOK_EVERY = 10
"""Steps between looks at the loss on a GPU; a loss that is not finite stays so."""

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

MEMORY_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


class Paused(Exception):
    """A stage has trained as far as it was asked to; its state is saved.

    Args:
        epochs: That are behind it.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        super().__init__(f"paused after epoch {epochs}")


class Fit(NamedTuple):
    """Result of training; the selected weights are in the method's product."""

    epochs: tuple[Epoch, ...]
    best_epoch: int
    validation: dict[str, Accuracy]
    """Of the selected epoch, by name of who predicts."""
    temperature: float | None = None
    """By which the logits of the student were divided within it (`train.calibrate`)."""


def fit(
    method: Method,
    train: Batches,
    validation: Batches,
    *,
    settings: TrainSection,
    seed: int = 0,
    state: Path | None = None,
    stopped: Callable[[], bool] = lambda: False,
    events: Events | None = None,
    description: str = "",
    teachers: TeacherOutputs | None = None,
    validating: TeacherOutputs | None = None,
    forward: Forward | None = None,
    until: int | None = None,
    optimizer: BuildOptimizer | None = None,
) -> Fit:
    """Train one stage and leave the selected weights in `method.product()`.

    Args:
        method: The stage, on its device.
        train: Shuffled batches.
        validation: Held-out batches, whole and in order.
        settings: How to train.
        seed: Seed of what is random in the networks, such as dropout.
        state: File from which an interrupted stage continues; `None` keeps none.
        stopped: Asked after every step; true saves the state and ends.
        events: Where progress goes.
        description: What people read beside the progress.
        teachers: Gives the outputs of frozen teachers; without it they are run at every step.
        validating: The same for the held-out images, where validation reads outputs of teachers.
        forward: Runs the student in training steps; without it the student itself does.
        until: Epochs after which to pause; `None` trains to the end.
        optimizer: Returns the optimizer of the parameters that it is given, for each phase; default: that of the settings. The
            schedule of the settings is a factor on its learning rates, and what it leaves out is not trained.

    Raises:
        Paused: There are epochs left after `until`; the same call with a larger one continues.
        CompressError: A loss is not finite; the message names terms, step and epoch. Or what is shipped cannot be calibrated.
        Interrupted: `stopped` said so; the state is saved.
    """
    title = description or method.stage
    if settings.calibrate:
        find_classifier(method)
    run = _StageTraining(
        method, train, validation, settings=settings, events=events or Events(), state=state, title=title, stopped=stopped,
        teachers=teachers, validating=validating, forward=forward, optimizer=optimizer,
    )  # fmt: skip
    torch.manual_seed(seed)
    run.resume()
    with run.events.task(title, settings.epochs * run.steps, run.done, kind="training") as task:
        try:
            run.epochs(task, settings.epochs if until is None else min(until, settings.epochs))
        except Interrupted:
            run.save()
            raise
    if run.epoch < settings.epochs:
        run.save(paused=True)
        if stopped():
            raise Interrupted(f"{title}: stopped after epoch {run.epoch}; the state is saved; repeat to continue")
        raise Paused(run.epoch)
    return run.finish()


class _StageTraining:
    """The state of one stage's training, and the moves that change it."""

    def __init__(
        self,
        method: Method,
        train: Batches,
        validation: Batches,
        *,
        settings: TrainSection,
        events: Events,
        state: Path | None,
        title: str,
        stopped: Callable[[], bool] = lambda: False,
        teachers: TeacherOutputs | None = None,
        validating: TeacherOutputs | None = None,
        forward: Forward | None = None,
        optimizer: BuildOptimizer | None = None,
    ) -> None:
        self.method, self.train, self.validation, self.settings = method, train, validation, settings
        self.events, self.path, self.title, self.stopped = events, state, title, stopped
        self.teachers, self.validating, self.forward = teachers, validating, forward
        self.steps, self.saved = len(train), time.monotonic()
        self.updates, self.autocast = Updates(method, settings, optimizer), DTYPES[settings.precision]
        freeze_all_but(method, [parameter for group in self.updates.phases.values() for parameter in group])
        self.epoch, self.step, self.sums = 0, 0, _Sums()
        self.history: list[Epoch] = []
        self.best: dict[str, Any] = {}

    @property
    def done(self) -> int:
        """Steps behind us."""
        return self.epoch * self.steps + self.step

    def epochs(self, task: Task, until: int) -> None:
        """Do every step that is left of so many epochs, and validate after each.

        Raises:
            Interrupted: The user stopped.
        """
        while self.epoch < until:
            for batch, targets in self.batches():
                self.advance(batch, targets, task)
                if self.stopped():
                    raise Interrupted(
                        f"{self.title}: stopped in epoch {self.epoch + 1}; the state is saved; repeat to continue"
                    )
                self._save_if_due()
            self.end_epoch()
            if self.stopped():
                raise Interrupted(f"{self.title}: stopped after epoch {self.epoch}; the state is saved; repeat to continue")
            self._save_if_due()

    def _save_if_due(self) -> None:
        if time.monotonic() - self.saved > self.settings.state_seconds:
            self.save()
            self.saved = time.monotonic()

    def batches(self) -> Iterator[tuple[Batch, Signals | None]]:
        """Yield the rest of the epoch's batches with the outputs of frozen teachers for them, and count the time of both."""
        begun = time.perf_counter()
        if self.teachers is not None:
            self.teachers.prepare_epoch(self.epoch, self.stopped)
            self.sums.teacher_seconds += time.perf_counter() - begun
        begun = time.perf_counter()
        for batch in self.train.epoch(self.epoch, self.step):
            self.sums.waiting_seconds += time.perf_counter() - begun
            yield batch, self._get_signals(batch)
            begun = time.perf_counter()

    def _get_signals(self, batch: Batch) -> Signals | None:
        if self.teachers is None:
            return None
        begun = time.perf_counter()
        signals = self.teachers.get_signals(batch)
        self.sums.teacher_seconds += time.perf_counter() - begun
        return signals

    def advance(self, batch: Batch, signals: Signals | None, task: Task) -> None:
        """Do one step: all phases, in order, each with a fresh forward pass.

        Raises:
            CompressError: A loss is not finite, or a network or a loss cannot take the batch.
        """
        begun, updates = time.perf_counter(), self.updates
        updates.set_learning_rate(compute_learning_rate(self.settings, self.done, self.steps))
        for phase in updates.phases:
            with train_only(updates.phases, phase):
                step = self.method.step(batch, phase=phase, autocast=self.autocast, signals=signals, forward=self.forward)
                with self._naming_batch(batch, phase):
                    terms = self.method(step)
                    total = torch.stack([value.float() for value in terms.values()]).sum()
                    if updates.device.type == "cpu" or self.step % LOOK_EVERY == 0:  # looking waits for a GPU to have finished
                        self._refuse_infinite(total, terms, phase)
                    updates.update(total, phase)
            self.sums.add(terms, step.observed, prefix=f"{phase}." if len(updates.phases) > 1 else "")
        updates.update_average()
        self.step += 1
        self.sums.seconds += time.perf_counter() - begun
        if self.done % LOOK_EVERY == 0:
            task.advance(0, note=f"loss {float(self.sums.losses['total']) / self.step:.3f}")
        task.advance()

    def _refuse_infinite(self, total: Tensor, terms: Mapping[str, Tensor], phase: str) -> None:
        if math.isfinite(float(total.detach())):
            return
        bad = ", ".join(f"{name} = {float(value.detach()):g}" for name, value in terms.items() if not torch.isfinite(value))
        where = self._locate(phase)
        first = self.epoch == self.step == 0  # nothing was learnt yet, so it may be what goes in
        lower = f"lower {self.method.lr_field}"
        remedy = f"look for what is not finite in the images or in the teacher's outputs; else {lower}"
        raise CompressError(
            f"training stopped at {where}: {bad or 'the sum of losses'} is not finite; {remedy if first else lower}"
        )

    def _locate(self, phase: str) -> str:
        return f"epoch {self.epoch + 1}, step {self.step + 1} of {self.steps}, phase {phase!r}"

    @contextmanager
    def _naming_batch(self, batch: Batch, phase: str) -> Iterator[None]:
        """Turn an error of torch on a batch into one message that names it.

        Raises:
            CompressError: The batch does not fit, or there is no memory left.
        """
        try:
            yield
        except (RuntimeError, ValueError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                remedy = "use smaller batches, or another device"
            elif len(batch.images) == 1:
                remedy = "leave a last batch of a single image out (drop_last=True), or choose another batch size"
            else:
                remedy = "look at this batch: earlier ones passed" if self.done else "see whether networks and losses fit it"
            where = f"{self._locate(phase)}, on images {list(batch.images.shape)}"
            raise CompressError(f"training stopped at {where}: {read_reason(error)}; {remedy}") from error
        except CompressError:
            raise  # says itself where it was
        except Exception as error:
            error.add_note(f"training was at {self._locate(phase)}, on images {list(batch.images.shape)}")
            raise

    def end_epoch(self) -> None:
        """Validate, remember the epoch if it is to be kept, and begin the next.

        Raises:
            CompressError: A loss is not finite.
        """
        begun = time.perf_counter()
        with self.updates.use_average():
            scores = self.method.choose(self._validate())
            percent, balanced = (_average(scores, part) for part in ("percent", "balanced_percent"))
            value = balanced if self.settings.select == "best_balanced" else percent
            if not self.best or self.settings.select == "last" or value > self.best["value"]:
                self._keep_as_best(value, scores)
        means = {name: float(value) / self.steps for name, value in self.sums.losses.items()}
        if not math.isfinite(means["total"]):
            bad = ", ".join(name for name, mean in means.items() if not math.isfinite(mean) and name != "total")
            raise CompressError(
                f"training stopped after epoch {self.epoch + 1}: {bad} is not finite; lower {self.method.lr_field}"
            )
        self._record_epoch(means, percent, balanced, time.perf_counter() - begun)
        self.epoch, self.step, self.sums = self.epoch + 1, 0, _Sums()

    def _keep_as_best(self, value: float, scores: Mapping[str, Accuracy]) -> None:
        weights = {name: value.detach().clone() for name, value in self.method.product().state_dict().items()}
        best = {name: score.model_dump_json() for name, score in scores.items()}
        self.best = {"value": value, "epoch": self.epoch + 1, "weights": weights, "scores": best}

    def _record_epoch(self, losses: dict[str, float], percent: float, balanced: float, validation_seconds: float) -> None:
        """Add the epoch that ends to the history, and tell programs of it."""
        sums = self.sums
        record = Epoch(
            stage=self.title,
            epoch=self.epoch + 1,
            lr=compute_learning_rate(self.settings, self.done - 1, self.steps),
            losses=losses,
            observed={name: float(value) / self.steps for name, value in sums.observed.items()},
            validation_percent=percent,
            validation_balanced_percent=balanced,
            seconds=sums.seconds + sums.waiting_seconds + sums.teacher_seconds + validation_seconds,
            waiting_seconds=sums.waiting_seconds,
            teacher_seconds=sums.teacher_seconds,
        )
        self.history.append(record)
        self.events.emit("epoch", **record.model_dump())

    def _validate(self) -> dict[str, Accuracy]:
        return evaluate.validate(self.method, self.validation, self._get_held_out_signals())

    def _get_held_out_signals(self) -> Callable[[Batch], Signals | None]:
        """Return what gives the outputs of frozen teachers for the held-out images."""
        if self.validating is None:
            return lambda _batch: None
        self.validating.prepare_epoch(0, self.stopped)
        return self.validating.get_signals

    def finish(self) -> Fit:
        """Put the selected weights into the product, freeze it, and return what training gave."""
        self.method.product().load_state_dict(self.best["weights"])
        freeze_all_but(self.method, ())
        self.method.conclude(self.validation, self._get_held_out_signals())
        scores = {name: Accuracy.model_validate_json(text) for name, text in self.best["scores"].items()}
        temperature = calibrate(self.method, self.validation) if self.settings.calibrate else None
        return Fit(tuple(self.history), self.best["epoch"], scores, temperature)

    def save(self, *, paused: bool = False) -> None:
        """Save the training state atomically. If `paused`, resuming it is not logged."""
        if self.path is None:
            return
        checkpoint.save_state(
            self.path,
            {
                "paused": paused,
                "epoch": self.epoch,
                "step": self.step,
                "sums": vars(self.sums),
                "history": [record.model_dump_json() for record in self.history],
                "best": self.best,
                "moving": find_moving_tensors(self.method),
                "updates": self.updates.get_state(),
                "random": torch.get_rng_state(),
                "cuda_random": torch.cuda.get_rng_state_all() if self.updates.device.type == "cuda" else [],
                "teachers": [each and each.get_state() for each in (self.teachers, self.validating)],
            },
        )

    def resume(self) -> None:
        """Continue from the state file, if there is one; a damaged one is said, and the stage starts again."""
        saved = self._load_state()
        if saved is None:
            return
        self.epoch, self.step, self.sums = saved["epoch"], saved["step"], _Sums(**saved["sums"])
        self.best, self.history = saved["best"], [Epoch.model_validate_json(text) for text in saved["history"]]
        with torch.no_grad():
            for name, tensor in find_moving_tensors(self.method).items():
                tensor.copy_(saved["moving"][name])
        self.updates.resume(saved["updates"])
        torch.set_rng_state(saved["random"])
        if saved["cuda_random"]:
            torch.cuda.set_rng_state_all(saved["cuda_random"])
        for teachers, state in zip((self.teachers, self.validating), saved["teachers"], strict=True):
            if teachers is not None:
                teachers.resume(state)
        if not saved["paused"]:
            self.events.emit("resumed", stage=self.title, epoch=self.epoch + 1, step=self.step)
            self.events.say(f"{self.title}: continues in epoch {self.epoch + 1}, step {self.step + 1}")

    def _load_state(self) -> dict[str, Any] | None:
        if self.path is None:
            return None
        try:
            return checkpoint.load_state(self.path)
        except Unreachable:
            raise
        except CompressError as error:
            self.events.warn(f"{self.title}: {error}; this stage starts again")
            self.events.emit("state_damaged", stage=self.title, path=str(self.path))
            self.path.unlink()
            return None


@dataclass
class _Sums:
    """Sums over the steps of one epoch."""

    seconds: float = 0.0
    """Of the steps themselves."""
    waiting_seconds: float = 0.0
    teacher_seconds: float = 0.0
    losses: dict[str, Tensor] = field(default_factory=dict)
    observed: dict[str, Tensor] = field(default_factory=dict)

    def add(self, terms: Mapping[str, Tensor], observed: Mapping[str, Tensor], *, prefix: str) -> None:
        """Add the loss terms of one phase of a step, and what it observed, each a single number."""
        named = {f"{prefix}{name}": value.detach().double() for name, value in terms.items()}
        named["total"] = torch.stack(list(named.values())).sum()
        _add(self.losses, named)
        _add(self.observed, {f"{prefix}{name}": value.double() for name, value in observed.items()})


def _average(scores: Mapping[str, Accuracy], part: str) -> float:
    """Return the mean over all networks of a part of their accuracy; the metric stands in where that part is not known."""
    values = [getattr(score, part) for score in scores.values()]
    return float(
        sum(score.percent if each is None else each for each, score in zip(values, scores.values(), strict=True)) / len(scores)
    )


def _add(sums: dict[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64, device=value.device)) + value
