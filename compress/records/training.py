"""Results of a training stage: epochs, engines, teacher outputs, and the files that the stage left."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from compress.records.base import Count, Document, Factor, Figure, Percent, Record, Seconds, rename_field
from compress.records.metrics import Accuracy

WEIGHTS, METRICS = "weights.safetensors", "metrics.json"
"""Files of a finished stage."""


class Epoch(Record):
    """What one epoch of one stage gave."""

    stage: str
    epoch: Count
    """From 1."""
    lr: Figure
    losses: dict[str, Figure]
    """Mean over the epoch of every weighted loss term, and `total`."""
    observed: dict[str, Figure] = Field(default_factory=dict)
    """Mean over the epoch of what a method watches beside its losses, such as weights of layers."""
    validation_percent: Percent | None = None
    """The task's metric on the validation split."""
    validation_balanced_percent: Percent | None = None
    """Balanced accuracy: the mean of the classes' recalls."""
    seconds: Seconds
    waiting_seconds: Seconds = 0.0
    """Of these, spent waiting for images."""
    teacher_seconds: Seconds = 0.0
    """Of these, spent on outputs of frozen teachers: computed, written or read."""

    @model_validator(mode="before")
    @classmethod
    def _read_old_names(cls, content: Any) -> Any:
        """Read what was written when classification was the only task."""
        return rename_field(content, "validation_top1_percent", "validation_percent")


class Analysis(Record):
    """A table about a finished stage."""

    title: str
    note: str = ""
    """What is shown, on which images, and how to read it."""
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


NOT_FINITE = 1e30
"""Stands for a difference that is not finite, since a record holds only numbers that can be drawn."""


class EngineTrial(Record):
    """How one engine ran a network in a short trial, a teacher or what is trained, against torch in eager float32."""

    engine: str
    ms_per_batch: Figure
    """Median of a few interleaved runs, or one where one engine was tried; of what is trained, forward and backward."""
    relative_difference: Figure
    """Root mean square of the difference of any output over that of the output; of what is trained, of the gradients."""
    max_logit_difference: Figure | None = None
    agreement_percent: Percent | None = None
    """Share of predictions with the same top-1 class."""


class EngineTrials(Document):
    """What a trial found, the chosen engine first."""

    trials: tuple[EngineTrial, ...]


class TeacherOutputsResult(Record):
    """How one stage obtained the outputs of its frozen teachers."""

    images: str = "training"
    """Images that the teachers saw: training or held-out."""
    signals: tuple[str, ...]
    """What was read: logits, maps of taps, outputs of heads."""
    engine: str
    trials: tuple[EngineTrial, ...] = ()
    store: str
    """`kept`, or why outputs were not kept."""
    precision: Literal["fp16", "fp32"] | None = None
    views: Count = 0
    """Augmented views that the epochs show, whose outputs were in the store when they were read."""
    views_computed: Count = 0
    """How many this stage had to compute; the others were there. Kept one at a time, a view that recurs is computed again."""
    bytes_per_image: Count = 0
    """On disk, for each image and view."""
    max_abs_error: Figure = 0.0
    """Largest difference that rounding to `precision` made to any output."""
    seconds: Seconds = 0.0
    """Spent computing and writing."""


class StageResult(Document):
    """`metrics.json` of a finished stage; written last, so a stage that has it is whole."""

    stage: str
    key: str
    """sha256 over everything that can change the result."""
    method: str
    parameters: Count
    macs: Count | None = None
    best_epoch: Count | None = None
    validation: Accuracy | None = None
    members: dict[str, Accuracy] = Field(default_factory=dict)
    """Validation accuracy of auxiliary members, for example the heads of a cohort."""
    analyses: tuple[Analysis, ...] = ()
    engine: str = "eager"
    """What ran the network in training steps."""
    engine_trials: tuple[EngineTrial, ...] = ()
    """What was tried for that, the chosen engine first; empty where the recipe leaves it at eager."""
    teacher_outputs: tuple[TeacherOutputsResult, ...] = ()
    """For the training images, and for the held-out ones where validation reads them too; empty where none were read."""
    loss_scales: dict[str, Figure] = Field(default_factory=dict)
    """Norm of each term's gradient in the student on the first batch, in that of the cross-entropy of its logits; `taught`: of
    all terms together but those on the labels. Empty where no student is trained, and in older records."""
    temperature: Factor | None = None
    """By which the logits were divided within the network (`train.calibrate`)."""
    epochs: tuple[Epoch, ...] = ()
    seconds: Seconds
    files: dict[str, str]
    """sha256 of each file of the stage."""
