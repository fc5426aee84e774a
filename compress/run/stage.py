"""Train one stage, or find it in the cache by all that decides its result, and copy it into the run's folder."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from compress import records
from compress.data import Batch, Split, ViewedBatches
from compress.errors import CompressError
from compress.fingerprint import describe_training, make_key
from compress.freezing import freeze_all_but, list_trained_parameters
from compress.methods import Method
from compress.methods.supervised import Supervised
from compress.models import count_macs, count_parameters
from compress.recipe import TrainSection
from compress.records import Analysis, StageResult, TeacherOutputsResult
from compress.records.training import METRICS, WEIGHTS
from compress.run import cache
from compress.run.build import derive_seed
from compress.run.context import STATE, Lockstep, Run, Trained
from compress.system.files import hash_file
from compress.system.signals import catch_stop_request
from compress.tasks import Task
from compress.teachers.plan import OutputsRequest
from compress.teachers.provider import FOLDER, TeacherOutputs, provide_outputs
from compress.teachers.signals import find_required_signals, find_validation_signals, take_first_images
from compress.training import checkpoint, loop, preflight
from compress.training.engines import StudentEngine, choose_engine
from compress.training.loop import Fit
from compress.training.loss_scales import LossScales, find_scale_warning, measure_loss_scales


class _Stage(NamedTuple):
    """One stage of training and the key of its result."""

    name: str
    """What the stage is called in the run."""
    method: Method
    method_name: str
    """How the network was trained, for reports."""
    settings: TrainSection
    seed: int
    """Of the order of its batches."""
    key: str
    shared: bool
    """Whether other students read the same outputs of frozen teachers."""
    lockstep: Lockstep | None
    """How it is trained in lockstep with others, if it is."""


def train_stage(
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
        shared: Whether other students read the same outputs of frozen teachers; they may then be trained in lockstep.

    Raises:
        Paused: The other students of a lockstep come next; the state is saved.
        CompressError: Training does not work.
        Interrupted: The user stopped; the state is saved.
    """
    stage = _identify(run, name, method, method.schedule(settings), reads=reads, method_name=method_name, shared=shared)
    label = label_stage(run, name)
    found = run.cache.find(stage.key, label) is not None
    folder = run.cache.make(stage.key, label, lambda folder: _train(run, stage, folder))
    result = records.read(folder / METRICS, StageResult).model_copy(update={"stage": name, "method": method_name})
    checkpoint.load_weights(method.product(), folder / WEIGHTS, sha256=result.files[WEIGHTS])
    freeze_all_but(method, ())
    if not (found and run.lockstep is not None and run.lockstep.stop_after is not None):  # else shown before
        _show(run, stage, result, folder, found=found)
    return Trained(name, method_name, method.deployable(), (result,), stage.key, folder)


def _identify(
    run: Run, name: str, method: Method, settings: TrainSection, *, reads: Mapping[str, object], method_name: str, shared: bool
) -> _Stage:
    """Return a stage with the key of all that decides its result."""
    seed = derive_seed(run, name if name.startswith("teacher") else method.stage)  # one order for all students of a recipe
    images = _select_images(run, name, method)
    keys = ((run.data.whole, run.data.whole_key), (run.data.labelled, run.data.labelled_key))
    key = make_key(
        unlabelled=next((key for split, key in keys if images is split), None),
        reads=reads, train=settings.model_dump(mode="json", exclude={"device", "state_seconds"}), data=run.data.key, seed=seed,
        device=run.device.type, engine=dict(describe_training()),
        teacher_outputs=run.recipe.teacher_outputs.model_dump(mode="json") if _may_use_teachers(method) else None,
    )  # fmt: skip
    lockstep = run.lockstep if shared and run.lockstep is not None and name in run.lockstep.students else None
    return _Stage(name, method, method_name, settings, seed, key, shared, lockstep)


def _select_images(run: Run, name: str, method: Method) -> Split:
    """Return the images that a stage is trained on; a teacher has all labels of the training split."""
    return run.data.train if name.startswith("teacher") else run.select_training_images(method)


