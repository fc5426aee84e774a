"""Everything that is written to disk: typed and versioned.

Records are frozen pydantic types; `save` and `read` move them to and from JSON. Imports neither torch nor numpy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from compress.errors import CompressError, Unreachable
from compress.statistics.proportions import wilson_interval
from compress.system.files import whole

SCHEMA_VERSION: Literal[2] = 2

Status = Literal["passed", "failed", "skipped"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]


class Record(BaseModel):
    """A frozen part of a file; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Document(Record):
    """A whole file."""

    schema_version: Literal[2] = SCHEMA_VERSION


class Preprocess(Record):
    """The one contract of what happens to an image before the network sees it (`compress.preprocess` carries it out).

    The image is decoded to `channels`, resized to exactly `height` × `width` with Pillow's `interpolation` where its size
    differs, and normalised as `(value / 255 - mean) / std` in float32.
    """

    height: int
    width: int
    channels: Literal["gray", "rgb"]
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Accuracy(Record):
    """Top-1 accuracy with what is needed to judge it."""

    top1_percent: float
    samples: int
    ci95: tuple[float, float]
    """Wilson interval, in percent."""

    @classmethod
    def of(cls, correct: int, samples: int) -> Self:
        """Return the accuracy of `correct` hits among `samples` images, with its 95 % Wilson interval.

        Raises:
            CompressError: There are no images, or more hits than images.
        """
        low, high = wilson_interval(correct, samples)
        return cls(top1_percent=100 * correct / samples, samples=samples, ci95=(100 * low, 100 * high))


class Latency(Record):
    """Time per call of one file, from interleaved rounds."""

    p50: float
    """Median of all calls, milliseconds; so are the fields below."""
    p90: float
    p99: float
    mean: float
    stdev: float
    ci95: tuple[float, float]
    """Bootstrap interval of the median over rounds."""
    samples: int
    """Timed calls."""
    rounds: tuple[float, ...]
    """Median of each interleaved round, in order."""
    first_call: float
    """The first inference after loading."""
    load: float
    """Loading and compiling the file."""
    threads: int
    batch_size: int
    stable: bool
    """Whether warm-up settled and the rounds agree."""


class Ratio(Record):
    """How many times faster a file is than the one it is compared with, from the same interleaved rounds."""

    against: str
    """Name of the slower or faster other."""
    speedup: float
    """Median over rounds of other / this; above 1 this one is faster."""
    ci95: tuple[float, float]
    """Bootstrap interval."""
    verdict: Literal["faster", "slower", "not distinguishable", "unstable"]


class Gate(Record):
    """How an exported file did on its own runtime, on held-out images, against the torch network it came from."""

    status: Status
    reason: str
    """Why it failed; empty when it passed."""
    samples: int
    accuracy: Accuracy | None = None
    """Of the file on these images."""
    agreement_percent: float | None = None
    max_abs_diff: float | None = None
    top1_drop_points: float | None = None
    """Below 0 where the file is better."""
    drop_ci95: tuple[float, float] | None = None
    """Interval of the drop in points, paired: from the images on which only the network, or only the file, is right."""
    note: str = ""
    """What a reader must know beside the verdict: what so few images cannot tell, what was not seen, what came near a limit."""
    worst_images: tuple[int, ...] = ()
    """Indices in the validation split of the images whose logits differ most."""


class Sensitivity(Record):
    """What becomes of the answers when one layer alone is quantized."""

    layer: str
    relative_difference: float
    """Root mean square of the difference of the logits over that of the logits, on validation images."""
    agreement_percent: float


class Rung(Record):
    """One try to make an int8 file that meets the gate."""

    rung: Literal["default", "statistics", "saturation", "mixed", "distillation"]
    detail: str
    """What was done: which statistics, which layers stay in floating point."""
    status: Status
    reason: str = ""
    """Why it failed or was skipped."""
    validation: Accuracy | None = None
    agreement_percent: float | None = None
    """On the validation split, with the network in float32."""
    top1_drop_points: float | None = None
    """On the validation split, against the network in float32."""
    size_bytes: int | None = None
    speedup: Ratio | None = None
    """Against the same network as a float32 file of this format, interleaved."""
    seconds: float
    """Making and proving it."""
    kept: tuple[str, ...] = ()
    """Layers that stay in floating point."""


