"""Training steps of torchdistill, on the same networks and images as ours: its box, its loss, its meters, its data loader.

Its step is what its image classification example does for each batch: fetch it, forward both networks through the
`DistillationBox`, `KDLoss` with temperature 4 and alpha 0.9 and SGD as in its CIFAR-100 configurations, and update the meters
with the loss. Its configurations ask for 16 worker processes; here as many as were fastest in a trial, at most one for each
core. Two input paths are told apart: the configurations' transforms of pictures, and tensors that need nothing done to them.

Source: torchdistill 1.1.5, `configs/sample/cifar100/kd`, `examples/torchvision/image_classification.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, RandomSampler

from benchmarks.studies.training_speed.ours import (
    CE_WEIGHT,
    KD,
    LR,
    MEAN,
    MOMENTUM,
    STD,
    TEMPERATURE,
    WEIGHT_DECAY,
    Ours,
    Workshop,
)
from benchmarks.studies.training_speed.rounds import Steps, Subject, measure_rates
from compress.errors import CompressError
from compress.events import Events
from compress.preprocess import normalise

EPOCH_IMAGES = 50_000
"""Length of an epoch as its loader sees it, that of CIFAR: our images repeat within it, so that no turn meets its end."""
WORKERS = (0, 1, 2)
PREFETCHED = 2
"""Batches that each of torch's worker processes makes ahead."""
LOG_EVERY = 100
SAME_WORK = 1e-3
"""Largest accepted difference between our and their update of the weights, relative to its size: sums in another order differ
by millionths, another temperature, loss weight or weight decay by more than a thousandth."""


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images as pictures, each transformed when it is asked for, as torchvision's CIFAR does.

    Args:
        workshop: Has the images, and knows how they are normalised and cropped.
    """

    def __init__(self, workshop: Workshop) -> None:
        from torchvision import transforms

        self._split, size = workshop.split, workshop.pair.size
        self._transform: Callable[[Image.Image], Tensor] = transforms.Compose(
            [
                transforms.RandomCrop(size, padding=workshop.pair.padding),
                transforms.RandomHorizontalFlip(p=0.5),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        """Return the length of an epoch."""
        return EPOCH_IMAGES

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return one image, [C, H, W], and its label."""
        row = index % len(self._split.labels)
        return self._transform(Image.fromarray(self._split.images[row])), int(self._split.labels[row])


