"""The time of each layer of a file, as its runtime tells it: where the time goes, and where int8 does not pay.

A runtime that keeps such times is slower, so they are shares of a call and no latency.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any, Literal

from benchmarks.devices import Device
from benchmarks.inputs import Images, Inputs
from benchmarks.job import Job, Subject, make_job_folder
from benchmarks.protocol import run_job
from compress.errors import Unreachable
from compress.events import Events
from compress.records import Layer
from compress.text import escape_commands

CALLS = 60
WARM_UP = 10
"""So many of them do not count."""
MOST_LAYERS, LONGEST_NAME = 100_000, 200
MOVING = (
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "FakeQuantize", "Convert", "Cast", "Reorder", "ReorderInput",
    "ReorderOutput", "Slice", "StridedSlice", "Pad", "Transpose", "Concat", "Split", "Reshape", "Gather", "Flatten", "Squeeze",
    "Unsqueeze",
)  # fmt: skip
"""Kinds of layers that compute nothing: they change the type, the order or the place of values."""


def profile(
    subject: Subject,
    images: Images | Inputs | Mapping[str, Images | Inputs],
    *,
    threads: int = 1,
    batch_size: int = 1,
    device: Device | None = None,
    timeout_seconds: float = 600.0,
    events: Events | None = None,
) -> tuple[Layer, ...]:
    """Return the layers of a file that ran, the slowest first.

    Args:
        subject: The file.
        images: Preprocessed, [N, C, H, W], or pixels with their constants.
        threads: Threads of the runtime.
        batch_size: Images in a call.
        device: Where; default: here.
        timeout_seconds: When to give up.
        events: Where progress is shown.

    Raises:
        CompressError: The runtime does not tell, or the file does not fit it or the images.
        RuntimeCrashed: A runtime crashed the process.
        Unreachable: The file, the runtime or the device is not there, or it took too long.
    """
    job = Job("profile", threads=threads, batch_size=batch_size, rounds=CALLS)
    with (
        make_job_folder(job, [subject], images, None) as folder,
        (events or Events()).task(f"profile {subject.name}", total=1) as task,
    ):
        result = run_job(folder, device, timeout_seconds, task)
    try:
        return _summarize(result["layers"][:MOST_LAYERS])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise Unreachable(f"the device: its result is not what the runner writes ({error!r:.200}); profile again") from error


def _summarize(raw: list[dict[str, Any]]) -> tuple[Layer, ...]:
    times = [statistics.median(each["ns"][WARM_UP:] or each["ns"]) / 1e6 for each in raw]
    total = sum(times)
    if not total > 0:
        raise ValueError("no layer took any time")
    layers = [
        Layer(
            name=_shorten(each["name"]), kind=_shorten(each["kind"]), kernel=_shorten(each["kernel"]),
            arithmetic=find_arithmetic(each["kind"], each["kernel"]), ms=took, percent=100 * took / total,
        )
        for each, took in zip(raw, times, strict=True)
    ]  # fmt: skip
    return tuple(sorted(layers, key=lambda layer: -layer.ms))


def _shorten(text: str) -> str:
    return escape_commands(text[:LONGEST_NAME])


def find_arithmetic(kind: str, kernel: str) -> Literal["int8", "moving", "float"]:
    """Return what a layer works on, by the names that ONNX Runtime and OpenVINO give to operators and kernels."""
    if kind in MOVING:
        return "moving"
    is_integer = kind.startswith(("QLinear", "QGemm", "QAttention")) or "Integer" in kind
    return "int8" if is_integer or kernel.upper().endswith(("_I8", "_U8")) else "float"
