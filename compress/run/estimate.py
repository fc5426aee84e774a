"""Estimate how long a run takes, from one timed training step of each stage and what the recipe says of measuring.

A step is timed on this machine with random images, uncompiled, so what else loads the machine now is in it. Writing and proving
files, and the search for int8, are counted with what they took for small networks (benchmarks/results/overhead); a large
network or a ladder that climbs to its last rung takes longer. The sum is an order of magnitude, not a promise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

import exporters
from compress.data import Batch
from compress.freezing import freeze_all_but, list_trained_parameters
from compress.methods import Method, Setting, Signal
from compress.methods.supervised import Supervised
from compress.models import Network, find_shapes
from compress.plan.plan import Estimate, Plan, Stage
from compress.run.build import build_method, build_network
from compress.run.context import Run
from compress.training.loss_scales import find_scale_warning, invent_answers, measure_loss_scales

MOST_IMAGES = 64
"""Images in the timed step; a larger batch costs about as much for each image."""
PATIENCE_SECONDS = 4.0
"""Calls that took longer together are not repeated."""
MOVED_SHARE = 0.1
"""Of a step with its teachers, what is at least left for the student; two timings differ by chance."""
FORWARD_SHARE = 1 / 3
"""Of a training step, what the forward pass takes; the backward pass computes two gradients."""
FILE_SECONDS, INT8_SECONDS = 6.0, 25.0
"""Writing and proving one file, and beyond it the search for an int8 file that ends on its first rungs."""


class _StepTime(NamedTuple):
    """Seconds for one image."""

    step: float
    """Forward and backward through what is trained."""
    teachers: float
    """Forward through one teacher, on average."""


def estimate_seconds(run: Run, plan: Plan, batch: Batch) -> Estimate:
    """Return how long a run of a plan takes.

    Args:
        run: Run context, with random data or its own.
        plan: Of the same recipe.
        batch: A few images like those of the recipe.
    """
    batch = _fill(batch, min(MOST_IMAGES, run.recipe.train.batch_size))
    stages = [stage for stage in plan.stages if stage.work is not None and stage.work.trained]
    methods = list(_list_methods(run))
    wanted = [(stage, method) for stage, method in zip(stages, methods, strict=False) if not stage.found]
    validation = plan.images["validation"]
    scales, warnings = _measure_scales(run, zip(stages, methods, strict=False), batch)
    probed = {stage.name: seconds for stage, seconds in _estimate_probes(run, plan, batch) if not stage.found}
    trained = {stage.name: _estimate_stage(stage, _time_step(method, batch), validation) for stage, method in wanted}
    training = probed | trained
    return Estimate(training=training, delivery=_estimate_delivery(run, plan), loss_scales=scales, warnings=warnings)


def _measure_scales(run: Run, stages: Iterable[tuple[Stage, Method]], batch: Batch) -> tuple[dict[str, float], tuple[str, ...]]:
    """Return the scale of what teaches each student, by the name of its stage, and what to say of it."""
    scales: dict[str, float] = {}
    warnings = []
    for stage, method in stages:
        if isinstance(method, Supervised) or not stage.student:
            continue
        found = measure_loss_scales(method, batch, {} if method.moves_teacher else _invent_answers(method, batch))
        if found is not None:
            scales[stage.name] = found.taught
            warnings.append(find_scale_warning(stage.name, found, method.schedule(run.recipe.train)))
    return scales, tuple(filter(None, warnings))


def _invent_answers(method: Method, batch: Batch) -> dict[Signal, torch.Tensor]:
    """Return what the teachers of a method may answer once they are trained."""
    networks = [teacher for teacher in method.teachers if isinstance(teacher, Network)]
    shapes = [find_shapes(teacher, batch.images[:1]).logits.shape for teacher in networks]
    return invent_answers(batch, method.task, shapes)


def _fill(batch: Batch, size: int) -> Batch:
    """Return a batch of so many images, which repeat."""
    rows = torch.arange(size, device=batch.images.device) % len(batch.images)
    return Batch(batch.images[rows], batch.labels[rows])


def _list_methods(run: Run) -> Iterator[Method]:
    """Yield the method of every stage that is trained, in the order of the plan."""
    networks = [build_network(run, section, "check") for section in run.recipe.teacher]
    teachers = [network for network in networks if isinstance(network, Network)]
    for network, section in zip(networks, run.recipe.teacher, strict=True):
        if not section.is_given and section.probe is None:
            yield Supervised(Setting(network, (), run.data.sample_image(), len(run.data.classes), task=run.data.task))
    for methods in (run.recipe.method, *run.recipe.baselines):
        yield from build_method(run, methods, teachers).stages()


def _estimate_probes(run: Run, plan: Plan, batch: Batch) -> Iterator[tuple[Stage, float]]:
    """Yield the stage of each linear probe, in which every image is seen once, and the seconds of it; the fit takes few."""
    sections = [section for section in run.recipe.teacher if section.probe is not None]
    stages = [stage for stage in plan.stages if stage.work is not None and not stage.work.trained]
    for stage, section in zip(stages, sections, strict=True):
        network, images = build_network(run, section, "check"), sum(plan.images[split] for split in ("train", "validation"))
        yield stage, images * _time(partial(_run_forward, network, batch)) / len(batch.images)


def _time_step(method: Method, batch: Batch) -> _StepTime:
    """Time a training step of a method; its weights and statistics end as they were."""
    before = {name: value.detach().clone() for name, value in method.state_dict().items()}
    freeze_all_but(method, list_trained_parameters(method))
    whole = _time(partial(_take_step, method, batch))
    freeze_all_but(method, ())
    teachers = [] if isinstance(method, Supervised) else [each for each in method.teachers if isinstance(each, Network)]
    alone = sum(_time(partial(_run_forward, network, batch)) for network in teachers)
    method.load_state_dict(before)
    images = len(batch.images)
    return _StepTime(max(whole - alone, MOVED_SHARE * whole) / images, alone / images / max(len(teachers), 1))


def _time(work: Callable[[], None]) -> float:
    """Return the seconds of the fastest of three calls, the first of which warms up; slow ones are not repeated."""
    seconds: list[float] = []
    while len(seconds) < 3 and sum(seconds) < PATIENCE_SECONDS:
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def _take_step(method: Method, batch: Batch) -> None:
    for phase in method.phases():
        method.zero_grad(set_to_none=True)
        sum(method(method.step(batch, phase=phase)).values(), start=torch.zeros(())).backward()
    method.zero_grad(set_to_none=True)


def _run_forward(network: nn.Module, batch: Batch) -> None:
    with torch.no_grad():
        network(batch.images)


def _estimate_stage(stage: Stage, times: _StepTime, validation: int) -> float:
    """Return the seconds of a stage over all seeds: its steps, its teachers, and the validation after each epoch."""
    if stage.work is None:
        return 0.0
    validated = stage.work.seeds * stage.work.epochs * validation * FORWARD_SHARE
    return (stage.work.trained + validated) * times.step + stage.work.teacher * times.teachers


def _estimate_delivery(run: Run, plan: Plan) -> float:
    """Return the seconds of exports, proofs and measuring; nothing for files that are found."""
    if all(stage.found for stage in plan.stages if stage.name == "export"):
        return 2 * run.recipe.measure.seconds
    settings = run.recipe.measure
    sections = run.recipe.exports
    networks = 1 + (len(run.recipe.teacher) if settings.against == "teacher" else 0)
    int8 = sum(exporters.load(section).precision == "int8" for section in sections)
    return 2 * settings.seconds + networks * (1 + len(sections)) * FILE_SECONDS + int8 * (INT8_SECONDS + settings.seconds)