class Tensors(Dataset[tuple[Tensor, int]]):
    """Images that are normalised already and in memory.

    Args:
        workshop: Has the images, and knows how they are normalised.
    """

    def __init__(self, workshop: Workshop) -> None:
        self._images = torch.from_numpy(normalise(workshop.split.images, workshop.preprocess))
        self._labels: list[int] = workshop.split.labels.tolist()

    def __len__(self) -> int:
        """Return the length of an epoch."""
        return EPOCH_IMAGES

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return one image, [C, H, W], and its label."""
        row = index % len(self._labels)
        return self._images[row], self._labels[row]


INPUTS: Mapping[str, Callable[[Workshop], Dataset[tuple[Tensor, int]]]] = {
    "torchdistill": Pictures,
    "torchdistill, tensors in memory": Tensors,
}
"""Its subjects, by what its loader reads."""


def explain_missing() -> str:
    """Return why torchdistill cannot be measured, or nothing."""
    return "" if find_spec("torchdistill") is not None else "not installed; install the extra peers: edge-compress[peers]"


def make_subjects(workshop: Workshop, names: Collection[str] = tuple(INPUTS), *, seconds: float) -> list[Subject]:
    """Return its steps on these inputs, each with the number of workers that was the fastest when timed for so long."""
    found = []
    for name in names:
        images = INPUTS[name]
        tried = [_make_subject(workshop, name, images(workshop), workers) for workers in WORKERS]
        speeds = [measure_rates([each], rounds=1, seconds=seconds, uncounted=0)[name][0] for each in tried]
        best = max(range(len(tried)), key=speeds.__getitem__)
        listed = ", ".join(f"{workers}: {speed:.0f}/s" for workers, speed in zip(WORKERS, speeds, strict=True))
        facts = {"torchdistill": version("torchdistill"), "workers": str(WORKERS[best]), "tried": listed}
        found.append(_make_subject(workshop, name, images(workshop), WORKERS[best], facts))
    return found


def _make_subject(
    workshop: Workshop, name: str, images: Dataset[tuple[Tensor, int]], workers: int, facts: Mapping[str, str] | None = None
) -> Subject:
    from torchdistill.misc.log import MetricLogger, SmoothedValue

    box = _make_box(workshop, images, workers)
    device = workshop.device

    def steps() -> Steps:
        meters = MetricLogger(delimiter="  ")
        meters.add_meter("lr", SmoothedValue(window_size=1, fmt="{value}"))
        meters.add_meter("img/s", SmoothedValue(window_size=10, fmt="{value}"))
        while True:
            for sample, labels, extra in meters.log_every(box.train_data_loader, LOG_EVERY, "epoch"):
                begun = time.time()
                loss = box.forward_process(sample.to(device), labels.to(device), extra)
                box.post_forward_process(loss=loss)
                meters.update(loss=loss.item(), lr=box.optimizer.param_groups[0]["lr"])
                meters.meters["img/s"].update(len(labels) / (time.time() - begun))
                if not math.isfinite(loss.item()):
                    raise CompressError(f"{name}: its loss is not finite; nothing that follows would be a measurement")
                yield

    # What was made ahead while the first batches are waited for must be used up before time counts.
    return Subject(name, steps, workshop.pair.batch_size, settle=1 + PREFETCHED * workers, facts=facts or {})


def _make_box(workshop: Workshop, images: Dataset[tuple[Tensor, int]], workers: int) -> Any:
    """Return its training of a fresh student by the workshop's teacher."""
    from torchdistill.core.distillation import get_distillation_box

    workshop.teacher.eval()  # it leaves a teacher in the mode in which it came
    box = get_distillation_box(
        workshop.teacher.module, workshop.make_student().module, {"images": images}, _make_configuration(workshop, workers),
        device=workshop.device, device_ids=None, distributed=False, lr_factor=1,
    )  # fmt: skip
    box.pre_epoch_process(epoch=0)
    return box


def _make_configuration(workshop: Workshop, workers: int) -> dict[str, Any]:
    """Return the `train` section of its configuration files."""
    output = {
        f"{who}_module_{what}": value for who in ("student", "teacher") for what, value in (("path", "."), ("io", "output"))
    }
    loss = {**output, "temperature": TEMPERATURE, "alpha": CE_WEIGHT, "reduction": "batchmean"}
    loader = {
        "batch_size": workshop.pair.batch_size, "num_workers": workers, "pin_memory": workshop.device.type == "cuda",
        "drop_last": False,
    }  # fmt: skip
    network = {"forward_proc": "forward_batch_only", "sequential": [], "frozen_modules": []}
    return {
        "num_epochs": 1,
        "train_data_loader": {"dataset_id": "images", "sampler": {"class_or_func": RandomSampler}, "kwargs": loader},
        "teacher": {**network, "requires_grad": False},
        "student": {**network, "requires_grad": True},
        "optimizer": {"key": "SGD", "kwargs": {"lr": LR, "momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY}},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": loss}, "weight": 1.0}}},
        },
    }


def compare_updates(workshop: Workshop) -> float:
    """Return how far our update of the weights is from theirs after one step on one batch, relative to its size.

    Raises:
        CompressError: They do not do the same work.
    """
    batch = next(workshop.make_batches().epoch(0))
    before = _flatten_weights(workshop.make_student())
    run, _ = workshop.prepare(Ours("kd", KD))
    torch.manual_seed(0)  # of dropout
    with Events().task("check", total=1) as task:
        run.advance(batch, None, task)
    box = _make_box(workshop, INPUTS["torchdistill"](workshop), 0)
    torch.manual_seed(0)
    box.post_forward_process(loss=box.forward_process(batch.images, batch.labels, {}))
    ours, theirs = _flatten_weights(run.method.student) - before, _flatten_weights(box.student_model) - before
    found = float((ours - theirs).norm() / theirs.norm())
    if found > SAME_WORK:
        raise CompressError(f"torchdistill: its update differs from ours by {found:.2g} of its size; it does other work")
    return found


def _flatten_weights(module: torch.nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
