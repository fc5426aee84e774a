"""Arms of the study of scales: a small student of scikit-learn's digits, taught by each method under each optimizer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.studies.scales.records import Arm
from compress import plugins
from compress.data import Dataset, InMemory
from compress.freezing import freeze_all_but, list_trained_parameters
from compress.methods import Combined, Method, Setting
from compress.models import Network, build_model
from compress.recipe import TrainSection
from compress.records import Preprocess
from compress.statistics.calibration import compute_cross_entropy
from compress.tasks import Logits
from compress.training import evaluate
from compress.training.loss_scales import measure_loss_scales
from compress.training.optimizer import compute_learning_rate
from compress.training.updates import Updates

PREPROCESS = Preprocess(height=8, width=8, channels="gray", mean=(0.3,), std=(0.38,))
CPU = torch.device("cpu")
CLASSES = 10
TEACHER, STUDENT = "resnet_cifar.resnet20", "resnet_cifar.resnet8"
TEACHER_EPOCHS, HEADS_EPOCHS = 40, 10
LOOKED_AT = (0, 1, 5, 20, 60, 120)
"""Steps before which scales are measured."""

Specification = Sequence[tuple[str, Mapping[str, Any]]]

ARMS: dict[str, Specification] = {
    "supervised": [("supervised", {})],
    "kd": [("kd", {})],
    "kd, standardised": [("kd", {"preset": "standardised"})],
    "dist": [("dist", {})],
    "dist, temperature 1": [("dist", {"temperature": 1.0})],
    "dist, temperature 2": [("dist", {"temperature": 2.0})],
    "dist, paper": [("dist", {"preset": "paper"})],
    "dih": [("dih", {"heads_epochs": HEADS_EPOCHS})],
    "dih, paper": [("dih", {"preset": "paper", "heads_epochs": HEADS_EPOCHS})],
    "dkd": [("dkd", {})],
    "rkd": [("rkd", {})],
    "fitnet": [("fitnet", {})],
    "fitnet, paper": [("fitnet", {"preset": "paper"})],
    "attention_transfer": [("attention_transfer", {})],
    "attention_transfer, paper": [("attention_transfer", {"preset": "paper"})],
    "attention_transfer, paper, not scaled": [("attention_transfer", {"preset": "paper", "scale_beta": False})],
    "dskd": [("dskd", {})],
    "dskd, simkd": [("dskd", {"preset": "simkd"})],
    "dskd(dist)": [("dskd", {"logit_loss": "dist"})],
    "dskd(dist), simkd": [("dskd", {"logit_loss": "dist", "preset": "simkd"})],
    "feed": [("feed", {"analysis_epochs": 0})],
    "feed + dist": [("feed", {"analysis_epochs": 0, "ce_weight": 0.0}), ("dist", {})],
    "dih + dist": [("dih", {"heads_epochs": HEADS_EPOCHS, "ce_weight": 0.0}), ("dist", {})],
    "simkd": [("simkd", {})],
}
"""Methods with their options, by what the table calls them."""

OPTIMIZERS = {
    "sgd": TrainSection(lr=0.05),
    "adamw": TrainSection(optimizer="adamw", lr=0.005, weight_decay=0.05),
}


class Task(NamedTuple):
    """What every arm has in common."""

    data: Dataset
    teacher: Network
    epochs: int


def load_digits(images: int) -> Dataset:
    """Return the digits with so many training images; all others are the test split, as no arm chooses anything."""
    whole = plugins.load("data", "digits")().load(PREPROCESS)
    order = np.random.default_rng(0).permutation(len(whole.train.labels))
    rest = whole.train.select(order[images:])
    test = type(rest)(np.concatenate([whole.test.images, rest.images]), np.concatenate([whole.test.labels, rest.labels]))
    return Dataset(whole.train.select(order[:images]), test)


def build(name: str, seed: int, image: torch.Tensor) -> Network:
    """Return a network with the weights of a seed, for images like this one, [1, 1, 8, 8]."""
    torch.manual_seed(seed)
    return build_model(name, CLASSES, image, {})


def batch_shuffled(data: Dataset, settings: TrainSection, seed: int) -> InMemory:
    """Return the training batches: shuffled, with random crops."""
    return InMemory(data.train, PREPROCESS, batch_size=settings.batch_size, device=CPU, shuffle=True, seed=seed, crop_padding=1)


def train(
    method: Method, data: Dataset, settings: TrainSection, *, seed: int, looked_at: Sequence[int] = ()
) -> dict[int, float]:
    """Train a stage, and return the scale of what teaches before each of some steps."""
    batches, updates, scales = batch_shuffled(data, settings, seed), Updates(method, settings), {}
    trained = list_trained_parameters(method)
    freeze_all_but(method, trained)
    torch.manual_seed(seed)
    step = 0
    for epoch in range(settings.epochs):
        for batch in batches.epoch(epoch):
            if step in looked_at and (found := measure_loss_scales(method, batch)) is not None:
                scales[step] = found.taught
            freeze_all_but(method, trained)
            updates.set_learning_rate(compute_learning_rate(settings, step, len(batches)))
            for phase in updates.phases:
                terms = method(method.step(batch, phase=phase))
                updates.update(torch.stack([value.float() for value in terms.values()]).sum(), phase)
            step += 1
    freeze_all_but(method, ())
    return scales


def train_teacher(data: Dataset) -> Network:
    """Return the teacher, trained on the same images as the students."""
    image = first_image(data)
    teacher = build(TEACHER, 100, image)
    settings = TrainSection(epochs=TEACHER_EPOCHS, warmup_epochs=3.0)
    train(plugins.load("methods", "supervised")(Setting(teacher, (), image, CLASSES)), data, settings, seed=100)
    return teacher


def first_image(data: Dataset) -> torch.Tensor:
    """Return the first training image as networks take it, [1, 1, 8, 8]."""
    return next(InMemory(data.train, PREPROCESS, batch_size=1, device=CPU).epoch(0)).images


def test(network: torch.nn.Module, data: Dataset) -> tuple[Logits, float]:
    """Return the logits of the test images, [N, K], and their top-1 in percent."""
    batches = InMemory(data.test, PREPROCESS, batch_size=256, device=CPU)
    logits = evaluate.compute_logits(network, batches)
    return logits, 100 * float((logits.argmax(axis=1) == data.test.labels).mean())


def run_arm(name: str, optimizer: str, seed: int, task: Task) -> Arm:
    """Train one student, stage by stage, and test it."""
    begun = time.process_time()
    image = first_image(task.data)
    setting = Setting(build(STUDENT, seed, image), (task.teacher,), image, CLASSES)
    torch.manual_seed(seed)
    methods = {method: plugins.load("methods", method)(setting, **options) for method, options in ARMS[name]}
    whole = next(iter(methods.values())) if len(methods) == 1 else Combined(setting, methods)
    settings = OPTIMIZERS[optimizer].model_copy(update={"epochs": task.epochs})
    scales: dict[int, float] = {}
    held_out = InMemory(task.data.train, PREPROCESS, batch_size=256, device=CPU)
    for stage in whole.stages():
        scales = train(stage, task.data, stage.schedule(settings), seed=seed, looked_at=LOOKED_AT)
        stage.conclude(held_out, lambda _batch: None)
    logits, top1 = test(whole.deployable(), task.data)
    return Arm(
        name=name, optimizer=optimizer, lr=settings.lr, seed=seed, scales=scales, top1_percent=top1,
        nll=compute_cross_entropy(logits, task.data.test.labels), logit_std=float(logits.std()),
        seconds=time.process_time() - begun,
    )  # fmt: skip
