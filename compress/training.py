"""The trained half of a run: data, teachers, and students by any set of methods, each stage found again in the cache.

`Work` is what all stages of one run share. `prepare`, `teacher` and `student` are the three moves; `compress.pipeline` calls
them in order.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress import checkpoint, evaluate, plugins, preflight, records, stages, targets, trainer
from compress.data._dataset import Dataset, Split, checked, fingerprint, hold_out, some_of
from compress.data._loader import InMemory
from compress.errors import CompressError
from compress.events import Events
from compress.files import sha256_of
from compress.freezing import freeze_all_but
from compress.interrupt import graceful
from compress.methods._combined import Combined
from compress.methods._method import Method, Setting
from compress.methods._step import Signal
from compress.methods.supervised import Supervised
from compress.models._network import Batch, Network
from compress.plan import title
from compress.preprocess import normalise, statistics
from compress.recipe import DataSection, MethodSection, ModelSection, Recipe, TeacherSection, TrainSection
from compress.records import Accuracy, Preprocess, StageResult
from compress.teaching import Teachers, read_by, validated_by

LOOKED_AT = 16
"""Images with which a stage is looked at before it is trained."""

WEIGHTS, METRICS, STATE = "weights.safetensors", "metrics.json", "state.pt"


class Prepared(NamedTuple):
    """The data of a run."""

    preprocess: Preprocess
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    key: str
    """Of all that training and selection see."""
    test_key: str
    """Of the test split."""

    def image(self) -> Tensor:
        """Return one normalised training image, [1, C, H, W]."""
        return torch.from_numpy(normalise(self.train.images[:1], self.preprocess))


@dataclass(frozen=True)
class Work:
    """What the stages of one run share."""

    recipe: Recipe
    base: Path
    folder: Path
    cache: stages.Cache
    events: Events
    device: torch.device
    data: Prepared
    readers: int
    """How many students ask the given teachers, over all methods and seeds."""
    seed: int
    """Of the students: their initial weights and the order of their batches. Data, teachers, and stages that train teachers'
    own modules follow the recipe's seed, whatever this is."""
    students: Path
    """Folder of this seed's students; the run's own for the first seed."""

    def shared(self) -> Work:
        """Return the work on what all seeds have in common."""
        return replace(self, seed=self.recipe.seed, students=self.folder)

    def whole(self, split: Split, *, device: torch.device | None = None) -> InMemory:
        """Return all images of a split in order."""
        return InMemory(split, self.data.preprocess, batch_size=256, device=device or self.device)

    def shuffled(self, split: Split, settings: TrainSection, *, seed: int) -> InMemory:
        """Return batches of a split for training: shuffled and augmented."""
        return InMemory(
            split,
            self.data.preprocess,
            batch_size=settings.batch_size,
            device=self.device,
            shuffle=True,
            seed=seed,
            crop_padding=self.recipe.data.crop_padding,
            flip=self.recipe.data.flip,
            views=self.recipe.data.views,
            augmentation_seed=self.recipe.data.augmentation_seed,
            memory_format=trainer.FORMATS[settings.memory_format],
        )

    def labels(self) -> NDArray[np.int64]:
        """Return the labels of the validation split, [N]."""
        return self.data.validation.labels


class Trained(NamedTuple):
    """A network that is ready to be shipped or to teach."""

    name: str
    method: str
    """How it was trained, for reports."""
    network: nn.Module
    results: tuple[StageResult, ...]
    key: str
    folder: Path | None
    """Where its weights are; `None` for a teacher from the user's file."""


def device(name: str) -> torch.device:
    """Return the device that a recipe asks for; `auto` is the GPU where there is one, on which convolutions then use no TF32.

    Raises:
        CompressError: It is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise CompressError("train.device: 'cuda' is asked for and torch sees no CUDA device; use 'auto' or 'cpu'")
    chosen = torch.device("cuda" if name == "auto" and torch.cuda.is_available() else name.replace("auto", "cpu"))
    if chosen.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32; less is asked for by `precision`
    return chosen


def prepare(section: DataSection, *, base: Path, seed: int) -> Prepared:
    """Load the data, hold out the validation split, and settle the preprocessing.

    Raises:
        CompressError: The data is not what the recipe says.
        Unreachable: The data is not there.
    """
    source = plugins.load("data", section.source)(**section.options(base))
    geometry = {"height": section.image_size, "width": section.image_size, "channels": source.channels}
    preprocess = Preprocess(**geometry, interpolation=section.interpolation, mean=(0.0,), std=(1.0,))
    classes = tuple(source.summary().classes)
    dataset = checked(source.load(preprocess), len(classes))
    train, validation = hold_out(dataset.train, fraction=section.validation_fraction, seed=seed)
    train = some_of(train, section.train_images or len(train.labels), seed=seed)
    mean, std = statistics(train.images)
    depth = train.images.shape[-1]
    for name, values in (("mean", section.mean), ("std", section.std)):
        if values is not None and len(values) != depth:
            raise CompressError(f"data.{name}: has {len(values)} numbers and the images have {depth} channels")
    preprocess = preprocess.model_copy(update={"mean": section.mean or mean, "std": section.std or std})
    key = stages.key(
        images=fingerprint(Dataset(train, validation)),
        preprocess=preprocess.model_dump(mode="json"),
        classes=classes,
        augment=[section.crop_padding, section.flip, section.views, section.augmentation_seed],
    )
    test_key = stages.key(images=fingerprint(Dataset(dataset.test, dataset.test)))
    return Prepared(preprocess, classes, train, validation, dataset.test, key, test_key)


def seed_for(work: Work, role: str) -> int:
    """Return a seed for one role in the run, such as `teacher1`, that depends on the work's seed and the role alone."""
    return int.from_bytes(hashlib.sha256(f"{work.seed}/{role}".encode()).digest()[:4])


