"""Find which teacher outputs a stage needs by one dry step on a few images. The stage is left unchanged."""

from __future__ import annotations

from typing import NamedTuple

import torch

from compress.data import Batch
from compress.freezing import evaluating, freeze_all_but, list_trained_parameters
from compress.methods import Method, Signal
from compress.models import Network
from compress.text import name_teacher


def find_validation_signals(method: Method, batch: Batch) -> list[Signal]:
    """Return what the validation of a stage reads of frozen teachers; the stage is left unchanged."""
    freeze_all_but(method, list_trained_parameters(method))
    with torch.no_grad(), evaluating(method):
        step = method.step(batch)
        method.predictions(step)
    freeze_all_but(method, ())
    return list(step.signals_read)


class DryStep(NamedTuple):
    """What a stage reads in a step."""

    signals: list[Signal]
    """Of frozen teachers, in order."""
    student_taps: list[int]
    """Places of the student's taps whose maps are read."""


FIRST_IMAGES = 16
"""Images of a dry step."""


def take_first_images(batch: Batch) -> Batch:
    """Return the first images of a batch: enough for a dry step, and too few to need much memory for the teachers."""
    return Batch(batch.images[:FIRST_IMAGES], batch.labels[:FIRST_IMAGES])


def run_dry_step(method: Method, batch: Batch) -> DryStep:
    """Return what a stage reads, found by running each of its phases once; the stage is left unchanged."""
    phases = method.phases()
    freeze_all_but(method, list_trained_parameters(method))
    buffers = {name: value.clone() for name, value in method.named_buffers()}
    found: dict[Signal, None] = {}
    taps: set[int] = set()
    with torch.no_grad(), torch.random.fork_rng():
        for phase in phases:
            step = method.step(batch, phase=phase)
            method(step)
            found |= step.signals_read
            taps |= step.student_taps
    for name, value in method.named_buffers():
        value.copy_(buffers[name])
    freeze_all_but(method, ())
    return DryStep(list(found), sorted(taps))


def find_required_signals(method: Method, batch: Batch) -> list[Signal]:
    """Return what a stage reads of frozen teachers; the stage is left unchanged."""
    return run_dry_step(method, batch).signals


def name_signal(method: Method, signal: Signal) -> str:
    """Return the name of a signal for people: `teacher logits`, `teacher1 layer3`, `teacher head2`."""
    owner = name_teacher(signal.teacher, len(method.teachers))
    network = method.teachers[signal.teacher]
    if signal.tap is None or not isinstance(network, Network):
        return f"{owner} logits"
    if signal.module is None:
        return f"{owner} {network.taps[signal.tap]}"
    names = {id(module): name for name, module in method.named_modules()}
    module = names.get(id(signal.module), type(signal.module).__name__).rpartition(".")[2]
    return f"{owner} {module} on {network.taps[signal.tap]}"
