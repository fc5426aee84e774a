"""`dense_gate.json`: how far good files of segmenters lie from their networks, and what the gate says of damaged ones."""

from __future__ import annotations

from benchmarks.studies.resuming import Resumable
from compress.records import Document, Environment, Record, Status


class Judged(Record):
    """What the gate said of a file, by its numbers on the images that no training has seen."""

    status: Status
    reason: str
    agreement_percent: float | None
    """mIoU of the file's maps with the network's; `None` where the answers could not be compared, and so are the next."""
    relative_rms: float | None
    """RMS of all differences of logits over that of the network's logits."""
    largest: float | None
    """The largest difference of a logit, in that RMS."""
    drop_points: float | None
    drop_ci95: tuple[float, float] | None


class GoodFile(Record):
    """A file as an exporter writes it."""

    format: str
    precision: str
    rung: str
    """Of the int8 ladder; empty for others."""
    judged: Judged


class Damaged(Record):
    """A file with one damage."""

    damage: str
    format: str
    precision: str
    judged: Judged


class Segmenter(Record):
    """One trained network with its files."""

    name: str
    model: str
    parameters: int
    epochs: int
    miou_percent: float
    """On the images on which files are judged."""
    training_seconds: float
    """Of the process's own time."""
    good: tuple[GoodFile, ...]
    damaged: tuple[Damaged, ...]


class Known(Document):
    """One network, kept beside its files."""

    segmenter: Segmenter


class DenseGate(Resumable):
    """The whole study."""

    images: dict[str, int]
    size: int
    segmenters: tuple[Segmenter, ...]
    environment: Environment