class Ladder(Record):
    """How an int8 file came about. Every choice was made on the validation split."""

    rungs: tuple[Rung, ...]
    """In the order in which they were tried."""
    chosen: int | None
    """Number of the one that was taken, from 0; none where all failed."""
    sensitivity: tuple[Sensitivity, ...] = ()
    """Worst layer first; empty where it was not needed."""
    calibration_images: int
    note: str = ""


class Variant(Record):
    """One row of the report: a network as a file on a runtime at a precision on a device."""

    name: str
    """Unique in the report."""
    network: str
    """`teacher`, `student`, or a baseline's name."""
    method: str
    """How it was trained, for example `dih(dist)`, `kd`, `supervised`."""
    format: str
    """`torch` or the export format."""
    runtime: str
    precision: Precision
    device: str
    size_bytes: int | None = None
    parameters: int
    macs: int | None = None
    """Multiply-accumulates for one image."""
    accuracy: Accuracy | None = None
    """On the test split."""
    validation: Accuracy | None = None
    """On the validation split."""
    agreement_percent: float | None = None
    """Share of test images with the top-1 class of the torch network."""
    max_abs_diff: float | None = None
    """Largest difference of any logit to the torch network, on the test split."""
    latency_ms: Latency | None = None
    throughput_per_s: float | None = None
    """Images per second at `measure.throughput_batch_size`."""
    ratio: Ratio | None = None
    peak_memory_bytes: int | None = None
    """Peak resident memory of a process that runs only this file."""
    effective: dict[str, str] = {}
    """What the runtime says that it really did: provider, inference precision, threads."""
    ladder: Ladder | None = None
    """How it became int8."""
    seconds: float | None = None
    """Making and proving the file when that was done, without training; none where nothing was made."""
    status: Status
    reason: str = ""


class Epoch(Record):
    """What one epoch of one stage gave."""

    stage: str
    epoch: int
    """From 1."""
    lr: float
    losses: dict[str, float]
    """Mean over the epoch of every weighted loss term, and `total`."""
    observed: dict[str, float] = {}
    """Mean over the epoch of what a method watches beside its losses, such as weights of layers."""
    validation_top1_percent: float | None = None
    seconds: float
    waiting_seconds: float = 0.0
    """Of these, spent waiting for images."""
    teaching_seconds: float = 0.0
    """Of these, spent on answers of frozen teachers: computed, written or read."""


class Analysis(Record):
    """A table about a finished stage."""

    title: str
    note: str = ""
    """What is shown, on which images, and how to read it."""
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class EngineTrial(Record):
    """How one engine ran a network in a short trial, a teacher or what is trained, against torch in eager float32."""

    engine: str
    ms_per_batch: float
    """Median of a few interleaved runs, or one where one engine was tried; of what is trained, forward and backward."""
    relative_difference: float
    """Root mean square of the difference of any answer over that of the answer; of what is trained, of the gradients."""
    max_logit_difference: float | None = None
    agreement_percent: float | None = None
    """Share of predictions with the same top-1 class."""


class EngineTrials(Document):
    """What a trial found, the chosen engine first."""

    trials: tuple[EngineTrial, ...]


