"""How large the gradient of each loss is in the student, beside that of the cross-entropy of its own logits.

Under SGD a loss whose gradient is fifty times as large makes a step fifty times as long at the same learning rate, and the
labels have a fiftieth of a say in it, whatever the optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import Parameter, functional

from compress.data import Batch
from compress.freezing import freeze_all_but, list_phases, list_trained_parameters
from compress.methods import Method, Signal, Signals
from compress.recipe import TrainSection
from compress.tasks import Task
from compress.tasks.classification import Classification
from compress.tasks.detection import Detection
from compress.tasks.segmentation import Segmentation
from compress.text import format_number

LARGEST = {"sgd": 20.0, "adamw": 50.0}
"""Gradient of what teaches, in that of cross-entropy, above which a stage is warned of. Defaults lie below 15; above, steps of
SGD are as many times as long. Those of AdamW are not, but what lies above 50 leaves the labels no say
(benchmarks/results/scales)."""
SMALLEST = 0.02
"""The same below which a stage is warned of with any optimizer: its student is trained nearly plainly."""

INVENTED_STD = 3.0
"""Standard deviation of the logits of a teacher that is not trained yet; about that of a network that was."""
DETECTOR_MEAN, DETECTOR_STD = -4.0, 0.75
"""The same of a detector's background; where the box of a class is, its logit is about 0. So are those of the teacher of
`recipes/digit_boxes.yaml`."""


class LossScales(NamedTuple):
    """Norms of gradients with respect to the student's parameters, each in that of the loss on the labels alone."""

    terms: Mapping[str, float]
    """Of each term with its weight."""
    taught: float
    """Of the sum of all terms but those on the labels."""


def measure_loss_scales(method: Method, batch: Batch, signals: Signals | None = None) -> LossScales | None:
    """Return the scales of a stage on one batch; `None` where it trains no student, or the logits do not depend on it.

    Weights, statistics and flags end as they were.

    Args:
        method: The stage.
        batch: Images [B, C, H, W] with labels [B].
        signals: Outputs of teachers to take in place of what they give.
    """
    trained = {id(parameter) for parameter in list_trained_parameters(method)}
    student = [parameter for parameter in method.student.parameters() if id(parameter) in trained]
    if not student:
        return None
    freeze_all_but(method, list_trained_parameters(method))
    buffers = {name: value.clone() for name, value in method.named_buffers()}
    terms: dict[str, Tensor] = {}
    reference = 0.0
    for phase, group in list_phases(method).items():
        if not any(id(parameter) in {id(each) for each in student} for parameter in group):
            continue
        step = method.step(batch, phase=phase, signals=signals)
        terms |= method(step)
        reference = reference or compute_gradient_norm(step.supervise(), student)
    norms = {name: compute_gradient_norm(value, student) for name, value in terms.items()}
    taught = [value for name, value in terms.items() if not is_on_labels(name)]
    whole = compute_gradient_norm(torch.stack(taught).sum(), student) if taught else 0.0
    with torch.no_grad():
        for name, value in method.named_buffers():
            value.copy_(buffers[name])
    freeze_all_but(method, ())
    return LossScales({name: norm / reference for name, norm in norms.items()}, whole / reference) if reference else None


def invent_answers(batch: Batch, task: Task, shapes: Sequence[Sequence[int]]) -> dict[Signal, Tensor]:
    """Return answers as trained teachers may give them, for where none is; new ones answer alike everywhere.

    For a task that is not ours nothing is invented.

    Args:
        batch: Images [B, C, H, W] with labels [B, ...].
        task: What the labels are of.
        shapes: Of each teacher's answers, [1, K], [1, K, h, w], or of a detector [1, A, K + 4].
    """
    if isinstance(task, Detection):
        return {Signal(index): _invent_boxes(batch, task, shape[1], shape[2]) for index, shape in enumerate(shapes)}
    if isinstance(task, Segmentation):
        return {Signal(index): _invent_maps(batch, shape) for index, shape in enumerate(shapes)}
    if not isinstance(task, Classification) or not shapes:
        return {}
    return invent_logits(batch, shapes[0][1], len(shapes))


