"""Our training steps for the speed benchmark: the loop, the methods, the store and the engines of a recipe's run.

A workshop is a folder that holds the images, the teacher's weights and the target store, so that several processes train on the
very same. This is the one module of the benchmarks that reaches into the engine; a new step is a line in `OURS`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.studies.training_speed.pairs import Pair, make_network, settle
from benchmarks.studies.training_speed.rounds import Steps, Subject
from compress import Network, plugins
from compress.data import InMemory, Split
from compress.errors import CompressError
from compress.events import Events
from compress.methods import Method, Setting
from compress.recipe import TeacherOutputsSection, TrainSection
from compress.records import EngineTrial, Preprocess, read, save
from compress.teachers import engines
from compress.teachers.plan import OutputsRequest
from compress.teachers.provider import TeacherOutputs, provide_outputs
from compress.teachers.signals import find_required_signals, take_first_images
from compress.training import loop
from compress.training.engines import StudentEngine, choose_engine

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
VIEWS = 2
"""Augmented views of the images; the teacher's outputs for all of them are stored before the first timed step."""
LR, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 5e-4
TEMPERATURE, CE_WEIGHT = 4.0, 0.9


@dataclass(frozen=True)
class Ours:
    """One of our training steps."""

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    cached: bool = False
    """Whether the teacher's outputs come from the store."""
    engine: str | None = None
    """What runs the teacher at every step, `auto` the fastest in a trial; `None` leaves it to the step: eager torch."""
    train: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the recipe's `train` that differ from those of the plain step."""
    compiled: bool = False
    """Whether torch's inductor compiles the student, on a GPU with CUDA graphs: the recipe's `train.engine`."""

    def explain_absence(self, device: torch.device) -> str:
        """Return why this step cannot be measured here, or nothing."""
        if self.compiled and device.type == "cpu" and not any(map(shutil.which, COMPILERS)):
            return f"needs a C++ compiler, one of: {', '.join(COMPILERS)}"
        if self.engine == INT8 and device.type != "cpu":
            return f"{INT8} runs on a CPU alone"
        return ""


COMPILERS = ("g++", "clang++", "c++")
INT8 = "openvino_int8"
ANY = 1e9
"""A tolerance that refuses nothing: the difference is in the report, and random networks are no measure of it."""

KD = {"temperature": TEMPERATURE, "ce_weight": CE_WEIGHT, "kd_weight": 1 - CE_WEIGHT}
"""The loss of torchdistill's `KDLoss` with `alpha` 0.9."""

OURS: Mapping[str, Ours] = {
    "plain": Ours("supervised"),
    "plain, compiled": Ours("supervised", compiled=True),
    "kd": Ours("kd", KD),
    "dist": Ours("dist"),
    "dih": Ours("dih"),
    "kd, fastest engine": Ours("kd", KD, engine="auto"),
    "kd, int8 teacher": Ours("kd", KD, engine=INT8),
    "kd, cached": Ours("kd", KD, cached=True),
    "dist, cached": Ours("dist", cached=True),
    "dih, cached": Ours("dih", cached=True),
    "kd, cached, compiled": Ours("kd", KD, cached=True, compiled=True),
}