class Teaching(Record):
    """How the answers of frozen teachers came to one stage."""

    images: str = "training"
    """Which images were answered: training or held-out."""
    signals: tuple[str, ...]
    """What was read: logits, maps of taps, outputs of heads."""
    engine: str
    trials: tuple[EngineTrial, ...] = ()
    store: str
    """`kept`, or why answers were not kept."""
    precision: Literal["fp16", "fp32"] | None = None
    views: int = 0
    """Augmented views that the epochs show, whose answers were in the store when they were read."""
    views_made: int = 0
    """How many this stage had to compute; the others were there. Kept one at a time, a view that recurs is computed again."""
    bytes_per_image: int = 0
    """On disk, for each image and view."""
    max_abs_error: float = 0.0
    """Largest difference that rounding to `precision` made to any answer."""
    seconds: float = 0.0
    """Spent computing and writing."""


class StageResult(Document):
    """`metrics.json` of a finished stage; written last, so a stage that has it is whole."""

    stage: str
    key: str
    """sha256 over everything that can change the result."""
    method: str
    parameters: int
    macs: int | None = None
    best_epoch: int | None = None
    validation: Accuracy | None = None
    members: dict[str, Accuracy] = {}
    """Validation accuracy of auxiliary members, for example the heads of a cohort."""
    analyses: tuple[Analysis, ...] = ()
    engine: str = "eager"
    """What ran the network in training steps."""
    engine_trials: tuple[EngineTrial, ...] = ()
    """What was tried for that, the chosen engine first; empty where the recipe leaves it at eager."""
    teaching: tuple[Teaching, ...] = ()
    """For the training images, and for the held-out ones where validation asks teachers; empty where none was asked."""
    epochs: tuple[Epoch, ...] = ()
    seconds: float
    files: dict[str, str]
    """sha256 of each file of the stage."""


class Environment(Document):
    """Where numbers were made."""

    packages: dict[str, str]
    python: str
    platform: str
    cpu: str
    cores_physical: int | None
    cores_logical: int
    memory_bytes: int
    facts: dict[str, str] = {}
    """Governor, turbo, temperature, cgroup quota, affinity, load, hypervisor: what could be read, `unavailable` where not."""


class Score(Record):
    """One trained network on the test images, as torch runs it in float32."""

    seed: int
    """Of the student; a teacher has the recipe's."""
    validation: Accuracy
    accuracy: Accuracy
    """On the test split."""
    correct: str
    """One bit for each test image in order, 1 where the top-1 class is right: eight to a byte, the first in the highest bit,
    the last byte filled with 0, base64."""


class Scores(Record):
    """One way of training, over its seeds."""

    network: str
    """`teacher`, `student`, or a baseline's name."""
    method: str
    seeds: tuple[Score, ...]
    """The first is what was exported, gated and timed."""


class McNemar(Record):
    """The images on which two networks are not both right or both wrong, and the exact test that neither is better on them."""

    seed: int
    other_seed: int
    only_this: int
    """Images that only this network gets right."""
    only_other: int
    p_value: float
    """Two-sided."""


class Paired(Record):
    """Top-1 of one way of training minus that of another, in points."""

    this: str
    other: str
    pairing: Literal["images and seeds", "images", "none"]
    """`none`: the two were not tested on the same images, or it is not known on which of them they were right."""
    seeds: int
    """Pairs of networks: each of this with the one of the other that has the same seed, or else the same place."""
    images: int
    points: float
    """Mean over the pairs."""
    ci95: tuple[float, float]
    """Bootstrap over images and seeds; where there is no pairing, from two Wilson intervals (Newcombe's hybrid score)."""
    ci95_over_seeds: tuple[float, float] | None = None
    """Student's t over the differences of the pairs: these images, other seeds. `None` with one pair."""
    mcnemar: tuple[McNemar, ...] = ()
    """For each pair: these two networks, other images."""
    verdict: Literal["better", "worse", "not distinguishable"]
    """Whether this is better: both intervals are on one side of 0; with one pair, `ci95` is and McNemar's p is below 0.05."""
    note: str = ""
    """Why nothing is paired."""


