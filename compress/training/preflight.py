"""Checks that take seconds, made before the work that takes hours.

`check_structure` runs one batch of every stage through all of its losses: shapes fit, every trained parameter is in exactly one
phase, what should be frozen is frozen. `check_last_batch` does so with the smallest batch of an epoch. `check_teacher` measures
a teacher on the validation split. `measure_gradient_shares` gives the share of the gradient that each loss term has, on one
batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from compress.data import Batch
from compress.errors import CompressError
from compress.forward_pass import read_reason
from compress.freezing import freeze_all_but, list_phases, list_trained_parameters
from compress.methods import Method
from compress.records import Accuracy
from compress.tasks import CLASSIFICATION, Labels, Logits, Task
from compress.text import quantify
from compress.training.class_order import describe_order, find_class_order, write_recipe_line
from compress.training.loss_scales import compute_gradient_norm
from compress.training.usefulness import find_guessing


def check_structure(method: Method, batch: Batch) -> None:
    """Run every stage once on one batch and check that it can be trained; weights and statistics end as they were.

    Raises:
        CompressError: Shapes do not fit, a parameter is in two phases or in none, a loss carries no gradient to what it
            should train, or a frozen module would still move.
    """
    for stage in method.stages():
        phases = list_phases(stage)
        _refuse_overlap(stage, phases)
        with _rehearsing(stage) as before:
            for phase, group in phases.items():
                _refuse_no_gradient(stage, batch, phase, group)
            _refuse_moved(stage, before)


def check_last_batch(method: Method, batch: Batch, images: int, position: int) -> None:
    """Run every stage once on so few images as the smallest batch of an epoch has; weights and statistics end as they were.

    Args:
        method: All stages, of which `check_structure` found nothing wrong.
        batch: A batch of full size.
        images: How many the smallest batch has.
        position: Which batch that is, from 0 on.

    Raises:
        CompressError: A network or a loss cannot take so few, as batch norm cannot take a single one.
    """
    small = Batch(batch.images[:images], batch.labels[:images])
    for stage in method.stages():
        with _rehearsing(stage):
            for phase in list_phases(stage):
                if reason := _find_failure(stage, small, phase):
                    raise CompressError(
                        f"train, batch {position}: has {quantify(images, 'image')}, on which stage {stage.stage!r} fails: "
                        f"{reason}; leave it out (drop_last=True), or choose another batch size"
                    )


def _find_failure(stage: Method, batch: Batch, phase: str) -> str:
    """Return why a step of a phase cannot be done on a batch, or nothing."""
    try:
        terms = stage(stage.step(batch, phase=phase))
    except (RuntimeError, ValueError) as error:
        return read_reason(error)
    bad = [name for name, value in terms.items() if not torch.isfinite(value).all()]
    return f"{bad[0]} is not finite" if bad else ""


@contextmanager
def _rehearsing(stage: Method) -> Iterator[dict[str, Tensor]]:
    """Hold a stage as it is trained, and put its weights and statistics back, which are given by name."""
    tensors = {**dict(stage.named_parameters()), **dict(stage.named_buffers())}
    before = {name: value.detach().clone() for name, value in tensors.items()}
    freeze_all_but(stage, list_trained_parameters(stage))
    try:
        yield before
    finally:
        freeze_all_but(stage, ())
        with torch.no_grad():
            for name, value in tensors.items():
                value.copy_(before[name])


def check_teacher(name: str, logits: Logits, labels: Labels, classes: Sequence[str], task: Task = CLASSIFICATION) -> Accuracy:
    """Return a teacher's accuracy on the validation split, if it can be a teacher.

    Args:
        name: What the recipe calls it, for messages.
        logits: Its logits, [N, K, ...].
        labels: The labels, [N, ...].
        classes: Names in label order.
        task: What it was trained for.

    Raises:
        CompressError: Its answers do not depend on what is shown, it gives numbers that are not finite, has another number of
            classes, or knows the classes in another order; or the images are all of one class.
    """
    given = task.count_classes(logits.shape)
    if given != len(classes):
        raise CompressError(f"{name}: gives {given} classes and the data has {len(classes)}; use a matching teacher")
    if not np.isfinite(logits).all():
        raise CompressError(f"{name}: gives numbers that are not finite on the validation split; check its weights")
    if task.name != CLASSIFICATION.name:
        if why := describe_guessing(name, logits, labels, task):
            raise CompressError(why)
        return task.measure(task.tally(logits, labels), len(classes))
    if len(np.unique(labels)) == 1:
        raise CompressError(
            f"{name}: cannot be judged, as all {len(labels)} validation images are of class '{classes[labels[0]]}'; give "
            "images of every class"
        )
    predicted = logits.argmax(axis=1)
    found = Accuracy.from_predictions(predicted.tolist(), labels.tolist(), len(classes))
    if order := find_class_order(predicted, labels, classes):
        renamed = 100 * float(order.correct.mean())
        raise CompressError(
            f"{name}: has {found.top1_percent:.1f} % top-1, but {renamed:.1f} % with {order.what}: it was trained with "
            f"another class order ({describe_order(order, classes)}); add to its section of the recipe: "
            f"{write_recipe_line(order, classes)}"
        )
    if why := find_guessing(name, predicted, labels, len(classes)):
        raise CompressError(
            f"{why}; if it is trained here, train it longer or with another learning rate (teacher.train); if it is given, "
            "check its weights and the mean and std of the data"
        )
    return found


def describe_guessing(name: str, logits: Logits, labels: Labels, task: Task = CLASSIFICATION) -> str:
    """Return that the answers of a network do not depend on what is shown, or nothing.

    Args:
        name: The network in messages.
        logits: Its logits, [N, K, ...].
        labels: The labels, [N, ...].
        task: What it was trained for.
    """
    if task.name != CLASSIFICATION.name:
        found = task.find_guessing(task.tally(logits, labels), task.count_classes(logits.shape))
        return f"{name}: {found}; train it longer or with another train.lr" if found else ""
    why = find_guessing(name, logits.argmax(axis=1), labels, logits.shape[1])
    return f"{why}; train it longer or with another train.lr" if why else ""


def measure_gradient_shares(method: Method, batch: Batch) -> dict[str, float]:
    """Return the share of each loss term in the sum of gradient norms over what the stage trains, on one batch."""
    phases = list_phases(method)
    freeze_all_but(method, list_trained_parameters(method))
    buffers = {name: value.clone() for name, value in method.named_buffers()}
    norms: dict[str, float] = {}
    for phase, group in phases.items():
        terms = method(method.step(batch, phase=phase))
        for name, value in terms.items():
            norms[name] = compute_gradient_norm(value, group)
    for name, value in method.named_buffers():
        value.copy_(buffers[name])
    freeze_all_but(method, ())
    total = sum(norms.values()) or 1.0
    return {name: norm / total for name, norm in norms.items()}


def _refuse_overlap(stage: Method, phases: dict[str, list[nn.Parameter]]) -> None:
    owner: dict[int, str] = {}
    names = {id(parameter): name for name, parameter in stage.named_parameters()}
    for phase, group in phases.items():
        if not group:
            raise CompressError(f"stage {stage.stage!r}: phase {phase!r} trains nothing")
        for parameter in group:
            if id(parameter) not in names:
                raise CompressError(f"stage {stage.stage!r}: phase {phase!r} trains a parameter that no module of it holds")
            if id(parameter) in owner:
                both = f"{owner[id(parameter)]!r} and {phase!r}"
                raise CompressError(f"stage {stage.stage!r}: {names[id(parameter)]} is trained twice, in {both}")
            owner[id(parameter)] = phase


def _refuse_no_gradient(stage: Method, batch: Batch, phase: str, group: list[nn.Parameter]) -> None:
    try:
        terms = stage(stage.step(batch, phase=phase))
    except (RuntimeError, ValueError) as error:
        shapes = f"images {list(batch.images.shape)}"
        raise CompressError(f"stage {stage.stage!r}, phase {phase!r}: the losses do not fit ({shapes}): {error}") from error
    for name, value in terms.items():
        if value.dim() != 0:
            raise CompressError(f"stage {stage.stage!r}: term {name!r} has shape {list(value.shape)}; a term is one number")
    total = torch.stack([value.float() for value in terms.values()]).sum()
    if not total.requires_grad:
        raise CompressError(f"stage {stage.stage!r}, phase {phase!r}: no loss depends on what it trains")
    gradients = torch.autograd.grad(total, group, allow_unused=True)
    if all(gradient is None for gradient in gradients):
        raise CompressError(f"stage {stage.stage!r}, phase {phase!r}: no loss depends on what it trains")
    classifier = _find_classifier(stage)
    for parameter, gradient in zip(group, gradients, strict=True):
        if classifier is not None and parameter is classifier.weight and (gradient is None or not gradient.any()):
            raise CompressError(
                f"stage {stage.stage!r}: no term trains the classifier that is shipped; give a weight above 0 to a term on the "
                "labels or on logits, or add a method that has one"
            )


def _find_classifier(stage: Method) -> nn.Linear | None:
    """Return the last linear layer of what is shipped, if it has one."""
    layers = [module for module in stage.deployable().modules() if isinstance(module, nn.Linear)]
    return layers[-1] if layers else None


def _refuse_moved(stage: Method, before: dict[str, Tensor]) -> None:
    """Refuse a stage in which one pass changed the statistics of a module that holds nothing trained."""
    trained = {id(parameter) for parameter in list_trained_parameters(stage)}
    for prefix, module in stage.named_modules():
        own = [id(parameter) in trained for parameter in module.parameters()]
        if any(own) or (not own and module.training):  # without parameters it belongs to what it is in
            continue
        for name, value in module.named_buffers(recurse=False):
            if not torch.equal(value, before.get(f"{prefix}.{name}", value)):  # a shared buffer has one name
                raise CompressError(f"stage {stage.stage!r}: {prefix}.{name} is frozen, yet one pass changed it")
