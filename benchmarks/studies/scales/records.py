"""`scales.json`: size of each method's gradient over its training, and what came of the student."""

from __future__ import annotations

from benchmarks.studies.resuming import Resumable
from compress.records import Environment, Record


class Arm(Record):
    """One student."""

    name: str
    """Of the method with its options, a key of `ARMS`."""
    optimizer: str
    lr: float
    seed: int
    scales: dict[int, float]
    """Gradient of what teaches, in that of cross-entropy, on the batch of each of some steps."""
    top1_percent: float
    """On the test images; so is the next."""
    nll: float
    logit_std: float
    """Standard deviation of all logits of the test images."""
    seconds: float
    """Of the process's own time."""


class Scales(Resumable):
    """The whole study."""

    images: dict[str, int]
    steps: int
    teacher_top1_percent: float
    arms: tuple[Arm, ...]
    environment: Environment
