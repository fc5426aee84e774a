"""What the stages of one run share: the data, the devices, and how networks and methods are built.

`prepare` loads the data; `Work` holds it with the recipe and the cache; `build` and `assemble` make networks and methods with
weights that depend on a seed and a role alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress import plugins
from compress.data import (
    Dataset,
    DiskImages,
    FromDisk,
    InMemory,
    Source,
    Split,
    Summary,
    check_dataset,
    count_repeated,
    decode_to_disk,
    decode_to_memory,
    fingerprint,
    hold_out,
    take_stratified,
)
from compress.errors import CompressError
from compress.events import Events
from compress.methods import Combined, Method, Setting
from compress.models import Network
from compress.preprocess import depth, normalise, statistics
from compress.recipe import DataSection, MethodSection, ModelSection, Recipe, TrainSection
from compress.records import Preprocess, StageResult
from compress.run import cache as stages
from compress.system import memory as storage
from compress.training import checkpoint
from compress.training import loop as trainer

LARGE_LEAK = 0.01
"""Share of a split that is also in another one from which on people are warned; well-known sets have some in a thousand."""
STATE = "state.pt"


class Leak(NamedTuple):
    """Images that are in two splits, and make an accuracy look better than it is."""

    text: str
    is_large: bool
    """Whether they are enough to change a conclusion."""


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
    leaks: tuple[Leak, ...] = ()
    """What the splits have in common."""

    def image(self) -> Tensor:
        """Return one normalised training image, [1, C, H, W]."""
        return torch.from_numpy(normalise(self.train.images[:1], self.preprocess))


@dataclass(frozen=True)
class Run:
    """Run context: recipe, folders, cache, device, data, seed."""

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
    turn: Turn | None = None
    """Of the students that take turns, if any do."""

    def shared(self) -> Run:
        """Return the run with the seed that all students share."""
        return replace(self, seed=self.recipe.seed, students=self.folder)

    def whole(self, split: Split, *, device: torch.device | None = None) -> InMemory:
        """Return all images of a split in order."""
        batches = _loader(split)
        return batches(split, self.data.preprocess, batch_size=256, device=device or self.device)

    def shuffled(self, split: Split, settings: TrainSection, *, seed: int) -> InMemory:
        """Return batches of a split for training: shuffled and augmented."""
        batches = _loader(split)
        return batches(
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


def _loader(split: Split) -> type[InMemory]:
    return FromDisk if isinstance(split.images, DiskImages) else InMemory


class Turn(NamedTuple):
    """How far a student trains before it is another's turn (`compress.run.lockstep`)."""

    until: int | None
    """Epochs; `None` in the last turn."""
    students: frozenset[str]
    """Names of those that take turns; others train to their end."""
    answers: Path
    """Folder for what teachers say of the view that the epoch at hand shows."""


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


def prepare(
    section: DataSection, *, base: Path, seed: int, cache: Path | None = None, events: Events | None = None
) -> Prepared:
    """Load the data, hold out the validation split, and settle the preprocessing.

    Args:
        section: What the recipe says of the data.
        base: Folder at which its relative paths start.
        seed: Which images are held out.
        cache: Folder for decoded images; without it they are held in memory.
        events: Where progress goes.

    Raises:
        CompressError: The data is not what the recipe says.
        Unreachable: The data is not there.
    """
    source = plugins.load("data", section.source)(**section.options(base))
    geometry = {"height": section.image_size, "width": section.image_size, "channels": source.channels}
    preprocess = Preprocess(**geometry, interpolation=section.interpolation, mean=(0.0,), std=(1.0,))
    summary = source.summary()
    classes = tuple(summary.classes)
    loaded = _loaded(source, preprocess, section.storage, summary, cache=cache, events=events or Events())
    dataset = check_dataset(loaded, len(classes))
    train, validation = hold_out(dataset.train, fraction=section.validation_fraction, seed=seed)
    train = take_stratified(train, section.train_images or len(train.labels), seed=seed)
    channels = depth(preprocess)
    for name, values in (("mean", section.mean), ("std", section.std)):
        if values is not None and len(values) != channels:
            raise CompressError(f"data.{name}: has {len(values)} numbers and the images have {channels} channels")
    mean, std = section.mean, section.std
    if mean is None or std is None:  # of a large set they take a while
        found = statistics(train.images)
        mean, std = mean or found[0], std or found[1]
    preprocess = preprocess.model_copy(update={"mean": mean, "std": std})
    key = stages.key(
        images=fingerprint(Dataset(train, validation)),
        preprocess=preprocess.model_dump(mode="json"),
        classes=classes,
        augment=[section.crop_padding, section.flip, section.views, section.augmentation_seed],
    )
    test_key = stages.key(images=fingerprint(Dataset(dataset.test, dataset.test)))
    return Prepared(
        preprocess,
        classes,
        train,
        validation,
        dataset.test,
        key,
        test_key,
        tuple(_leaks(dataset.train, train, validation, dataset.test)),
    )


