"""Look at a folder of pictures that somebody wants to train on, and propose what fits it: size, networks, schedule, budget."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any, NamedTuple

from compress import plugins
from compress.data import Findings, Summary, examine_pictures, list_names
from compress.errors import CompressError
from compress.events import Events
from compress.plan.data import MOST_DROPPED, choose_batch_size
from compress.preprocess import FULL_WHITE
from compress.records import Preprocess
from compress.statistics.paired_drop import compute_drop_interval, count_images_needed
from compress.text import quantify

MOST_BYTES = 256 << 20
"""Of files that are looked at."""
FEWEST_PICTURES, FEWEST_OF_A_CLASS = 40, 5
"""Fewer cannot be trained, chosen by and tested on."""
UNEVEN = 5
"""How many times more pictures the largest class has than the smallest before it is worth a word."""
SMALL_PIXELS, LARGE_PIXELS = 48, 128
"""Up to here pictures are for networks made for CIFAR, and from here on for those made for photographs."""
MANY_PICTURES = 5000
STEPS = 4000
"""Of training that a starter recipe aims at."""
LEARNING_RATE = 0.05
"""At which our committed results with SGD were made; at 0.1 kd, dist and dskd lay below plain training (docs/LOG.md)."""
BUDGET_POINTS, MOST_BUDGET_POINTS = 1.0, 5.0
"""Of top-1 that a file may lose: the wish, and the most where there are few validation images."""


class Survey(NamedTuple):
    """What was seen of a folder."""

    source: str
    """Which data source reads it."""
    options: Mapping[str, Any]
    """Of the source, beyond its path."""
    summary: Summary
    findings: Findings

    @property
    def is_gray(self) -> bool:
        """Whether hardly a picture has colours."""
        return self.findings.coloured <= 0.01 * max(len(self.findings.sizes), 1)

    @property
    def shorter_side(self) -> float:
        """The median of the shorter sides, in pixels."""
        return median(min(size) for size in self.findings.sizes)


class Proposal(NamedTuple):
    """What fits the pictures."""

    image_size: int
    teacher: str
    student: str
    output_stride: int | None
    """Option of both networks; `None` where they have none, or need none."""
    validation_fraction: float
    batch_size: int
    epochs: int
    lr: float
    budget_points: float
    """Points of top-1 that a file may lose, of which the validation images can show that it does not."""


def survey_folder(folder: Path, events: Events | None = None, *, parquet: Mapping[str, str] = MappingProxyType({})) -> Survey:
    """Look at the pictures of a folder.

    Args:
        folder: Of class folders, with or without splits, or of parquet files.
        events: Where progress goes.
        parquet: Options of parquet files: their subset, and their label column.

    Raises:
        CompressError: It holds no data that can be read as it is, or too few pictures; the message says what is missing.
        Unreachable: It is not there, or cannot be read.
    """
    is_parquet = any(not any(part.startswith(".") for part in path.parts) for path in _find_parquet(folder))
    if parquet and not is_parquet:
        raise CompressError(f"{folder}: holds no parquet files, which alone have a {' or '.join(parquet)}; leave it out")
    name = "huggingface" if is_parquet else "folder"
    source = plugins.load("data", name)(path=str(folder), **parquet)
    summary = source.summary()
    _refuse_few(folder, summary)
    preprocess = Preprocess(height=16, width=16, channels="rgb", mean=(0.0,), std=(1.0,), white_level=2**31 - 1)
    findings = examine_pictures(source.load_encoded(), preprocess, most_bytes=MOST_BYTES, events=events)
    if not findings.sizes:
        findings.refuse_unreadable()
    if any(findings.describe_levels()):  # their colours show between the levels that occur only
        preprocess = preprocess.model_copy(update={"white_level": FULL_WHITE, **findings.propose_levels()})
        findings = examine_pictures(source.load_encoded(), preprocess, most_bytes=MOST_BYTES, events=events)
    return Survey(name, {**parquet, **dict(_choose_options(findings, summary))}, summary, findings)


def _find_parquet(folder: Path) -> Iterator[Path]:
    return (path.relative_to(folder) for path in folder.rglob("*.parquet"))


def _choose_options(findings: Findings, summary: Summary) -> Iterator[tuple[str, Any]]:
    if any("no test split is there" in note for note in summary.notes):
        yield "test_fraction", 0.2
    yield from findings.propose_levels().items()
    if findings.unreadable:
        yield "skip_unreadable", True


def _refuse_few(folder: Path, summary: Summary) -> None:
    """Refuse a folder in which there is too little to train, to choose by and to test on.

    Raises:
        CompressError: The message says how many there are, and how many would do.
    """
    counts = count_of_classes(summary)
    total = summary.train_images + summary.test_images
    few = [name for name, count in counts.items() if 0 < count < FEWEST_OF_A_CLASS]
    if total < FEWEST_PICTURES or few:
        which = f"; fewer than {FEWEST_OF_A_CLASS} are of {list_names(few)}" if few else ""
        raise CompressError(
            f"{folder}: has {quantify(total, 'picture')} in {len(counts)} classes{which}: too few to train, to choose by and "
            "to test on; about 20 of each class are the least, and some hundreds make a useful model: add pictures"
        )


def count_of_classes(summary: Summary) -> dict[str, int]:
    """Return how many pictures each class has in both splits; nothing where the source does not tell."""
    if summary.train_counts is None or summary.test_counts is None:
        return {}
    return {
        name: train + test for name, train, test in zip(summary.classes, summary.train_counts, summary.test_counts, strict=True)
    }


def propose(found: Survey) -> Proposal:
    """Return what fits the pictures that were seen."""
    size, teacher, student, stride = _choose_networks(found)
    fraction = _choose_validation_fraction(found.summary)
    validation = math.ceil(found.summary.train_images * fraction)
    train = found.summary.train_images - validation
    wanted = min(64, max(8, train // 4))
    batch = wanted if train % wanted < MOST_DROPPED * train else choose_batch_size(wanted, train)
    epochs = min(max(round(STEPS / max(train // batch, 1) / 10) * 10, 20), 100)
    most = compute_drop_interval(0, 0, validation)[1]
    budget = min(max(BUDGET_POINTS, math.ceil(2 * most) / 2), MOST_BUDGET_POINTS)
    return Proposal(size, teacher, student, stride, fraction, batch, epochs, LEARNING_RATE, budget)


def _choose_networks(found: Survey) -> tuple[int, str, str, int | None]:
    """Return image size, teacher, student, and their stride."""
    side = found.shorter_side
    if side <= SMALL_PIXELS:
        return max(8, 4 * round(side / 4)), "resnet_cifar.resnet32", "resnet_cifar.resnet8", None
    if side < LARGE_PIXELS:
        return 64, "torchvision.resnet18", "torchvision.mobilenet_v3_small", 16
    many = found.summary.train_images >= MANY_PICTURES and side >= 160
    return 160 if many else 128, "torchvision.resnet18", "torchvision.mobilenet_v3_small", 32


def _choose_validation_fraction(summary: Summary) -> float:
    """Return a share that gives the gate what it needs, if a fifth does, and every class an image on both sides."""
    needed = count_images_needed(0, 0, 1, BUDGET_POINTS) or 0
    share = min(max(needed / summary.train_images, 0.1), 0.2)
    smallest = min((count for count in summary.train_counts or () if count), default=0)
    if smallest:
        share = max(share, min(1.5 / smallest, 0.4))
    return math.ceil(100 * share) / 100


def describe_survey(found: Survey) -> Iterator[str]:
    """Yield what was seen, a sentence each."""
    summary, findings = found.summary, found.findings
    counts = [count for count in count_of_classes(summary).values() if count]
    total = summary.train_images + summary.test_images
    each = f", {' to '.join(dict.fromkeys((str(min(counts)), str(max(counts)))))} of each" if counts else ""
    yield f"{total:,} pictures in {len(summary.classes)} classes{each}; {summary.test_images:,} of them are the test split."
    widths, heights = zip(*findings.sizes, strict=True)
    colours = "gray" if found.is_gray else "in colour"
    sizes = f"{min(widths)} × {min(heights)} to {max(widths)} × {max(heights)}"
    same = len(set(findings.sizes)) == 1
    yield (
        f"They are {colours} and have {widths[0]} × {heights[0]} pixels."
        if same
        else f"They are {colours} and have {sizes} pixels, at the median {median(widths):g} × {median(heights):g}."
    )
    if counts and max(counts) >= UNEVEN * min(counts):
        yield "Classes are uneven: top-1 says little of the rare ones; look at the report's figures of each class."
    if findings.looked_at < total:
        yield f"{findings.looked_at:,} of them were looked at, evenly over the set."
    if findings.unreadable:
        count = quantify(len(findings.unreadable), "picture")
        yield f"{count} cannot be read and would be left out, the first: {findings.unreadable[0]}"
    yield from findings.describe_levels()
    yield from (f"Note: {note}." for note in summary.notes)