def _train(run: Run, stage: _Stage, folder: Path) -> None:
    """Train a stage, or continue it, and leave its weights and its record in the folder."""
    if _is_finished(folder):  # and its process was killed before the folder got its name
        (folder / STATE).unlink(missing_ok=True)
        return
    method, settings = stage.method, stage.settings
    images = _select_images(run, stage.name, method)
    batches = run.batch_shuffled(images, settings, seed=stage.seed)
    known = images if images is not run.data.whole else run.data.labelled or run.data.train
    batch = next((batches if known is images else run.batch_shuffled(known, settings, seed=stage.seed)).epoch(0))
    if stage.lockstep is None or not (folder / STATE).is_file():
        _announce(run, stage.name, method, take_first_images(batch))
    scales = measure_loss_scales(method, take_first_images(batch))
    warning = scales and find_scale_warning(label_stage(run, stage.name), scales, settings)
    if warning:
        run.events.warn(warning)
    begun = time.monotonic()
    held_out = run.batch_in_order(run.data.validation)
    training, validating = _provide_for_stage(run, stage, folder, batches, held_out, first=take_first_images(batch))
    running = choose_engine(
        method, batch, engine=settings.engine, steps=settings.epochs * len(batches),
        autocast=loop.DTYPES[settings.precision], events=run.events, decision=folder / ".engine-student.json",
        shared=run.cache.folder / "student_engines",
    )  # fmt: skip
    with catch_stop_request(run.events) as stopped:
        fit = loop.fit(
            method, batches, held_out, settings=settings, seed=stage.seed, state=folder / STATE, stopped=stopped,
            events=run.events, description=label_stage(run, stage.name), teachers=training, validating=validating,
            forward=running.forward, until=stage.lockstep and stage.lockstep.stop_after,
        )  # fmt: skip
    analyses = method.analyse(batches, held_out)
    freeze_all_but(method, ())
    outputs = [each.summarize() for each in (training, validating) if each is not None]
    _record(run, stage, folder, fit, running, analyses=analyses, outputs=outputs, scales=scales, begun=begun)


def _provide_for_stage(
    run: Run, stage: _Stage, folder: Path, batches: ViewedBatches, held_out: ViewedBatches, *, first: Batch
) -> tuple[TeacherOutputs | None, TeacherOutputs | None]:
    """Return the teacher outputs for training and for validation, each where a stage needs them."""
    method, section, store = stage.method, run.recipe.teacher_outputs, run.cache.folder / FOLDER
    training = OutputsRequest(
        method, find_required_signals(method, first), batches, section=section, folder=store, epochs=stage.settings.epochs,
        shared=stage.shared, autocast=loop.DTYPES[stage.settings.precision], events=run.events,
        decision=folder / ".engine-training.json", one_view=stage.lockstep and stage.lockstep.outputs,
    )  # fmt: skip
    signals = find_validation_signals(method, take_first_images(next(held_out.epoch(0))))
    validating = OutputsRequest(
        method, signals, held_out, section=section, folder=store, epochs=stage.settings.epochs, shared=False, autocast=None,
        events=run.events, decision=folder / ".engine-held-out.json", images="held-out",
    )  # fmt: skip
    return _provide_if_needed(training), _provide_if_needed(validating)


def _provide_if_needed(request: OutputsRequest) -> TeacherOutputs | None:
    """Return the outputs of frozen teachers, or nothing where a stage reads none."""
    return provide_outputs(request) if request.signals else None


