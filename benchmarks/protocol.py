"""Evaluating and measuring model files: what the pipeline calls and what a notebook may call.

    from benchmarks.protocol import Subject, evaluate, find_runtime, measure
    student = Subject("student", Path("student.onnx"), "onnxruntime")
    logits = evaluate(student, images).logits
    figures = measure([student, teacher], images, against="teacher")

Both write a job folder that holds everything the runner needs, hand it to a device, and turn its raw results into figures.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.conditions import describe_conditions
from benchmarks.devices import Device
from benchmarks.devices.local import Local
from benchmarks.environment import make_environment
from benchmarks.figures import compute_latencies, compute_ratio
from benchmarks.inputs import AnyInputs, Images, Inputs, Pixels
from benchmarks.job import Job, Subject, make_job_folder
from compress import plugins
from compress.errors import CompressError, Unreachable
from compress.events import Events, Task
from compress.records import Environment, Latency, Ratio
from compress.system.files import write_whole

__all__ = [
    "Evaluation", "Images", "Inputs", "Measurement", "Pixels", "Subject", "compute_ratio", "evaluate", "find_runtime",
    "make_runner", "measure",
]  # fmt: skip

FURTHER = ("class", "score")
"""What a file with `gives_class` gives beside its logits."""
FASTEST_PACE = 1000.0
"""Calls a second; a faster pace is shorter than what a sleep can be relied on for."""


MAPPED_BYTES = 1 << 28
"""Of a file's logits from which on they are not read into memory."""


@dataclass(frozen=True)
class Evaluation:
    """Outputs of one file, the memory that it took, and what really ran."""

    logits: NDArray[np.float32]
    """[N, classes]."""
    peak_memory_bytes: int | None
    """Peak resident memory of the process that ran only this file, Python and runtime included; None where unreadable."""
    baseline_memory_bytes: int | None
    """Resident memory of that process before it imported the runtime."""
    effective: dict[str, str]
    """What really ran, as the runtime reports it."""
    machine: Environment
    """Where it ran, as the runner read it there."""
    further: dict[str, NDArray[Any]] = field(default_factory=dict)
    """`class` and `score` of a file with `gives_class`, as far as it gives them, in its own types; each should be [N]."""


@dataclass(frozen=True)
class Measurement:
    """How fast one file is."""

    latency: Latency
    ratio: Ratio | None
    """Against the chosen other; None for that one itself."""
    throughput_per_s: float
    """Images per second over all timed calls."""
    effective: dict[str, str]
    machine: Environment
    """Where it was timed, as the runner read it there."""


def find_runtime(path: str | Path) -> str:
    """Return the runtime that opens a file, by its ending.

    Raises:
        CompressError: No runtime opens such files.

    Example:
        >>> from benchmarks import find_runtime
        >>> find_runtime("student.xml")
        'openvino'
    """
    path = Path(path)
    endings = {ending: name for name in plugins.list_names("runtimes") for ending in plugins.load("runtimes", name).suffixes}
    if path.suffix not in endings:
        known = ", ".join(f"{ending} ({name})" for ending, name in sorted(endings.items()))
        raise CompressError(f"{path}: no runtime opens files that end in {path.suffix!r}; there are: {known}")
    return endings[path.suffix]