def build(work: Work, section: ModelSection, role: str) -> Network:
    """Return a network with random weights that depend on the work's seed and the role alone."""
    torch.manual_seed(seed_for(work, role))
    channels = work.data.train.images.shape[-1]
    make = plugins.load("models", section.model)
    network: Network = make(len(work.data.classes), channels, **section.options())
    return network.to(work.device)


def assemble(work: Work, sections: Sequence[MethodSection], teachers: Sequence[Network]) -> Method:
    """Return the method, or the combination of methods, on a fresh student.

    Raises:
        CompressError: A method cannot work with these networks or not with another method.
    """
    student = build(work, work.recipe.student, "student")
    if work.recipe.student.weights is not None:
        checkpoint.load_weights(student, work.base / work.recipe.student.weights)
    image = work.data.image().to(work.device)
    setting = Setting(
        student, tuple(teachers), image, len(work.data.classes), lambda role: build(work, work.recipe.student, role)
    )
    methods: dict[str, Method] = {}
    for section in sections:
        name = section.name if section.name not in methods else f"{section.name}{len(methods) + 1}"
        torch.manual_seed(seed_for(work, f"method {section.name}"))  # its modules start the same whatever stands beside it
        methods[name] = plugins.load("methods", section.name)(setting, **section.options())
    whole = next(iter(methods.values())) if len(methods) == 1 else Combined(setting, methods)
    return whole.to(work.device)


def teacher(work: Work, index: int, section: TeacherSection) -> Trained:
    """Return a teacher: from the user's file, or trained on the labels.

    Raises:
        CompressError: Its weights do not fit, or it is not fit to teach.
        Unreachable: Its file is not there.
    """
    name = "teacher" if len(work.recipe.teacher) == 1 else f"teacher{index}"
    network = build(work, section, name)
    model = _model(section)
    if section.weights is not None:
        path = work.base / section.weights
        checkpoint.load_weights(network, path, sha256=section.sha256)
        key = stages.key(weights=sha256_of(path), model=model)
        trained = Trained(name, "given", network, (), key, None)
    else:
        settings = section.train or work.recipe.train
        method = Supervised(Setting(network, (), work.data.image(), len(work.data.classes)))
        reads = {"model": model, "role": name}
        trained = _train(work, name, method, settings, reads=reads, method_name="supervised")
    answers = evaluate.logits(trained.network, work.whole(work.data.validation))
    found = preflight.teacher(name, answers, work.labels(), work.data.classes)
    if trained.folder is None:
        work.events.say(f"{name}: {section.model} from {section.weights}, {_percent(found)} on validation")
    return trained