def _record(
    run: Run, stage: _Stage, folder: Path, fit: Fit, running: StudentEngine, *, analyses: tuple[Analysis, ...],
    outputs: Sequence[TeacherOutputsResult], scales: LossScales | None, begun: float,
) -> None:  # fmt: skip
    """Save the weights of a trained stage and what is known of its training; its state is needed no more."""
    product = stage.method.product()
    checkpoint.save_weights(folder / WEIGHTS, product, metadata={"stage": stage.name, "key": stage.key})
    own = fit.validation.get("student")
    image = run.data.sample_image().to(run.device)
    result = StageResult(
        stage=stage.name, key=stage.key, method=stage.method_name,
        parameters=count_parameters(product if own is None else stage.method.deployable()),
        macs=None if own is None else count_macs(stage.method.deployable(), image),
        best_epoch=fit.best_epoch, validation=own, members=fit.validation if own is None else {},
        analyses=analyses, engine=running.engine, engine_trials=running.trials, teacher_outputs=tuple(outputs),
        loss_scales={} if scales is None else {**scales.terms, "taught": scales.taught},
        temperature=fit.temperature, epochs=fit.epochs,
        seconds=max(time.monotonic() - begun, sum(epoch.seconds for epoch in fit.epochs)),
        files={WEIGHTS: hash_file(folder / WEIGHTS)},
    )  # fmt: skip
    records.save(folder / METRICS, result)
    (folder / STATE).unlink(missing_ok=True)


def _is_finished(folder: Path) -> bool:
    """Return whether the record of a stage, which is written last, is there with the weights that it speaks of."""
    if not (folder / METRICS).is_file():
        return False
    try:
        return records.read(folder / METRICS, StageResult).files == {WEIGHTS: hash_file(folder / WEIGHTS)}
    except CompressError:  # a file is missing or damaged
        return False


def _show(run: Run, stage: _Stage, result: StageResult, folder: Path, *, found: bool) -> None:
    """Copy a finished stage into the run's folder, and report it."""
    cache.publish(folder, run.students / stage.name)
    run.events.emit("stage", stage=stage.name, seed=run.seed, key=stage.key, found=found, seconds=result.seconds)
    effort = "(found in the cache)" if found else f"in {result.seconds:.0f} s"
    run.events.say(f"{label_stage(run, stage.name)}: {_describe(run.data.task, result)} {effort}")


def _may_use_teachers(method: Method) -> bool:
    """Return whether a stage may read outputs of a frozen teacher, so that how they are computed can change its result."""
    return bool(method.teachers) and not isinstance(method, Supervised) and not method.moves_teacher


def _announce(run: Run, name: str, method: Method, batch: Batch) -> None:
    """Say what is trained, what is frozen, and how much of the gradient each loss term has."""
    trained = sum(parameter.numel() for parameter in list_trained_parameters(method))
    frozen = count_parameters(method) - trained
    shares = preflight.measure_gradient_shares(method, batch)
    listed = ", ".join(f"{term} {share:.0%}" for term, share in shares.items())
    run.events.say(f"{label_stage(run, name)}: trains {trained:,} parameters, {frozen:,} frozen; gradient norm: {listed}")
    run.events.emit("preflight", stage=name, seed=run.seed, trained=trained, frozen=frozen, gradient_shares=shares)


def label_stage(run: Run, name: str) -> str:
    """Return the name of a stage in progress and messages, with the seed unless it is the first."""
    return name if run.students == run.folder else f"{name}, seed {run.seed}"


def _describe(task: Task, result: StageResult) -> str:
    if result.validation is not None:
        teachers, waiting = _compute_share(result, "teacher_seconds"), _compute_share(result, "waiting_seconds")
        times = f"{waiting:.0%} of the time waiting for images" + (
            f", {teachers:.0%} for teachers" if result.teacher_outputs else ""
        )
        return (
            f"{task.describe(result.validation)} on validation, best epoch {result.best_epoch} of {len(result.epochs)}; {times}"
        )
    return ", ".join(f"{name} {task.describe(accuracy)}" for name, accuracy in result.members.items()) + " on validation"


def _compute_share(result: StageResult, part: str) -> float:
    """Return the share of a part, such as `teacher_seconds`, in the time of all epochs."""
    return float(
        sum(getattr(epoch, part) for epoch in result.epochs) / max(sum(epoch.seconds for epoch in result.epochs), 1e-9)
    )