def evaluate(
    subject: Subject,
    images: Images | Inputs,
    *,
    pixels: Pixels | None = None,
    batch_size: int = 32,
    calls: Sequence[tuple[int, int]] | None = None,
    threads: int = 1,
    device: Device | None = None,
    timeout_seconds: float = 1800.0,
    events: Events | None = None,
) -> Evaluation:
    """Run every image through one file, in a process of its own.

    Args:
        subject: The file.
        images: Preprocessed, [N, C, H, W]; or pixels [N, H, W, C] with their constants, which are less to send.
        pixels: The same before normalisation, [N, H, W, C]; needed by a file that carries the preprocessing.
        batch_size: Images in a call, where the file takes any number; at most N. The last call is filled up with images whose
            logits are dropped.
        calls: Calls of a file that takes any number of images, each as its first image and how many; behind the last image the
            first follow. The outputs of all calls come back one behind the other, instead of one for each image.
        threads: Threads of the runtime.
        device: Where; default: here.
        timeout_seconds: When to give up.
        events: Where progress is shown.

    Raises:
        CompressError: The file does not fit its runtime, the images or the options.
        RuntimeCrashed: The runtime crashed the process.
        Unreachable: The file, the runtime or the device is not there, the runner was killed, or took too long.

    Example:
        >>> import exporters, numpy as np, torch
        >>> from torch import nn
        >>> from benchmarks import Subject, evaluate
        >>> layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        >>> path = exporters.export(layers, torch.zeros(1, 1, 8, 8), "linear.onnx", format="onnx")
        >>> evaluate(Subject("linear", path, "onnxruntime"), np.zeros((5, 1, 8, 8), np.float32)).logits.shape
        (5, 10)
    """
    wanted = sum(count for _, count in calls) if calls else len(images)
    size = None if calls else subject.batch_size or min(batch_size, max(len(images), 1))
    job = Job("evaluate", threads=threads, batch_size=size, calls=tuple(calls or ()))
    with make_job_folder(job, [subject], images, pixels) as folder:
        with (events or Events()).task(f"evaluate {subject.name}", total=wanted) as task:
            result = run_job(folder, device, timeout_seconds, task)
        logits = _load_logits(folder / "logits.npy")
        kept = {name: folder / f"{name}.npy" for name in FURTHER if subject.gives_class}
        further = {name: np.load(path, allow_pickle=False) for name, path in kept.items() if path.is_file()}
    if logits.ndim < 2 or len(logits) != wanted:
        raise CompressError(f"{subject.name}: gives {list(logits.shape)} for {wanted} images; it must give [batch, classes]")
    memory = {key: result[key] for key in ("peak_memory_bytes", "baseline_memory_bytes")}
    return Evaluation(
        logits=logits, effective=_format_effective(result["effective"]), further=further,
        machine=make_environment(result.get("machine") or {}), **memory,
    )  # fmt: skip


def _load_logits(path: Path) -> NDArray[np.float32]:
    """Return logits [N, ...]; many of them stay in their file, which is gone when nobody reads it any more."""
    large = path.stat().st_size > MAPPED_BYTES and os.name == "posix"
    logits: NDArray[np.float32] = np.load(path, allow_pickle=False, mmap_mode="c" if large else None)
    return logits


def make_runner(
    subject: Subject, *, threads: int = 1, device: Device | None = None, events: Events | None = None
) -> Callable[[NDArray[Any], Sequence[tuple[int, int]] | None], Evaluation]:
    """Return a function that runs a file on images as it takes them: float32 [N, C, H, W], or uint8 [N, H, W, C].

    Its second argument are the calls, as for `evaluate`.
    """

    def run(fed: NDArray[Any], calls: Sequence[tuple[int, int]] | None) -> Evaluation:
        count, height, width, channels = fed.shape
        images = np.zeros((count, channels, height, width), np.float32) if subject.takes_pixels else fed
        pixels = fed if subject.takes_pixels else None
        return evaluate(subject, images, pixels=pixels, calls=calls, threads=threads, device=device, events=events)

    return run


