"""`report.json`: gates, int8 ladders, and one row for each file that a run made."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from compress.records.base import (
    Count,
    Document,
    Factor,
    Figure,
    Percent,
    Png,
    Precision,
    Record,
    Seconds,
    Status,
    rename_field,
)
from compress.records.headline import Headline
from compress.records.metrics import Accuracy, Calibration, Paired, Scores
from compress.records.timing import Energy, Environment, Latency, Ratio
from compress.records.training import StageResult


class Gate(Record):
    """Verdict on an exported file, run on its own runtime on held-out images, against the torch network it came from."""

    status: Status
    reason: str
    """Why it failed; empty when it passed."""
    samples: Count
    accuracy: Accuracy | None = None
    """Of the file on these images."""
    agreement_percent: Percent | None = None
    max_abs_diff: Figure | None = None
    top1_drop_points: Figure | None = None
    """Below 0 where the file is better."""
    relative_rms: Figure | None = None
    """RMS of all differences of logits over that of the logits; of tasks other than classification."""
    metric: str = "top1"
    """What the budget of the drop is about: `top1`, `balanced_accuracy`, or the metric of another task."""
    task_drop_points: Figure | None = None
    """Drop of the metric of a task other than classification; below 0 where the file is better."""
    balanced_drop_points: Figure | None = None
    """Drop of the balanced accuracy, where that is the metric; below 0 where the file is better."""
    drop_ci95: tuple[Figure, Figure] | None = None
    """Interval of the drop of `metric` in points, paired: from the images on which only the network, or only the file, is
    right."""
    note: str = ""
    """Limits of the verdict: a drop that so few images cannot exclude, what was not checked, what came near a bound."""
    worst_images: tuple[int, ...] = ()
    """Indices in the validation split of the images whose logits differ most."""

    @property
    def drop_points(self) -> float | None:
        """The drop that the budget is about."""
        known = {"top1": self.top1_drop_points, "balanced_accuracy": self.balanced_drop_points}
        return known.get(self.metric, self.task_drop_points)


class Sensitivity(Record):
    """Change of the outputs when one layer alone is quantized."""

    layer: str
    relative_difference: Figure
    """Root mean square of the difference of the logits over that of the logits, on validation images."""
    agreement_percent: Percent


class Rung(Record):
    """One try to make an int8 file that meets the gate."""

    rung: Literal["default", "statistics", "saturation", "mixed", "distillation"]
    detail: str
    """What was done: which statistics, which layers stay in floating point."""
    status: Status
    reason: str = ""
    """Why it failed or was skipped."""
    validation: Accuracy | None = None
    agreement_percent: Percent | None = None
    """On the validation split, with the network in float32."""
    drop_points: Figure | None = None
    """Of the metric on the validation split, against the network in float32."""
    size_bytes: Count | None = None
    speedup: Ratio | None = None
    """Against the same network as a float32 file of this format, interleaved."""
    seconds: Seconds
    """Making and proving it."""
    float_layers: tuple[str, ...] = ()
    """Layers that stay in floating point."""

    @model_validator(mode="before")
    @classmethod
    def _read_old_names(cls, content: Any) -> Any:
        """Read what was written when classification was the only task."""
        return rename_field(content, "top1_drop_points", "drop_points")


class Ladder(Record):
    """Record of the search for an int8 file. Every choice was made on the validation split."""

    rungs: tuple[Rung, ...]
    """In the order in which they were tried."""
    chosen: Count | None
    """Number of the chosen one, from 0; none where all failed."""
    sensitivity: tuple[Sensitivity, ...] = ()
    """Worst layer first; empty where it was not needed."""
    calibration_images: Count
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
    size_bytes: Count | None = None
    parameters: Count
    macs: Count | None = None
    """Multiply-accumulates for one image."""
    accuracy: Accuracy | None = None
    """On the test split."""
    validation: Accuracy | None = None
    """On the validation split."""
    calibration: Calibration | None = None
    """On the test split; `None` in older records."""
    agreement_percent: Percent | None = None
    """Share of test images with the top-1 class of the torch network."""
    max_abs_diff: Figure | None = None
    """Largest difference of any logit to the torch network, on the test split."""
    latency_ms: Latency | None = None
    throughput_per_s: Factor | None = None
    """Images per second at `measure.throughput_batch_size`."""
    ratio: Ratio | None = None
    energy: Energy | None = None
    """Of a call at `measure.batch_size`, where `measure.energy` asks for it."""
    peak_memory_bytes: Count | None = None
    """Peak resident memory of a process that runs only this file."""
    effective: dict[str, str] = Field(default_factory=dict)
    """What really ran, as the runtime reports it: provider, inference precision, threads."""
    ladder: Ladder | None = None
    """How it became int8."""
    tallies: str = ""
    """Of other tasks than classification, as in `SeedScore`."""
    correct: str = ""
    """One bit for each test image, 1 where its top-1 class is right, as in `SeedScore`; empty where it was not kept."""
    seconds: Seconds | None = None
    """Making and proving the file when that was done, without training; none where nothing was made."""
    status: Status
    reason: str = ""


class WorstImage(Record):
    """A test image that the student answers badly, drawn: PNG in base64, each no larger than some hundred pixels."""

    image: Count
    """Number in the test split, from 0."""
    percent: Figure
    """The metric of this image alone."""
    picture: Png
    truth: Png
    """The labels over the picture, and below, the student's answer."""
    answer: Png


