"""`int8.json`: accuracy, size and speed of our int8 files, and of those that other quantizers make by their defaults."""

from __future__ import annotations

from typing import Literal

import numpy as np

from compress.records import Accuracy, Document, Environment, Latency, Precision, Ratio, Record
from compress.statistics.paired import Correct, Verdict, compute_interval_over_images_and_seeds

OURS = "edge-compress"


class Points(Record):
    """Top-1 of one file minus that of another, in points, on the same test images."""

    points: float
    ci95: tuple[float, float]
    """Bootstrap over the images, paired."""
    only_this: int
    """Images that only the first file gets right."""
    only_other: int

    @property
    def verdict(self) -> Verdict:
        """What the interval allows to say of the first file."""
        low, high = self.ci95
        return "better" if low > 0 else "worse" if high < 0 else "not distinguishable"


def compare_correct(this: Correct, other: Correct) -> Points:
    """Return what one file gets right minus what another does, from the images that each gets right, [N]."""
    return Points(
        points=100 * float(this.mean() - other.mean()),
        ci95=compute_interval_over_images_and_seeds((this.astype(np.int8) - other.astype(np.int8))[None]),
        only_this=int((this & ~other).sum()),
        only_other=int((other & ~this).sum()),
    )


class Row(Record):
    """One file of one network."""

    name: str
    """Unique among the files of the network."""
    format: str
    runtime: str
    precision: Precision
    made_by: str
    """`edge-compress`, or whose defaults."""
    status: Literal["passed", "failed", "not gated"]
    """Of the gate, on the validation split; `failed` as well where no file could be made or run."""
    reason: str = ""
    """Why it failed."""
    accuracy: Accuracy | None = None
    """On the test split; so are the next three."""
    to_float: Points | None = None
    """Against the same network in float32 on the same runtime."""
    to_defaults: Points | None = None
    """Of an int8 file of ours: against the one by the defaults of others."""
    agreement_percent: float | None = None
    """Share of the images with the class of the same network in float32 on the same runtime."""
    size_bytes: int | None = None
    latency_ms: Latency | None = None
    ratio: Ratio | None = None
    """Speed against the same network in float32, from the same interleaved rounds."""
    rung: str = ""
    """Of an int8 file of ours: the rung of the ladder that it is from; empty where none met the gate."""
    detail: str = ""
    """What was done on that rung."""
    tries: int = 0
    """Files that the ladder made."""
    seconds: float | None = None
    """Of ours: export and proof, in int8 with all rungs but without training; of the others: quantizing alone."""
    ladder_seconds: float | None = None
    """All rungs, with the training of the last where it was reached."""


class Session(Record):
    """Files of one network that were measured together."""

    rows: tuple[Row, ...]
    """Float32 first."""
    notes: tuple[str, ...] = ()
    rounds: int
    seconds: float
    """For timing all files of one runtime."""
    environment: Environment
    """Where these rows were measured."""
    vnni: bool
    """Whether that processor has VNNI; x86 without it adds int8 products in 16 bits, where they can saturate."""


class Network(Session):
    """One finished run, with the files that it exported itself."""

    name: str
    """Folder of its report beside this file."""
    recipe: str
    student: str
    parameters: int
    seed: int
    images: dict[str, int]
    """In each split."""
    test_key: str
    calibration_images: int
    calibration_key: str
    """sha256 of the calibration images; ours and the defaults of others saw the same."""
    max_top1_drop_points: float
    """The gate's budget."""
    further: tuple[Session, ...] = ()
    """Files of one format each that `compress export` made later, where the packages of that format are."""


class Int8(Document):
    """The whole table."""

    command: str
    networks: tuple[Network, ...]


class Group(Record):
    """Result of one test over all its cases."""

    test: str
    what: str
    """Its docstring."""
    cases: int
    right: int
    """Damages that were caught, or good files that were accepted."""


class Sabotage(Document):
    """`sabotage.json`: damaged files and manifests, and good ones."""

    command: str
    damages: tuple[Group, ...]
    good: tuple[Group, ...]
    seconds: float
    environment: Environment