def student(work: Work, name: str, sections: Sequence[MethodSection], teachers: Sequence[Trained]) -> Trained:
    """Train the student with a set of methods, stage by stage.

    Raises:
        CompressError: The methods contradict each other, or training does not work.
        Interrupted: The user stopped; the state is saved.
    """
    networks = [trained.network for trained in teachers if isinstance(trained.network, Network)]
    method = assemble(work, sections, networks)
    common = method if work.seed == work.recipe.seed else assemble(work.shared(), sections, networks)
    knowledge = [trained.key for trained in teachers]
    results: list[StageResult] = []
    before = [stage.stage for stage in method.stages()[:-1]]
    for index, stage in enumerate(method.stages()[:-1]):
        reads = {"teachers": knowledge, "stage": dict(stage.identity()), "method": targets.source(type(stage))}
        if _trains_student(stage):
            reads |= {"prepared": [result.key for result in results], "model": _model(work.recipe.student)}
        number = "" if before.count(stage.stage) == 1 else str(index)
        own_name = f"{stage.stage}{number}" if name == "student" else f"{name}-{stage.stage}{number}"
        shared = _belongs_to_teachers(stage, networks)
        where, trained = (work.shared(), common.stages()[index]) if shared else (work, stage)
        results += _train(where, own_name, trained, work.recipe.train, reads=reads, method_name=title(sections)).results
        if trained is not stage:
            stage.product().load_state_dict(trained.product().state_dict())
            freeze_all_but(stage, ())
    start = work.recipe.student.weights
    needed = [] if all(section.name == "supervised" for section in sections) else knowledge
    inputs = {
        "teachers": needed,
        "prepared": [result.key for result in results],
        "model": _model(work.recipe.student),
        "weights": start and sha256_of(work.base / start),
        "method": [section.model_dump(mode="json") for section in sections],
        "methods": _sources(sections),
    }
    final = method.stages()[-1]
    others_read = work.readers > 1 and _has_only(final, networks)  # no teacher was made on the way
    last = _train(work, name, final, work.recipe.train, reads=inputs, method_name=title(sections), shared=others_read)
    return last._replace(results=(*results, *last.results))


def finished_student(work: Work) -> Trained:
    """Return the student of a finished run from its own folder, as it was shipped.

    Raises:
        Unreachable: The run has not trained its student.
        CompressError: The weights are not those of the recipe's networks, or were changed.
    """
    folder = work.folder / "student"
    result = records.read(folder / METRICS, StageResult)
    method = assemble(work, work.recipe.method, [_as_taught(work, index) for index in range(len(work.recipe.teacher))])
    checkpoint.load_weights(method.product(), folder / WEIGHTS, sha256=result.files[WEIGHTS])
    freeze_all_but(method, ())
    return Trained("student", title(work.recipe.method), method.deployable(), (result,), result.key, folder)


def _as_taught(work: Work, index: int) -> Network:
    """Return a teacher of a finished run with its weights, which a method may look at when it is built."""
    section = work.recipe.teacher[index]
    name = "teacher" if len(work.recipe.teacher) == 1 else f"teacher{index}"
    network = build(work, section, name)
    path = work.base / section.weights if section.weights is not None else work.folder / name / WEIGHTS
    checkpoint.load_weights(network, path, sha256=section.sha256)
    return network


def _model(section: ModelSection) -> dict[str, object]:
    """Return what decides the shape of a network: its name, its options, and its source."""
    options = section.model_dump(mode="json", exclude={"weights", "sha256", "train"})
    return {**options, "source": stages.plugin("models", section.model)}


def _trains_student(stage: Method) -> bool:
    own = {id(parameter) for parameter in stage.student.parameters()}
    return any(id(parameter) in own for group in stage.phases().values() for parameter in group)


def _belongs_to_teachers(stage: Method, given: Sequence[Network]) -> bool:
    """Return whether a stage has no part in any student, so that all seeds have it in common."""
    return not _trains_student(stage) and _has_only(stage, given)


def _has_only(stage: Method, given: Sequence[Network]) -> bool:
    return all(any(own is network for network in given) for own in stage.teachers)


def _sources(sections: Sequence[MethodSection]) -> list[str]:
    return [stages.plugin("methods", section.name) for section in sections]