def invent_logits(batch: Batch, classes: int, teachers: int) -> dict[Signal, Tensor]:
    """Return logits as a trained classifier may give them, [B, K] for each teacher.

    Args:
        batch: Images [B, C, H, W] with labels [B].
        classes: How many there are.
        teachers: How many.
    """
    draws = torch.Generator().manual_seed(0)
    logits = INVENTED_STD * torch.randn(teachers, len(batch.labels), classes, generator=draws)
    labels = batch.labels.cpu().expand(teachers, -1).unsqueeze(2)
    logits.scatter_(2, labels, logits.amax(dim=2, keepdim=True) + INVENTED_STD)  # right, and sure of it
    return {Signal(index): each for index, each in enumerate(logits.to(batch.images.device))}


def _invent_maps(batch: Batch, shape: Sequence[int]) -> Tensor:
    """Return logits [B, K, h, w] that are right and sure wherever the masks [B, H, W] show a class."""
    logits = INVENTED_STD * torch.randn(len(batch.labels), *shape[1:], generator=torch.Generator().manual_seed(0))
    size = (shape[2], shape[3])
    labels = functional.interpolate(batch.labels.cpu().float()[:, None], size=size, mode="nearest").long()  # [B, 1, h, w]
    known = (labels >= 0) & (labels < shape[1])
    right = torch.zeros_like(logits).scatter_(1, labels * known, 1.0).bool() & known
    return torch.where(right, logits.amax(dim=1, keepdim=True) + INVENTED_STD, logits).to(batch.images.device)


def _invent_boxes(batch: Batch, task: Detection, cells: int, numbers: int) -> Tensor:
    """Return answers [B, A, K + 4] that find every box, with logits as a trained detector has them."""
    device = batch.images.device
    answers = torch.zeros(len(batch.labels), cells, numbers, device=device)
    targets = task.assign(answers, batch.labels, (batch.images.shape[2], batch.images.shape[3]))
    noise = torch.randn(len(batch.labels), cells, numbers - task.boxes, generator=torch.Generator().manual_seed(0))
    right = functional.one_hot(targets.classes.clamp(min=0), numbers - task.boxes) * targets.positive[..., None]
    logits = DETECTOR_MEAN + DETECTOR_STD * noise.to(device) - DETECTOR_MEAN * right
    return torch.cat([logits, targets.boxes], dim=2)


def is_on_labels(term: str) -> bool:
    """Return whether a term is a cross-entropy with the labels, by its name: `ce`, `ce.head0`, `kd.ce`."""
    return "ce" in term.split(".")


def compute_gradient_norm(value: Tensor, parameters: list[Parameter] | list[nn.Parameter]) -> float:
    """Return the L2 norm of the gradient of a loss [] with respect to some parameters; 0 where it does not depend on them."""
    if not value.requires_grad:
        return 0.0
    gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    norms = [gradient.norm() for gradient in gradients if gradient is not None]
    return float(torch.stack(norms).norm()) if norms else 0.0


def find_scale_warning(stage: str, scales: LossScales, settings: TrainSection) -> str:
    """Return why a stage may train badly with this optimizer, or hardly be taught at all, or nothing.

    Args:
        stage: Its name, for the message.
        scales: Of its losses.
        settings: How it is trained.
    """
    taught = [name for name in scales.terms if not is_on_labels(name)]
    if not taught:
        return ""
    times = f"{stage}: at the start, what teaches has {format_number(scales.taught, 2)} times the gradient of cross-entropy"
    if scales.taught < SMALLEST:
        return f"{times}, so the student is trained nearly plainly; raise the method's weight, or lower its temperature"
    if scales.taught <= LARGEST[settings.optimizer] or (settings.optimizer == "sgd" and settings.max_gradient_norm is not None):
        return ""
    worst = f"{times} (most of it {max(taught, key=lambda name: scales.terms[name])}), so that"
    if settings.optimizer == "sgd":
        return (
            f"{worst} with sgd the first steps are as many times as long, and labels hardly count; lower the method's weight, "
            "or take train.optimizer: adamw"
        )
    return f"{worst} labels hardly count; lower the method's weight"
