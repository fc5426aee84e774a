"""Plan how a stage obtains its teacher outputs: what is stored, and which inference engine computes them."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from compress.data import ViewedBatches
from compress.errors import CompressError
from compress.events import Events
from compress.fingerprint import describe_training, make_key
from compress.methods import Method, Signal
from compress.models import Network, count_macs
from compress.recipe import TeacherOutputsSection
from compress.records import EngineTrial
from compress.teachers import engines
from compress.teachers.engines import JointTeachers
from compress.teachers.identity import hash_module, identify_class
from compress.teachers.signals import name_signal
from compress.teachers.store import StoredSignal, count_bytes_per_image, find_obstacle

TRIAL_BATCHES = 4
PROBE_IMAGES = 4
"""Their outputs are part of a key: two networks that differ in what no weight, attribute or source shows have other keys."""
WORTH_A_TRIAL_MACS = {"cpu": 1e12, "cuda": 1e15}
"""Multiply-accumulates of the teachers over all batches of a stage from which on engines are tried: about 20 s of two AVX2
cores. A fixed number instead of a timing, so that whether eager torch is left does not depend on the load of the machine."""


@dataclass(frozen=True)
class OutputsRequest:
    """What a stage needs of its frozen teachers, and how the recipe wants it computed and stored."""

    method: Method
    signals: Sequence[Signal]
    """What the stage reads of them (`find_required_signals`)."""
    batches: ViewedBatches
    section: TeacherOutputsSection
    folder: Path
    """Of the store."""
    epochs: int
    shared: bool
    """Whether other stages read the same outputs, so that storing them pays even if this one reads them once."""
    autocast: torch.dtype | None
    """The precision of the stage's forward passes."""
    events: Events
    decision: Path | None = None
    """File that keeps the trial which chose this stage's engine, so that the stage continues with the same."""
    images: str = "training"
    """What the images are called in the report."""
    one_view: Path | None = None
    """Folder for the outputs of one view at a time, used where those of all views are too many; the caller empties it
    (`compress.run.lockstep`)."""

    @property
    def views(self) -> tuple[int, ...]:
        """The views that the epochs show."""
        return tuple(sorted({self.batches.view(epoch) for epoch in range(self.epochs)}))

    @property
    def networks(self) -> list[Network]:
        """The teachers of the stage."""
        return [teacher for teacher in self.method.teachers if isinstance(teacher, Network)]


class OutputStorage(NamedTuple):
    """Where outputs are stored, or why they are not."""

    refusal: str
    """Why they are not stored; empty where they are."""
    one_view: bool
    """Whether no more than one view is stored at a time."""
    folder: Path


class OutputsPlan(NamedTuple):
    """How a stage obtains its teacher outputs."""

    teachers: JointTeachers
    sample: Tensor
    """The first batch, [B, C, H, W]: the size and layout of all that an engine is given."""
    probe: tuple[Tensor, ...]
    """Outputs of eager float32 for its first images, one tensor [P, ...] for each signal."""
    storage: OutputStorage
    engine: str
    trials: tuple[EngineTrial, ...]
    """What was tried to choose the engine, if anything was."""
    signals: tuple[StoredSignal, ...]


def plan_outputs(request: OutputsRequest) -> OutputsPlan:
    """Run the teachers on a few images, and decide how their outputs for a stage are obtained.

    Raises:
        CompressError: The recipe wants outputs stored and they cannot be, or they are not finite.
        Unreachable: The folder of the store cannot be written.
    """
    teachers = JointTeachers(request.networks, request.signals)
    sample = next(request.batches.read_view(0)).images
    probe = engines.build_eager(teachers)(sample[:PROBE_IMAGES])
    storage = _plan_storage(request, probe)
    runs = request.epochs if storage.refusal or storage.one_view else len(request.views)
    engine, trials = _choose_engine(request, teachers, sample, calls=runs * len(request.batches))
    stored = tuple(
        StoredSignal(
            name_signal(request.method, signal),
            _make_signal_key(request, signal, sample, probe=output, engine=engine),
            (request.batches.rows, *output.shape[1:]),
        )
        for signal, output in zip(request.signals, probe, strict=True)
    )
    return OutputsPlan(teachers, sample, probe, storage, engine, trials, stored)


def _plan_storage(request: OutputsRequest, probe: Sequence[Tensor]) -> OutputStorage:
    """Return where outputs are stored: those of all views, of one at a time, or none.

    Raises:
        CompressError: The recipe wants them stored, and they cannot be.
    """
    too_much = _find_storage_obstacle(request, probe, views=len(request.views))
    one_at_a_time = too_much and request.one_view and request.section.store == "auto"
    if one_at_a_time and request.one_view and not _find_storage_obstacle(request, probe, views=1):
        return OutputStorage("", one_view=True, folder=request.one_view)
    return OutputStorage(_explain_not_stored(request, too_much), one_view=False, folder=request.folder)