class Workshop:
    """One pair's images, networks and store, in a folder that `prepare` made.

    Args:
        folder: Where they are.
        device: Where training runs.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.device = folder, device
        self.pair = read(folder / "pair.json", Pair)
        self.split = Split(np.load(folder / "images.npy"), np.load(folder / "labels.npy"))
        size = self.pair.size
        self.preprocess = Preprocess(height=size, width=size, channels="rgb", mean=MEAN, std=STD)

    @cached_property
    def teacher(self) -> Network:
        """The teacher, frozen; the same weights for all who open this folder."""
        return self._make_network(self.pair.teacher, seed=1, weights=self.folder / "teacher.pt").requires_grad_(False).eval()

    def make_student(self) -> Network:
        """Return a fresh student; all have the same weights."""
        return self._make_network(self.pair.student, seed=2)

    def _make_network(self, name: str, *, seed: int, weights: Path | None = None) -> Network:
        """Return a network with random weights, or those of a file."""
        made = make_network(name, self.pair.classes, seed=seed)
        if weights is not None:
            made.load_state_dict(torch.load(weights, weights_only=True))
        return made.to(self.device)

    def make_batches(self) -> InMemory:
        """Return shuffled, augmented batches, as a recipe's run trains on."""
        pair = self.pair
        return InMemory(
            self.split, self.preprocess, batch_size=pair.batch_size, device=self.device, shuffle=True,
            crop_padding=pair.padding, flip=True, views=VIEWS,
        )  # fmt: skip

    def make_method(self, ours: Ours, batches: InMemory) -> Method:
        """Return a method on a fresh student."""
        image = next(batches.epoch(0)).images[:1]
        teachers = () if ours.method == "supervised" else (self.teacher,)
        setting = Setting(self.make_student(), teachers, image, self.pair.classes)
        method: Method = plugins.load("methods", ours.method)(setting, **ours.options)
        return method.to(self.device)

    def make_settings(self, ours: Ours) -> TrainSection:
        """Return how the student is trained."""
        plain = {"lr": LR, "momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY, "schedule": "constant"}
        return TrainSection(**{**plain, "batch_size": self.pair.batch_size, "epochs": 1, **ours.train})

    def make_subject(self, name: str) -> Subject:
        """Return one of our training steps, by its name in `OURS`."""
        run, facts = self.prepare(OURS[name])

        def steps() -> Steps:
            with run.events.task(name, total=1) as task:
                while True:
                    for batch, targets in run.batches():
                        run.advance(batch, targets, task)
                        yield
                    run.epoch, run.step = run.epoch + 1, 0

        return Subject(name, steps, work=self.pair.batch_size, facts=facts)

    def prepare(self, ours: Ours) -> tuple[loop._StageTraining, dict[str, str]]:
        """Return the state of a training that has not begun, and what is to be known of it."""
        batches = self.make_batches()
        method, settings = self.make_method(ours, batches), self.make_settings(ours)
        teachers, facts = self._provide_teachers(ours, method, batches, settings)
        running = self._choose_engine(ours, method, batches, settings)
        run = loop._StageTraining(
            method, batches, batches, settings=settings, events=Events(), state=None, title=ours.method, teachers=teachers,
            forward=running.forward,
        )  # fmt: skip
        difference = {f"{each.engine}: difference of gradients": f"{each.relative_difference:.2g}" for each in running.trials}
        return run, facts | difference

    def _choose_engine(self, ours: Ours, method: Method, batches: InMemory, settings: TrainSection) -> StudentEngine:
        graphs = self.device.type == "cuda"
        engine = "eager" if not ours.compiled else "cuda_graphs" if graphs else "compile"
        autocast = loop.DTYPES[settings.precision]
        return choose_engine(method, next(batches.epoch(0)), engine=engine, steps=1, autocast=autocast, events=Events())

    def _provide_teachers(
        self, ours: Ours, method: Method, batches: InMemory, settings: TrainSection
    ) -> tuple[TeacherOutputs | None, dict[str, str]]:
        if ours.engine is None and not ours.cached:
            return None, {}
        signals = find_required_signals(method, take_first_images(next(batches.epoch(0))))
        engine, facts = ours.engine or "eager", {"signals": str(len(signals))}
        if engine == "auto":
            networks = [teacher for teacher in method.teachers if isinstance(teacher, Network)]
            best = _choose_fastest(engines.JointTeachers(networks, signals).eval(), batches)
            engine = best.engine
            facts |= {"engine": engine, "relative difference": f"{best.relative_difference:.2g}"}
        section = TeacherOutputsSection(
            store="on" if ours.cached else "off",
            engine=engine,  # type: ignore[arg-type]
            tolerance=ANY if engine == INT8 else TeacherOutputsSection().tolerance,
        )
        request = OutputsRequest(
            method, signals, batches, section=section, folder=self.folder / "targets", epochs=VIEWS, shared=True,
            autocast=loop.DTYPES[settings.precision], events=Events(),
        )  # fmt: skip
        teachers = provide_outputs(request)
        for epoch in range(VIEWS):
            teachers.prepare_epoch(epoch)
        if engine == INT8:
            teachers.get_signals(next(batches.epoch(0)))  # builds it, which tells how far it is from float32
            (trial,) = teachers.summarize().trials
            facts |= {"engine": engine, "relative difference": f"{trial.relative_difference:.2g}"}
        return teachers, facts

    def measure_store_bytes(self) -> float:
        """Return how many bytes of disk the store has for each image and view."""
        taken = sum(path.stat().st_size for path in (self.folder / "targets").rglob("*") if path.is_file())
        return taken / (self.pair.images * VIEWS)


def prepare(folder: Path, pair: Pair, *, device: torch.device, split: Split | None = None) -> Workshop:
    """Make the folder of a workshop: images, random ones where none are given, and a teacher with settled statistics.

    Raises:
        CompressError: There are too few images, or they are not of the pair's size.
    """
    if split is None:
        random = np.random.default_rng(0)
        images = random.integers(0, 256, size=(pair.images, pair.size, pair.size, 3), dtype=np.uint8)
        split = Split(images, random.integers(0, pair.classes, size=pair.images))
    if len(split.images) < pair.images or split.images.shape[1:] != (pair.size, pair.size, 3):
        raise CompressError(
            f"{pair.name}: the images are {list(split.images.shape)}; it needs {[pair.images, pair.size, pair.size, 3]}; "
            "give other images with --data, or none"
        )
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", split.images[: pair.images])
    np.save(folder / "labels.npy", split.labels[: pair.images])
    save(folder / "pair.json", pair)
    workshop = Workshop(folder, device)
    teacher = workshop._make_network(pair.teacher, seed=1)
    settle(teacher, (batch.images for batch, _ in zip(workshop.make_batches().epoch(0), range(2), strict=False)))
    torch.save(teacher.state_dict(), folder / "teacher.pt")
    return workshop


def read_images(folder: Path, pair: Pair) -> Split:
    """Return real images of a folder of parquet files, as the data source `huggingface` reads them, with the pair's labels.

    Raises:
        CompressError: The files are not what the source takes.
        Unreachable: The folder cannot be read.
    """
    source = plugins.load("data", "huggingface")(path=str(folder))
    whole = Preprocess(height=pair.size, width=pair.size, channels="rgb", mean=(0.5,), std=(0.5,))
    split = source.load(whole).train
    return Split(split.images[: pair.images], split.labels[: pair.images] % pair.classes)


def _choose_fastest(answering: engines.JointTeachers, batches: InMemory) -> EngineTrial:
    images = [batch.images for batch, _ in zip(batches.read_view(0), range(2), strict=False)]
    return engines.try_engines(answering, images, None, tolerance=TeacherOutputsSection().tolerance)[0]
