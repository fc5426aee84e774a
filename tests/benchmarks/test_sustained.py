"""What is told of a file that is called without a pause."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.devices import Progress
from benchmarks.machine import read_machine
from benchmarks.sustained import sustain
from compress.cli.tables import describe_sustained
from compress.errors import CompressError, Unreachable
from tests.benchmarks.tiny import Tiny


class Hot:
    """A device that answers with the medians of windows of ten seconds, as one that grows hot."""

    name = "hot"

    def __init__(self, medians: list[float], **damage: Any) -> None:
        self.medians, self.damage = medians, damage

    def run(self, job: Path, *, timeout_seconds: float, progress: Progress) -> None:  # noqa: ARG002 (the contract)
        """Leave the answer in the job folder."""
        windows = [
            {
                "begin_s": 10.0 * number, "calls_ns": [1e6 * median] * 3, "waited": 0.0, "clock_khz": 1500e3,
                "temperature_millicelsius": 60_000, "throttling": ["throttled"] if median > 25 else [],
            }
            for number, median in enumerate(self.medians)
        ]  # fmt: skip
        (job / "result.json").write_text(json.dumps({"windows": windows, "machine": read_machine()} | self.damage))


def test_the_beginning_and_the_end_are_told(tiny: Tiny) -> None:
    """The first and the last minute, and when the machine began to slow down."""
    device = Hot([21.0] * 8 + [22.0] * 11 + [27.0] * 11)
    found = sustain(tiny.subjects["onnxruntime"], tiny.images, minutes=5, device=device)
    assert (found.first, found.last, found.throttled_from_s) == (21.0, 27.0, 190.0)
    assert describe_sustained(found) == "first 21.000 ms, last 27.000 ms (+28.6 %); throttled from 3:10"
    assert found.windows[0].celsius == 60


@pytest.mark.slow
def test_a_file_is_called_for_the_whole_time(tiny: Tiny) -> None:
    """Windows follow each other until the time is over; what the kernel does not tell is none."""
    found = sustain(tiny.subjects["onnxruntime"], tiny.images, minutes=0.02)
    assert len(found.windows) >= 2
    assert all(window.calls > 10 for window in found.windows)
    assert found.windows[-1].begin_s < 1.2


def test_a_time_that_is_none_and_an_answer_that_is_none_are_refused(tiny: Tiny) -> None:
    """Each gives one message."""
    subject = tiny.subjects["onnxruntime"]
    with pytest.raises(CompressError, match="sustained: 0 minutes; give more than 0"):
        sustain(subject, tiny.images, minutes=0)
    for damage in ({"windows": []}, {"windows": [3]}, {"windows": None}):
        with pytest.raises(Unreachable, match="is not what the runner writes"):
            sustain(subject, tiny.images, minutes=1, device=Hot([1.0], **damage))