def measure(
    subjects: Sequence[Subject],
    images: AnyInputs,
    *,
    pixels: Pixels | None = None,
    against: str | None,
    threads: int = 1,
    batch_size: int = 1,
    rounds: int = 15,
    seconds: float = 12.0,
    launches: int = 3,
    calls_per_second: float | None = None,
    device: Device | None = None,
    seed: int = 0,
    timeout_seconds: float | None = None,
    events: Events | None = None,
    raw: str | Path | None = None,
) -> dict[str, Measurement]:
    """Time files in interleaved rounds, and compare them with one of them.

    The rounds are split among some processes, one after the other; in each all files are loaded and timed in turn. A round in
    which other work took the core is repeated, up to twice the rounds.

    Args:
        subjects: The files; their names must differ.
        images: Preprocessed, [N, C, H, W], or pixels with their constants; for all files, or for each by its name. Up to 16
            batches of them are fed in turn.
        pixels: The same before normalisation, [N, H, W, C]; needed by files that carry the preprocessing.
        against: Name of the subject that the ratios are taken against.
        threads: Threads of each runtime.
        batch_size: Images in a call; where there are fewer, they repeat.
        rounds: Interleaved rounds, at least 5; in each, every file is timed once.
        seconds: Time spent timing all files together, after warm-up; up to twice as much where rounds are repeated.
        launches: Processes that share the rounds. One is enough for a ratio; a latency needs three to be called stable, for a
            process times itself at one moment and in one layout of memory.
        calls_per_second: The pace at which calls begin, as a camera gives pictures; default: one follows the other, which
            flatters caches and clocks.
        device: Where; default: here.
        seed: Of the order within the rounds.
        timeout_seconds: When to give up; default: ten times `seconds`, and a minute for each file and process.
        events: Where progress is shown.
        raw: File for the raw series of every call and the state of the machine before and after.

    Raises:
        CompressError: A file does not fit its runtime, the images or the options.
        RuntimeCrashed: A runtime crashed the process.
        Unreachable: A file, a runtime or the device is not there, the runner was killed, or took too long.
        Unstable: The rounds of every file scatter so much that not even the order of magnitude is known.

    Example:
        >>> import exporters, numpy as np, torch
        >>> from torch import nn
        >>> from benchmarks import Subject, measure
        >>> layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        >>> path = exporters.export(layers, torch.zeros(1, 1, 8, 8), "timed.onnx", format="onnx")
        >>> images = np.zeros((5, 1, 8, 8), np.float32)
        >>> found = measure([Subject("timed", path, "onnxruntime")], images, against=None, rounds=5, seconds=0.2)
        >>> found["timed"].latency.p50 > 0
        True
    """
    names = [subject.name for subject in subjects]
    if not names or len(set(names)) != len(names) or (against is not None and against not in names):
        raise CompressError(f"measure: names must differ and hold {against!r}, not {names}; name each file once")
    for subject in subjects:
        if subject.batch_size not in (None, batch_size):
            raise CompressError(
                f"{subject.name}: takes {subject.batch_size} images in a call, not {batch_size}; measure it with that"
            )
    if rounds < 5:
        raise CompressError(f"measure: {rounds} rounds give no interval; use at least 5")
    if not 1 <= launches <= rounds or (calls_per_second is not None and not 0 < calls_per_second <= FASTEST_PACE):
        raise CompressError(
            f"measure: {launches} launches share {rounds} rounds, at {calls_per_second} calls a second; give 1 to {rounds} "
            f"launches, and a pace above 0 and up to {FASTEST_PACE:g}"
        )
    job = Job(
        "measure", threads=threads, batch_size=batch_size, seed=seed, rounds=rounds, seconds=seconds, launches=launches,
        calls_per_second=calls_per_second,
    )  # fmt: skip
    allowed = timeout_seconds or 60 * len(subjects) * launches + 10 * seconds
    with make_job_folder(job, subjects, images, pixels) as folder:
        with (events or Events()).task("measure", total=rounds + launches, kind="timing") as task:
            result = run_job(folder, device, allowed, task)
        if raw is not None:
            with write_whole(Path(raw)) as temporary:
                shutil.copyfile(folder / "result.json", temporary)
    latencies = compute_latencies(job, result)
    conditions = describe_conditions(result["launches"], list(result["subjects"].values()))
    machine = make_environment(result.get("machine") or {}, conditions)
    measured = {}
    for name, latency in latencies.items():
        other = latencies[against] if against not in (None, name) else None
        measured[name] = Measurement(
            latency=latency,
            ratio=None if other is None else compute_ratio(str(against), other, latency),
            throughput_per_s=1000 * batch_size / latency.mean,
            effective=_format_effective(result["subjects"][name]["effective"]),
            machine=machine,
        )
    return measured


def run_job(folder: Path, device: Device | None, timeout_seconds: float, task: Task) -> Any:
    """Run a job folder on a device; return its `result.json`.

    Raises:
        Unreachable: The device gave something else back.
    """
    reached = 0

    def progress(done: int, _total: int, doing: str) -> None:
        nonlocal reached
        task.advance(done - reached, note=doing)
        reached = done

    (device or Local()).run(folder, timeout_seconds=timeout_seconds, progress=progress)
    try:
        return json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Unreachable(f"the device: gave no result that can be read ({error}); run it again") from error


def _format_effective(effective: dict[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in effective.items()}
