"""One stage of training: found in the cache by all that decides its result, or trained there and then shown in the run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from compress import records
from compress.data import Batch, InMemory
from compress.errors import CompressError
from compress.freezing import freeze_all_but
from compress.methods import Method, Signal
from compress.methods.supervised import Supervised
from compress.recipe import TrainSection
from compress.records import Accuracy, StageResult
from compress.records.training import METRICS, WEIGHTS
from compress.run import cache as stages
from compress.run.context import STATE, Run, Trained, seed_for
from compress.system.files import sha256_of
from compress.system.signals import graceful
from compress.teachers import provider as teaching
from compress.teachers.provider import Teachers
from compress.teachers.signals import few, read_by, validated_by
from compress.training import checkpoint, evaluate, preflight
from compress.training import compile as compiling
from compress.training import loop as trainer


def train(
    run: Run,
    name: str,
    method: Method,
    settings: TrainSection,
    *,
    reads: Mapping[str, object],
    method_name: str,
    shared: bool = False,
) -> Trained:
    """Return the result of a stage: found in the cache by its key, or trained there; shown in the run's folder either way.

    Args:
        run: Run context.
        name: What the stage is called in the run.
        method: The stage.
        settings: How the student is trained; the stage may be trained otherwise.
        reads: What decides the result besides data, settings and engine, for the key.
        method_name: How the network was trained, for reports.
        shared: Whether other students read the same answers of frozen teachers; they may then take turns.

    Raises:
        Paused: The next student's turn has come; the state is saved.
        CompressError: Training does not work.
        Interrupted: The user stopped; the state is saved.
    """
    settings = method.schedule(settings)
    seed = seed_for(run, name if name.startswith("teacher") else method.stage)  # one order for all students of a recipe
    key = stages.key(
        reads=reads, train=settings.model_dump(mode="json", exclude={"device", "state_seconds"}), data=run.data.key, seed=seed,
        device=run.device.type, engine=dict(stages.engine()),
        targets=run.recipe.targets.model_dump(mode="json") if _may_ask(method) else None,
    )  # fmt: skip
    found = _found(run, name, key)
    turn = run.turn if shared and run.turn is not None and name in run.turn.students else None

    def make(folder: Path) -> None:
        batches = run.shuffled(run.data.train, settings, seed=seed)
        batch = next(batches.epoch(0))
        first = few(batch)
        if turn is None or not (folder / STATE).is_file():
            _announce(run, name, method, first)
        begun = time.monotonic()
        held_out = run.whole(run.data.validation)
        asked = _teachers(
            run, method, read_by(method, first), batches, epochs=settings.epochs, shared=shared,
            autocast=trainer.DTYPES[settings.precision], decision=folder / ".engine-training.json", images="training",
            one_view=turn and turn.answers,
        )  # fmt: skip
        signals = validated_by(method, few(next(held_out.epoch(0))))
        validating = _teachers(
            run, method, signals, held_out, epochs=settings.epochs, shared=False, autocast=None,
            decision=folder / ".engine-held-out.json", images="held-out",
        )  # fmt: skip
        running = compiling.choose(
            method, batch, engine=settings.engine, steps=settings.epochs * len(batches),
            autocast=trainer.DTYPES[settings.precision], events=run.events, decision=folder / ".engine-student.json",
        )  # fmt: skip
        with graceful(run.events) as stopped:
            fit = trainer.fit(
                method, batches, held_out, settings=settings, seed=seed, state=folder / STATE, stopped=stopped,
                events=run.events, description=label(run, name), teachers=asked, validating=validating,
                forward=running.forward, until=turn and turn.until,
            )  # fmt: skip
        analyses = method.analyse(batches, held_out)
        freeze_all_but(method, ())
        product = method.product()
        checkpoint.save_weights(folder / WEIGHTS, product, metadata={"stage": name, "key": key})
        own = fit.validation.get("student")
        image = run.data.image().to(run.device)
        result = StageResult(
            stage=name, key=key, method=method_name,
            parameters=evaluate.parameters(product if own is None else method.deployable()),
            macs=None if own is None else evaluate.macs(method.deployable(), image),
            best_epoch=fit.best_epoch, validation=own, members=fit.validation if own is None else {},
            analyses=analyses, engine=running.engine, engine_trials=running.trials,
            teaching=tuple(each.summary() for each in (asked, validating) if each is not None),
            epochs=fit.epochs, seconds=max(time.monotonic() - begun, sum(epoch.seconds for epoch in fit.epochs)),
            files={WEIGHTS: sha256_of(folder / WEIGHTS)},
        )  # fmt: skip
        records.save(folder / METRICS, result)
        (folder / STATE).unlink(missing_ok=True)

    folder = run.cache.make(key, make)
    result = records.read(folder / METRICS, StageResult).model_copy(update={"stage": name, "method": method_name})
    checkpoint.load_weights(method.product(), folder / WEIGHTS, sha256=result.files[WEIGHTS])
    freeze_all_but(method, ())
    trained = Trained(name, method_name, method.deployable(), (result,), key, folder)
    if found and run.turn is not None and run.turn.until is not None:  # shown and told in another turn
        return trained
    stages.publish(folder, run.students / name)
    run.events.emit("stage", stage=name, seed=run.seed, key=key, found=found, seconds=result.seconds)
    effort = "(found in the cache)" if found else f"in {result.seconds:.0f} s"
    run.events.say(f"{label(run, name)}: {_summary(result)} {effort}")
    return trained


def _found(run: Run, name: str, key: str) -> bool:
    """Return whether a stage is in the cache; one whose weights are not what was trained is forgotten."""
    folder = run.cache.find(key)
    if folder is None:
        return False
    try:
        if sha256_of(folder / WEIGHTS) == records.read(folder / METRICS, StageResult).files[WEIGHTS]:
            return True
    except CompressError:  # a file is missing or unreadable
        pass
    run.events.say(f"{label(run, name)}: what was trained in {folder} is damaged; it is trained anew")
    run.cache.drop(key)
    return False


def _may_ask(method: Method) -> bool:
    """Return whether a stage may ask a frozen teacher, so that how its answers are computed and kept can change the result."""
    return bool(method.teachers) and not isinstance(method, Supervised) and not method.moves_teacher


def _teachers(
    run: Run, method: Method, signals: Sequence[Signal], batches: InMemory, *, epochs: int, shared: bool,
    autocast: torch.dtype | None, decision: Path, images: str, one_view: Path | None = None,
) -> Teachers | None:  # fmt: skip
    """Return what answers for the frozen teachers of a stage, or nothing where it asks none."""
    if not signals:
        return None
    return Teachers(
        method, signals, batches, section=run.recipe.targets, folder=run.cache.folder / teaching.FOLDER, epochs=epochs,
        shared=shared, autocast=autocast, events=run.events, decision=decision, images=images, one_view=one_view,
    )  # fmt: skip


def _announce(run: Run, name: str, method: Method, batch: Batch) -> None:
    """Say what is trained, what is frozen, and how much of the gradient each loss term has."""
    trained = sum(parameter.numel() for group in method.phases().values() for parameter in group)
    frozen = evaluate.parameters(method) - trained
    shares = preflight.gradient_shares(method, batch)
    listed = ", ".join(f"{term} {share:.0%}" for term, share in shares.items())
    run.events.say(f"{label(run, name)}: trains {trained:,} parameters, {frozen:,} frozen; gradient norm: {listed}")
    run.events.emit("preflight", stage=name, seed=run.seed, trained=trained, frozen=frozen, gradient_shares=shares)


def label(run: Run, name: str) -> str:
    """Return what people read: the first seed's stages have no more than their names."""
    return name if run.students == run.folder else f"{name}, seed {run.seed}"


def _summary(result: StageResult) -> str:
    if result.validation is not None:
        taught, waited = _share(result, "teaching_seconds"), _share(result, "waiting_seconds")
        times = f"{waited:.0%} of the time waiting for images" + (f", {taught:.0%} for teachers" if result.teaching else "")
        return f"{percent(result.validation)} on validation, best epoch {result.best_epoch} of {len(result.epochs)}; {times}"
    return ", ".join(f"{name} {percent(accuracy)}" for name, accuracy in result.members.items()) + " on validation"


def _share(result: StageResult, part: str) -> float:
    """Return the share of all epochs' time that a part of it has."""
    return float(
        sum(getattr(epoch, part) for epoch in result.epochs) / max(sum(epoch.seconds for epoch in result.epochs), 1e-9)
    )


def percent(accuracy: Accuracy) -> str:
    """Return a top-1 as people read it."""
    return f"{accuracy.top1_percent:.2f} %"