def _find_storage_obstacle(request: OutputsRequest, probe: Sequence[Tensor], *, views: int) -> str:
    """Return why the outputs of so many views cannot be stored, or nothing."""
    bytes_per_view = count_bytes_per_image(probe, request.section) * request.batches.rows
    return find_obstacle(request.folder, request.section, bytes_per_view=bytes_per_view, views=views)


def _explain_not_stored(request: OutputsRequest, too_much: str) -> str:
    """Return why outputs are not stored, or nothing.

    Raises:
        CompressError: The recipe wants them stored, and they cannot be.
    """
    store = request.section.store
    if store == "off":
        return "off in the recipe"
    if too_much and store == "on":
        raise CompressError(f"teacher_outputs.store: on, but {too_much}, or set teacher_outputs.store: auto")
    if too_much:
        request.events.say(f"teacher_outputs: outputs of the teacher are not kept: {too_much}")
    reread = request.shared or len(request.views) < request.epochs
    if not too_much and not reread and store == "auto":
        return "every view is read once"
    return too_much


def _choose_engine(
    request: OutputsRequest, teachers: JointTeachers, sample: Tensor, *, calls: int
) -> tuple[str, tuple[EngineTrial, ...]]:
    """Return the engine for so many batches, and what was tried if something had to be.

    Whether engines are tried follows from the work alone. A trial is kept for every stage with the same teachers and batches,
    and once more for this stage, so that one that continues never decides anew.
    """
    if request.section.engine != "auto":
        return request.section.engine, ()
    if count_macs(teachers, sample[:1]) * len(sample) * calls < WORTH_A_TRIAL_MACS[sample.device.type]:
        return "eager", ()
    tried = engines.keep_trials(
        lambda: _try_engines(request, teachers, sample), own=request.decision, events=request.events,
        shared=request.folder / "engines" / f"{_make_trial_key(request, teachers, sample)}.json",
    )  # fmt: skip
    return tried[0].engine, tried if len(tried) > 1 else ()


def _make_trial_key(request: OutputsRequest, teachers: JointTeachers, sample: Tensor) -> str:
    """Return the key of a trial: the sha256 over all that it depends on besides the load of the machine."""
    return make_key(
        teachers=hash_module(teachers), images=list(sample.shape), strides=sample.stride(), machine=dict(describe_training()),
        autocast=str(request.autocast), tolerance=request.section.tolerance, device=sample.device.type,
    )  # fmt: skip


def _try_engines(request: OutputsRequest, teachers: JointTeachers, sample: Tensor) -> tuple[EngineTrial, ...]:
    """Return what a trial of all engines found, the one to take first."""
    batches = [batch.images for batch, _ in zip(request.batches.read_view(0), range(TRIAL_BATCHES), strict=False)]
    whole = [images for images in batches if len(images) == len(sample)]
    tried = engines.try_engines(teachers, whole, request.autocast, tolerance=request.section.tolerance, events=request.events)
    request.events.say(f"teacher: {', '.join(f'{each.engine} {each.ms_per_batch:.0f} ms' for each in tried)} per batch")
    return tried


def _make_signal_key(request: OutputsRequest, signal: Signal, sample: Tensor, *, probe: Tensor, engine: str) -> str:
    """Return the key of a signal in the store: the sha256 over all that decides the bits of its outputs."""
    network, module = request.networks[signal.teacher], signal.module
    exact = probe.float().cpu().contiguous().numpy().tobytes()
    return make_key(
        teacher=hash_module(network), tap=signal.tap, images=request.batches.identity,
        module=module and hash_module(module), probe=hashlib.sha256(exact).hexdigest(), engine=engine,
        batch=[sample.shape, sample.stride()], autocast=str(request.autocast), device=sample.device.type,
        machine={name: value for name, value in describe_training().items() if name != "source"},
        made_by=[
            identify_class(type(request.batches)), identify_class(JointTeachers), np.__version__,
            _list_runtime_versions(engine),
        ],
    )  # fmt: skip


def _list_runtime_versions(engine: str) -> str:
    """Return the versions of the runtime that an engine needs besides torch, and of what quantizes for it."""
    packages = ("openvino", *(("nncf",) if engine == "openvino_int8" else ()))
    return " ".join(importlib.metadata.version(name) for name in packages) if engine.startswith("openvino") else ""
