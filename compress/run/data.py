"""Load and split the data of a run, settle its preprocessing, and look for images that are in two splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from compress import plugins
from compress.data import (
    Dataset,
    DiskImages,
    Source,
    Split,
    Summary,
    add_unlabelled,
    check_dataset,
    count_repeated,
    decode_to_disk,
    decode_to_memory,
    divide_stratified,
    forget_labels,
    hash_dataset,
    hold_out,
    join_splits,
    list_names,
    list_unlabelled,
    make_unlabelled,
    name_task,
    read_summary,
    repeat_rows,
    take_apart,
    take_stratified,
)
from compress.errors import CompressError
from compress.events import Events
from compress.fingerprint import make_key
from compress.plan.pictures import make_preprocess
from compress.preprocess import measure_statistics, normalise
from compress.recipe import DataSection
from compress.records import Preprocess
from compress.system.files import resolve_path
from compress.system.memory import choose_place
from compress.tasks import CLASSIFICATION, Task, load_task

LARGE_SHARE = 0.01
"""Share of a split from which on people are warned where it is also in another one, or cannot be read; well-known sets share
some in a thousand."""


class DataNote(NamedTuple):
    """What a reader must know of the data, such as images in two splits, which make an accuracy look better than it is."""

    text: str
    is_warning: bool
    """Whether it is enough to change a conclusion."""


class RunData(NamedTuple):
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
    task: Task = CLASSIFICATION
    """What the labels are for."""
    notes: tuple[DataNote, ...] = ()
    """What the source says of the data, what was left out, and what the splits have in common."""
    whole: Split | None = None
    """The images that have labels for students and behind them those without; nothing where there are none."""
    whole_key: str = ""
    """Of that."""
    labelled: Split | None = None
    """Those that have labels for students, repeated until they are as many; nothing where these are the training split."""
    labelled_key: str = ""
    """Of that."""

    def sample_image(self) -> Tensor:
        """Return one normalised training image, [1, C, H, W]."""
        return torch.from_numpy(normalise(self.train.images[:1], self.preprocess))


def prepare_data(
    section: DataSection, *, base: Path, seed: int, cache: Path | None = None, events: Events | None = None
) -> RunData:
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
    preprocess = make_preprocess(section, source.channels)
    summary = read_summary(source)
    classes = tuple(summary.classes)
    pictures = [] if section.unlabelled is None else list_unlabelled(resolve_path(base, section.unlabelled))
    loaded = _load(source, preprocess, section, summary, pictures=pictures, cache=cache, events=events or Events())
    task = load_task(name_task(source))
    loaded, added = take_apart(loaded) if pictures else (loaded, None)
    dataset = check_dataset(loaded, len(classes), task)
    if plugins.describe("data", section.source).origin != "ours" and not section.skip_unreadable:
        _refuse_other_sizes(dataset, summary)
    train, validation = hold_out(dataset.train, fraction=section.validation_fraction, seed=seed, classes=classes, task=task)
    train = take_stratified(train, section.train_images or len(train.labels), seed=seed, task=task)
    channels = preprocess.depth
    for name, values in (("mean", section.mean), ("std", section.std)):
        if values is not None and len(values) != channels:
            raise CompressError(f"data.{name}: has {len(values)} numbers and the images have {channels} channels")
    mean, std = section.mean, section.std
    if mean is None or std is None:  # of a large set they take a while
        found = measure_statistics(train.images)
        mean, std = mean or found[0], std or found[1]
    preprocess = preprocess.model_copy(update={"mean": mean, "std": std})
    key = make_key(
        images=hash_dataset(Dataset(train, validation)),
        preprocess=preprocess.model_dump(mode="json"),
        classes=classes,
        augment=[
            section.crop_padding,
            section.flip,
            section.views,
            section.augmentation_seed,
            section.augment.model_dump(mode="json"),
        ],
    )
    test_key = make_key(images=hash_dataset(Dataset(dataset.test, dataset.test)))
    known, unlabelled = _take_labels(train, section.student_labels, added, seed=seed)
    whole = None if unlabelled is None else join_splits(known, unlabelled)
    labelled = None if whole is None or known is train else repeat_rows(known, len(whole.labels))
    return RunData(
        preprocess,
        classes,
        train,
        validation,
        dataset.test,
        key,
        test_key,
        task,
        (
            *(DataNote(f"data: {note}", is_warning=False) for note in summary.notes),
            *find_left_out(summary, dataset),
            *find_empty_classes(classes, dataset, task),
            *find_leaks(dataset.train, train, validation, dataset.test),
            *(find_unlabelled_notes(added, len(pictures), validation, dataset.test) if added else ()),
            *(_describe_labels(known, train) if labelled else ()),
        ),
        whole,
        "" if whole is None else hash_dataset(Dataset(whole, whole)),
        labelled,
        "" if labelled is None else hash_dataset(Dataset(labelled, labelled)),
    )


def _take_labels(train: Split, count: int | None, added: Split | None, *, seed: int) -> tuple[Split, Split | None]:
    """Return the images that have labels for students, and those without: the others, and further pictures if there are any."""
    if count is None:
        return train, added
    known, others = divide_stratified(train, count, seed=seed)
    others = forget_labels(others)
    return known, others if added is None else join_splits(others, added)


def _describe_labels(known: Split, train: Split) -> Iterator[DataNote]:
    text = f"data: students have the labels of {len(known.labels)} of {len(train.labels)} training images (data.student_labels)"
    yield DataNote(text, is_warning=False)


def find_unlabelled_notes(unlabelled: Split, given: int, validation: Split, test: Split) -> Iterator[DataNote]:
    """Yield how many images have no label, which were left out, and how many are held out or tested on as well."""
    yield DataNote(f"data: {len(unlabelled.labels)} training images without labels (data.unlabelled)", is_warning=False)
    if missing := given - len(unlabelled.labels):
        text = f"data: {missing} of {given} unlabelled images cannot be read and are left out (data.skip_unreadable)"
        yield DataNote(text, is_warning=missing >= LARGE_SHARE * given)
    if isinstance(unlabelled.images, DiskImages):
        return
    for name, split in (("validation", validation), ("test", test)):
        if count := count_repeated(unlabelled, split):
            text = f"data: {count} unlabelled images are also {name} images, pixel by pixel; take them away"
            yield DataNote(text, is_warning=True)


def find_left_out(summary: Summary, dataset: Dataset) -> Iterator[DataNote]:
    """Yield how many pictures of each split were left out since they cannot be read."""
    wanted = (summary.train_images, summary.test_images)
    for name, expected, split in zip(Dataset._fields, wanted, dataset, strict=True):
        if missing := expected - len(split.labels):
            text = f"data: {missing} of {expected} {name} images cannot be read and are left out (data.skip_unreadable)"
            yield DataNote(text, is_warning=missing >= LARGE_SHARE * expected)


def find_empty_classes(classes: Sequence[str], dataset: Dataset, task: Task = CLASSIFICATION) -> Iterator[DataNote]:
    """Yield which classes have no image in a split; it matters most where some are tested that were never taught."""
    counts = [task.count_images(split.labels, len(classes)) for split in dataset]
    for name, own, other in zip(Dataset._fields, counts, reversed(counts), strict=True):
        empty = [each for each, count in zip(classes, own, strict=True) if count == 0]
        if empty:
            text = f"data: {len(empty)} of {len(classes)} classes have no {name} image: {list_names(empty)}"
            yield DataNote(text, is_warning=name == "train" and bool(other[own == 0].any()))


def find_leaks(given: Split, train: Split, validation: Split, test: Split) -> Iterator[DataNote]:
    """Yield what the splits have in common, pixel by pixel; images on disk are not compared."""
    if isinstance(given.images, DiskImages):
        yield DataNote("data: whether splits share images was not looked at, for they lie on disk", is_warning=False)
        return
    for name, split, known, where in (
        ("test", test, given, "also training or validation images"),
        ("validation", validation, train, "also training images"),
    ):
        if count := count_repeated(split, known):
            text = f"data: {count} of {len(split.labels)} {name} images are {where}, pixel by pixel; take the copies away"
            yield DataNote(text, is_warning=count >= LARGE_SHARE * len(split.labels))


def _refuse_other_sizes(dataset: Dataset, summary: Summary) -> None:
    """Refuse a data set of another size than its source said, by which the run was planned."""
    for name, said, split in zip(Dataset._fields, (summary.train_images, summary.test_images), dataset, strict=True):
        if len(split.labels) != said:
            raise CompressError(
                f"split {name!r}: load() returned {len(split.labels)} images, and summary() says {said}; let them agree"
            )


def _load(
    source: Source, preprocess: Preprocess, section: DataSection, summary: Summary, *, pictures: Sequence[Path],
    cache: Path | None, events: Events,
) -> Dataset:  # fmt: skip
    """Return the data set, its images where the recipe wants them, with pictures without labels behind the training split."""
    encoded = getattr(source, "load_encoded", None)
    chosen = choose_place(
        section.storage, images=summary.train_images + summary.test_images + len(pictures), height=preprocess.height,
        width=preprocess.width, depth=preprocess.depth, can_stream=encoded is not None and cache is not None,
    )  # fmt: skip
    events.emit("images", **chosen._asdict())
    if chosen.place == "disk" and encoded is not None and cache is not None:
        events.say(f"data: {chosen}")
        whole = add_unlabelled(encoded(), pictures) if pictures else encoded()
        return decode_to_disk(whole, preprocess, cache, events, skip_unreadable=section.skip_unreadable)
    if encoded is None:
        dataset = source.load(preprocess)
        if not pictures:
            return dataset
        further = decode_to_memory(make_unlabelled(pictures), preprocess, events, skip_unreadable=section.skip_unreadable)
        return dataset._replace(train=join_splits(dataset.train, further.train))
    whole = add_unlabelled(encoded(), pictures) if pictures else encoded()
    return decode_to_memory(whole, preprocess, events, skip_unreadable=section.skip_unreadable)
