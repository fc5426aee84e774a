"""Run context: what the stages of one run share, and how the folder of a run is opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import nn

from benchmarks.environment import read_environment
from compress import records
from compress.data import WHOLE_PIXELS, Augmented, DiskImages, FromDisk, InMemory, Split, Targets, ViewedBatches
from compress.events import Events
from compress.methods import Method
from compress.recipe import Recipe, TrainSection, dump
from compress.records import StageResult
from compress.run.cache import Cache, lock_run
from compress.run.data import RunData, prepare_data
from compress.system.files import write_whole
from compress.system.leftovers import remove_leftovers
from compress.tasks import Labels
from compress.training import loop
from compress.training.device import choose_device

RECIPE, REJECTED = "recipe.yaml", "rejected"
STATE = "state.pt"


@dataclass(frozen=True)
class Run:
    """Run context: recipe, folders, cache, device, data, seed."""

    recipe: Recipe
    base: Path
    folder: Path
    cache: Cache
    events: Events
    device: torch.device
    data: RunData
    readers: int
    """Number of students that read outputs of the given teachers, over all methods and seeds."""
    seed: int
    """Seed of the students: of their initial weights and the order of their batches. Data, teachers, and stages that train
    teachers' own modules follow the recipe's seed, whatever this is."""
    students: Path
    """Folder of this seed's students; the run's own for the first seed."""
    lockstep: Lockstep | None = None
    """How students are trained in lockstep, if they are."""

    def use_recipe_seed(self) -> Run:
        """Return the run with the seed that all students share."""
        return replace(self, seed=self.recipe.seed, students=self.folder)

    def batch_in_order(self, split: Split, *, device: torch.device | None = None) -> InMemory:
        """Return the data loader of a split for evaluation: all images in order, not augmented."""
        return _choose_loader(split)(split, self.data.preprocess, batch_size=256, device=device or self.device)

    def batch_shuffled(self, split: Split, settings: TrainSection, *, seed: int) -> ViewedBatches:
        """Return the data loader of a split for training: shuffled and augmented."""
        data, preprocess = self.recipe.data, self.data.preprocess
        targets = Targets(
            len(self.data.classes), settings.label_smoothing, settings.class_weights == "balanced", settings.sampling,
            has_unlabelled=split is self.data.whole,
        )  # fmt: skip
        is_plain = targets.is_plain and not data.augment.is_on
        depth = {name: values * preprocess.depth for name, values in WHOLE_PIXELS.items()}
        memory_format = loop.MEMORY_FORMATS[settings.memory_format]
        inner = _choose_loader(split)(
            split, preprocess if is_plain else preprocess.model_copy(update=depth), batch_size=settings.batch_size,
            device=self.device if is_plain else torch.device("cpu"), shuffle=True, seed=seed, crop_padding=data.crop_padding,
            crop_border=data.crop_border, flip=data.flip, views=data.views, augmentation_seed=data.augmentation_seed,
            memory_format=memory_format,
        )  # fmt: skip
        if is_plain:
            return inner
        return Augmented(
            inner, preprocess, section=data.augment, targets=targets, labels=split.labels, device=self.device,
            batch_size=settings.batch_size, seed=seed, views=data.views, augmentation_seed=data.augmentation_seed,
            memory_format=memory_format,
        )  # fmt: skip

    def select_training_images(self, method: Method) -> Split:
        """Return the images that a student's stage is trained on: those without labels too if it can use them."""
        data = self.data
        if data.whole is None or method.needs_labels:
            return data.labelled or data.train
        return data.whole

    @property
    def validation_labels(self) -> Labels:
        """The labels of the validation split, [N, ...]."""
        return self.data.validation.labels


def _choose_loader(split: Split) -> type[InMemory]:
    return FromDisk if isinstance(split.images, DiskImages) else InMemory


class Lockstep(NamedTuple):
    """How students are trained in lockstep (`compress.run.lockstep`): which, and where each stops for the others."""

    stop_after: int | None
    """Epochs after which a student stops for the others; `None` to train to the end."""
    students: frozenset[str]
    """Names of those that are trained in lockstep; others train to their end."""
    outputs: Path
    """Folder for the teachers' outputs for the view that the current epoch shows."""


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

    @property
    def knows_classes(self) -> bool:
        """Whether its logits are of the classes of the data, so that there is an accuracy."""
        return bool(getattr(self.network, "knows_classes", True))

    def move_to_cpu(self) -> Self:
        """Move the network to the CPU, where files are made and run; a GPU may round differently."""
        self.network.to("cpu")
        return self


@contextmanager
def open_run(recipe: Recipe, *, base: Path, runs: Path, events: Events, seeds: int = 1) -> Iterator[Run]:
    """Lock the run's folder, load the data, and give the context that all stages share."""
    folder = runs / recipe.name
    with lock_run(folder):
        remove_leftovers(folder, recursive=True)
        remove_leftovers(runs / ".cache", recursive=True)
        events.attach(folder / "events.jsonl")
        events.emit("begin", recipe=recipe.name)
        data = prepare_data(recipe.data, base=base, seed=recipe.seed, cache=runs / ".cache" / "images", events=events)
        sizes = (
            f"{len(data.train.labels)} training, {len(data.validation.labels)} validation, {len(data.test.labels)} test images"
        )
        events.say(f"data: {recipe.data.source}, {len(data.classes)} classes, {sizes}")
        for note in data.notes:
            events.say(f"{'warning: ' if note.is_warning else ''}{note.text}")
        with write_whole(folder / RECIPE) as temporary:
            temporary.write_text(dump(recipe, base), encoding="utf-8")
        records.save(folder / "environment.json", read_environment())
        where = choose_device(recipe.train.device)
        taught = [
            methods for methods in (recipe.method, *recipe.baselines) if any(each.name != "supervised" for each in methods)
        ]
        readers = seeds * len(taught)
        yield Run(recipe, base, folder, Cache(runs, events), events, where, data, readers, recipe.seed, folder)