def _train(
    work: Work,
    name: str,
    method: Method,
    settings: TrainSection,
    *,
    reads: Mapping[str, object],
    method_name: str,
    shared: bool = False,
) -> Trained:
    settings = method.schedule(settings)
    seed = seed_for(work, name if name.startswith("teacher") else method.stage)  # one order for all students of a recipe
    key = stages.key(
        reads=reads, train=settings.model_dump(mode="json", exclude={"device", "state_seconds"}), data=work.data.key, seed=seed,
        device=work.device.type, engine=dict(stages.engine()),
        targets=work.recipe.targets.model_dump(mode="json") if _may_ask(method) else None,
    )  # fmt: skip
    found = work.cache.find(key) is not None

    def make(folder: Path) -> None:
        batches = work.shuffled(work.data.train, settings, seed=seed)
        first = _some(next(batches.epoch(0)))
        _announce(work, name, method, first)
        begun = time.monotonic()
        held_out = work.whole(work.data.validation)
        asked = _teachers(
            work, method, read_by(method, first), batches, epochs=settings.epochs, shared=shared,
            autocast=trainer.DTYPES[settings.precision], decision=folder / ".engine-training.json", images="training",
        )  # fmt: skip
        signals = validated_by(method, _some(next(held_out.epoch(0))))
        validating = _teachers(
            work, method, signals, held_out, epochs=settings.epochs, shared=False, autocast=None,
            decision=folder / ".engine-held-out.json", images="held-out",
        )  # fmt: skip
        with graceful(work.events) as stopped:
            fit = trainer.fit(
                method, batches, held_out, settings=settings, seed=seed, state=folder / STATE, stopped=stopped,
                events=work.events, description=_label(work, name), teachers=asked, validating=validating,
            )  # fmt: skip
        analyses = method.analyse(batches, held_out)
        freeze_all_but(method, ())
        product = method.product()
        checkpoint.save_weights(folder / WEIGHTS, product, metadata={"stage": name, "key": key})
        own = fit.validation.get("student")
        image = work.data.image().to(work.device)
        result = StageResult(
            stage=name, key=key, method=method_name,
            parameters=evaluate.parameters(product if own is None else method.deployable()),
            macs=None if own is None else evaluate.macs(method.deployable(), image),
            best_epoch=fit.best_epoch, validation=own, members=fit.validation if own is None else {},
            analyses=analyses, teaching=tuple(each.summary() for each in (asked, validating) if each is not None),
            epochs=fit.epochs, seconds=max(time.monotonic() - begun, sum(epoch.seconds for epoch in fit.epochs)),
            files={WEIGHTS: sha256_of(folder / WEIGHTS)},
        )  # fmt: skip
        records.save(folder / METRICS, result)
        (folder / STATE).unlink(missing_ok=True)

    folder = work.cache.make(key, make)
    result = records.read(folder / METRICS, StageResult).model_copy(update={"stage": name, "method": method_name})
    checkpoint.load_weights(method.product(), folder / WEIGHTS, sha256=result.files[WEIGHTS])
    freeze_all_but(method, ())
    stages.publish(folder, work.students / name)
    work.events.emit("stage", stage=name, seed=work.seed, key=key, found=found, seconds=result.seconds)
    effort = "(found in the cache)" if found else f"in {result.seconds:.0f} s"
    work.events.say(f"{_label(work, name)}: {_summary(result)} {effort}")
    return Trained(name, method_name, method.deployable(), (result,), key, folder)


def _may_ask(method: Method) -> bool:
    """Return whether a stage may ask a frozen teacher, so that how its answers are computed and kept can change the result."""
    return bool(method.teachers) and not isinstance(method, Supervised) and not method.moves_teacher


def _some(batch: Batch) -> Batch:
    """Return a few images of a batch: enough to look at a stage, too few to need the memory that running its teachers takes."""
    return Batch(batch.images[:LOOKED_AT], batch.labels[:LOOKED_AT])


def _teachers(
    work: Work, method: Method, signals: Sequence[Signal], batches: InMemory, *, epochs: int, shared: bool,
    autocast: torch.dtype | None, decision: Path, images: str,
) -> Teachers | None:  # fmt: skip
    """Return what answers for the frozen teachers of a stage, or nothing where it asks none."""
    if not signals:
        return None
    return Teachers(
        method, signals, batches, section=work.recipe.targets, folder=work.cache.folder / "targets", epochs=epochs,
        shared=shared, autocast=autocast, events=work.events, decision=decision, images=images,
    )  # fmt: skip


def _announce(work: Work, name: str, method: Method, batch: Batch) -> None:
    """Say what is trained, what is frozen, and how much of the gradient each loss term has."""
    trained = sum(parameter.numel() for group in method.phases().values() for parameter in group)
    frozen = evaluate.parameters(method) - trained
    shares = preflight.gradient_shares(method, batch)
    listed = ", ".join(f"{term} {share:.0%}" for term, share in shares.items())
    work.events.say(f"{_label(work, name)}: trains {trained:,} parameters, {frozen:,} frozen; gradient norm: {listed}")
    work.events.emit("preflight", stage=name, seed=work.seed, trained=trained, frozen=frozen, gradient_shares=shares)


def _label(work: Work, name: str) -> str:
    """Return what people read: the first seed's stages have no more than their names."""
    return name if work.students == work.folder else f"{name}, seed {work.seed}"


def _summary(result: StageResult) -> str:
    if result.validation is not None:
        taught, waited = _share(result, "teaching_seconds"), _share(result, "waiting_seconds")
        times = f"{waited:.0%} of the time waiting for images" + (f", {taught:.0%} for teachers" if result.teaching else "")
        return f"{_percent(result.validation)} on validation, best epoch {result.best_epoch} of {len(result.epochs)}; {times}"
    return ", ".join(f"{name} {_percent(accuracy)}" for name, accuracy in result.members.items()) + " on validation"


def _share(result: StageResult, part: str) -> float:
    """Return the share of all epochs' time that a part of it has."""
    return float(
        sum(getattr(epoch, part) for epoch in result.epochs) / max(sum(epoch.seconds for epoch in result.epochs), 1e-9)
    )


def _percent(accuracy: Accuracy) -> str:
    return f"{accuracy.top1_percent:.2f} %"