class Report(Document):
    """`report.json`: the whole run, for machines; `report.md` and `report.html` show the same."""

    name: str
    recipe: dict[str, Any]
    status: Status
    created: str
    """ISO 8601, UTC."""
    seconds: float
    """Training, export, proof and measurement, each counted as when it was made."""
    classes: tuple[str, ...]
    images: dict[str, int]
    """Images in each split."""
    variants: tuple[Variant, ...]
    gates: dict[str, Gate]
    """By the variant's name."""
    stages: tuple[StageResult, ...]
    environment: Environment
    notes: tuple[str, ...] = ()
    """What a reader must know to judge the numbers."""
    warnings: tuple[str, ...] = ()
    """Why the files may be of no use although they are what was trained."""
    test_key: str = ""
    """sha256 of test images and labels; what was tested on the same can be compared image by image."""
    scores: tuple[Scores, ...] = ()
    """Teachers, student and baselines, over all seeds."""
    paired: tuple[Paired, ...] = ()
    """The student against baselines and teachers, and other baselines against plain distillation."""


class BundleFile(Record):
    """One model file of a bundle."""

    path: str
    """Relative to the bundle; the file that the runtime opens."""
    parts: dict[str, str]
    """sha256 of every file that belongs to it, `path` included."""
    format: str
    runtime: str
    precision: Precision
    size_bytes: int
    batch_size: int | None = None
    """The only number of images that the file takes in a call; `None` takes any."""
    takes_pixels: bool = False
    """Whether the file carries the preprocessing, and so takes uint8 [batch, height, width, channels]."""
    gives_class: bool = False
    """Whether the file also gives, behind the logits, `class`, int64 [batch] (LiteRT: int32), which logit is the largest,
    and `score`, float32 [batch], its share of the softmax."""
    gate: Gate
    logits: str = "logits"
    """Name in the samples of what the network answers from which the file was made; another than the shipped one where it was
    adapted to int8."""
    measured: Variant | None = None
    """What was measured where the file was made; `compress verify` and `compress bench` measure anew."""


class Manifest(Document):
    """`manifest.json` of a bundle: all that a device needs to know."""

    name: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    input: str = "images"
    """Name of the input: float32 [batch, channels, height, width], normalised; where the file carries the preprocessing uint8
    [batch, height, width, channels]."""
    output: str = "logits"
    """Name of the output: float32 [batch, classes]."""
    files: tuple[BundleFile, ...]
    gate: dict[str, float | None]
    """What the files were held to; fields of the recipe's section `gate`."""
    samples: str
    """npz with `images` uint8 [N, H, W, C], `labels` int64 [N], `logits` float32 [N, classes] of the torch network."""
    samples_sha256: str
    provenance: dict[str, str]
    """Recipe, weights and package versions."""


class Exported(Document):
    """`FILE.json` beside a file that `compress export` wrote: what is known of it."""

    file: BundleFile
    """Paths are relative to this record; what failed its gate lies in `rejected`."""
    weights_sha256: str
    """Of the shipped student, from which it was made or adapted."""
    environment: Environment
    """Where it was made and proved."""


R = TypeVar("R", bound=BaseModel)


def save(path: Path, record: BaseModel) -> None:
    """Write a record as JSON, whole or not at all.

    Raises:
        Unreachable: The disk is full or the folder cannot be written.
    """
    with whole(path) as temporary:
        temporary.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read(path: Path, kind: type[R]) -> R:
    """Read a record.

    Raises:
        Unreachable: There is no such file, or it cannot be read.
        CompressError: The file is not a record of this kind and version.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise Unreachable(f"{path}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"] == ("schema_version",) and isinstance(first["input"], int):
            raise CompressError(
                f"{path}: has schema version {first['input']}, and this edge-compress reads {SCHEMA_VERSION}; make it "
                "again with `compress run` or `compress export`, or read it with the version that wrote it"
            ) from error
        place = ".".join(str(part) for part in first["loc"]) or "document"
        message = f"{path}: is not a {kind.__name__} of schema version {SCHEMA_VERSION}: {place}: {first['msg']}; make it again"
        raise CompressError(message) from error


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile with linear interpolation between the closest ranks."""
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)