class HostComparison(Record):
    """What a file answered on a device, beside what it answered on this machine for the same images."""

    samples: Count
    """Validation images; the gate on the device was about them, too."""
    agreement_percent: Percent
    """Share of them with the same top-1 class."""
    max_abs_diff: Figure
    """Largest difference of a logit."""
    only_here: Count | None = None
    """Test images that are right on this machine only, and below, on the device only; `None` where that was not kept."""
    only_there: Count | None = None
    p_value: Figure | None = None
    """McNemar's, two-sided: that neither is better on such images."""


class DeviceResults(Record):
    """What a device beside this machine gave; its rows are called as those of this machine, with which they are not ranked."""

    name: str
    emulated: bool = False
    """Whether it is emulated: answers are those of the real runtimes, and nothing is timed."""
    status: Literal["passed", "failed", "unreachable", "brought"]
    """`brought`: somebody carried here what the bundle's `bench.py` wrote there; it was timed, and not judged."""
    reason: str = ""
    """Why it failed or could not be reached, and what could not be done there."""
    rows: tuple[Variant, ...] = ()
    """Accuracy is on as many test images as it says."""
    gates: dict[str, Gate] = Field(default_factory=dict)
    """By the variant's name."""
    beside_host: dict[str, HostComparison] = Field(default_factory=dict)
    """By the variant's name."""
    environment: Environment | None = None
    """The device, as the runner read it there."""
    notes: tuple[str, ...] = ()
    """What was left out there, and why."""
    seconds: Seconds = 0.0
    """How long all of it took when it was done."""


class Report(Document):
    """`report.json`: the whole run, for machines; `report.md` and `report.html` show the same."""

    name: str
    recipe: dict[str, Any]
    status: Status
    created: str
    """ISO 8601, UTC."""
    seconds: Seconds
    """Training, export, proof and measurement, each counted as when it was made."""
    classes: tuple[str, ...]
    images: dict[str, Count]
    """Images in each split."""
    headline: Headline | None = None
    """The answers with which all accounts of the run begin; `None` before it is written, and in older reports."""
    task: str = "classification"
    """What the networks are for."""
    variants: tuple[Variant, ...]
    gates: dict[str, Gate]
    """By the variant's name."""
    stages: tuple[StageResult, ...]
    environment: Environment
    devices: tuple[DeviceResults, ...] = ()
    """Those beside this machine, in the recipe's order."""
    notes: tuple[str, ...] = ()
    """What a reader must know to judge the numbers."""
    warnings: tuple[str, ...] = ()
    """Why the files may be of no use although they are what was trained."""
    worst: tuple[WorstImage, ...] = ()
    """What the student that is shipped answers worst, as torch runs it; of tasks whose answers can be drawn."""
    test_key: str = ""
    """sha256 of test images and labels; what was tested on the same can be compared image by image."""
    scores: tuple[Scores, ...] = ()
    """Teachers, student and baselines, over all seeds."""
    paired: tuple[Paired, ...] = ()
    """The student against baselines and teachers, and other baselines against plain distillation."""
