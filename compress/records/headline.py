"""The four answers with which every account of a run begins: speed, loss, plain training, and whether to ship."""

from __future__ import annotations

from typing import Literal

from compress.records.base import Figure, Record

Decision = Literal["ship", "ship if", "do not ship", "nothing to ship"]


class Answer(Record):
    """One answer, in words and as numbers."""

    text: str
    """In a few words, with its interval."""
    detail: str = ""
    """What it was measured on, and what it does not say."""
    verdict: Literal["good", "bad", "open"]
    """`open` where nothing was measured, or the difference is no larger than chance."""
    value: Figure | None = None
    """The ratio, or points of top-1; `None` where nothing was measured."""
    ci95: tuple[Figure, Figure] | None = None


class Headline(Record):
    """What a run found about the file that it puts forward: the fastest that passed its gate, or else the fastest."""

    line: str
    """All four answers in one line; where plain training is better, that comes first."""
    decision: Decision
    """`ship if` where a reader has to decide whether the loss against the teacher is acceptable."""
    why: str
    file: str
    """Name of the file; empty where nothing was exported."""
    instead: str = ""
    """Command that exports the network that should be shipped instead; empty where there is none."""
    speed: Answer
    """Speed-up over the teacher, or over what latencies were compared with."""
    loss: Answer
    """Points of top-1 that the file loses against the teacher, on the test split; below 0 where it is better."""
    plain: Answer
    """Points of top-1 of the student above the same network trained on the labels alone, on the test split."""