def _leaks(given: Split, train: Split, validation: Split, test: Split) -> Iterator[Leak]:
    """Yield what the splits have in common, pixel by pixel; images on disk are not compared."""
    if isinstance(given.images, DiskImages):
        yield Leak("data: whether splits share images was not looked at, for they lie on disk", is_large=False)
        return
    for name, split, known, where in (
        ("test", test, given, "also training or validation images"),
        ("validation", validation, train, "also training images"),
    ):
        if count := count_repeated(split, known):
            text = f"data: {count} of {len(split.labels)} {name} images are {where}, pixel by pixel; take the copies away"
            yield Leak(text, is_large=count >= LARGE_LEAK * len(split.labels))


def _loaded(
    source: Source, preprocess: Preprocess, wanted: storage.Wanted, summary: Summary, *, cache: Path | None, events: Events
) -> Dataset:
    """Return the data set, its images where the recipe wants them."""
    encoded = getattr(source, "load_encoded", None)
    chosen = storage.choose(
        wanted, images=summary.train_images + summary.test_images, height=preprocess.height, width=preprocess.width,
        depth=depth(preprocess), can_stream=encoded is not None and cache is not None,
    )  # fmt: skip
    events.emit("images", **chosen._asdict())
    if chosen.place == "disk" and encoded is not None and cache is not None:
        events.say(f"data: {chosen}")
        return decode_to_disk(encoded(), preprocess, cache, events)
    return source.load(preprocess) if encoded is None else decode_to_memory(encoded(), preprocess, events)


def seed_for(run: Run, role: str) -> int:
    """Return a seed for one role in the run, such as `teacher1`, that depends on the run's seed and the role alone."""
    return int.from_bytes(hashlib.sha256(f"{run.seed}/{role}".encode()).digest()[:4])


def build(run: Run, section: ModelSection, role: str) -> Network:
    """Return a network with random weights that depend on the run's seed and the role alone."""
    torch.manual_seed(seed_for(run, role))
    channels = run.data.train.images.shape[-1]
    make = plugins.load("models", section.model)
    network: Network = make(len(run.data.classes), channels, **section.options())
    return network.to(run.device)


def assemble(run: Run, sections: Sequence[MethodSection], teachers: Sequence[Network]) -> Method:
    """Return the method, or the combination of methods, on a fresh student.

    Raises:
        CompressError: A method cannot work with these networks or not with another method.
    """
    student = build(run, run.recipe.student, "student")
    if run.recipe.student.weights is not None:
        checkpoint.load_weights(student, run.base / run.recipe.student.weights)
    image = run.data.image().to(run.device)
    setting = Setting(student, tuple(teachers), image, len(run.data.classes), lambda role: build(run, run.recipe.student, role))
    methods: dict[str, Method] = {}
    for section in sections:
        name = section.name if section.name not in methods else f"{section.name}{len(methods) + 1}"
        torch.manual_seed(seed_for(run, f"method {section.name}"))  # its modules start the same whatever stands beside it
        methods[name] = plugins.load("methods", section.name)(setting, **section.options())
    whole = next(iter(methods.values())) if len(methods) == 1 else Combined(setting, methods)
    return whole.to(run.device)
