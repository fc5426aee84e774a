"""Evaluating and measuring model files: what the pipeline calls and what a notebook may call.

    from benchmarks.protocol import Subject, evaluate, find_runtime, measure
    student = Subject("student", Path("student.onnx"), "onnxruntime")
    logits = evaluate(student, images).logits
    figures = measure([student, teacher], images, against="teacher")

Both write a job folder that holds everything the runner needs, hand it to a device, and turn its raw results into figures.
"""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.devices import Device
from benchmarks.devices.local import Local
from benchmarks.environment import make_environment
from benchmarks.inputs import AnyInputs, Images, Inputs, Pixels
from benchmarks.job import Job, Subject, make_job_folder
from compress import plugins
from compress.errors import CompressError, Unstable
from compress.events import Events, Task
from compress.records import Environment, Latency, Ratio
from compress.statistics.series import (
    compute_median_interval,
    compute_paired_ratios,
    count_calls_needed,
    explain_instability,
    find_percentile,
    is_correlated,
    judge_ratio,
)
from compress.system.files import write_whole

__all__ = [
    "Evaluation", "Images", "Inputs", "Measurement", "Pixels", "Subject", "compute_ratio", "evaluate", "find_runtime",
    "make_runner", "measure",
]  # fmt: skip

FURTHER = ("class", "score")
"""What a file with `gives_class` gives beside its logits."""
TAILS = (90, 99)
"""The percentiles that are reported beside the median."""
USELESS_FACTOR = 10.0
"""Where the middle half of every file's rounds spans this factor, not even the order of magnitude is known."""


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
            result = _run_job(folder, device, timeout_seconds, task)
        logits = np.load(folder / "logits.npy", allow_pickle=False)
        kept = {name: folder / f"{name}.npy" for name in FURTHER if subject.gives_class}
        further = {name: np.load(path, allow_pickle=False) for name, path in kept.items() if path.is_file()}
    if logits.ndim < 2 or len(logits) != wanted:
        raise CompressError(f"{subject.name}: gives {list(logits.shape)} for {wanted} images; it must give [batch, classes]")
    memory = {key: result[key] for key in ("peak_memory_bytes", "baseline_memory_bytes")}
    return Evaluation(
        logits=logits, effective=_format_effective(result["effective"]), further=further,
        machine=make_environment(result["machine"]), **memory,
    )  # fmt: skip


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
    device: Device | None = None,
    seed: int = 0,
    timeout_seconds: float | None = None,
    events: Events | None = None,
    raw: str | Path | None = None,
) -> dict[str, Measurement]:
    """Time files in interleaved rounds, all in one process, and compare them with one of them.

    Args:
        subjects: The files; their names must differ.
        images: Preprocessed, [N, C, H, W]; up to 16 batches of them are fed in turn.
        pixels: The same before normalisation, [N, H, W, C]; needed by files that carry the preprocessing.
        against: Name of the subject that the ratios are taken against.
        threads: Threads of each runtime.
        batch_size: Images in a call; where there are fewer, they repeat.
        rounds: Interleaved rounds, at least 5; in each, every file is timed once.
        seconds: Time spent timing all files together, after warm-up.
        device: Where; default: here.
        seed: Of the order within the rounds.
        timeout_seconds: When to give up; default: ten times `seconds`, and a minute for each file.
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
    job = Job("measure", threads=threads, batch_size=batch_size, seed=seed, rounds=rounds, seconds=seconds)
    allowed = timeout_seconds or 60 * len(subjects) + 10 * seconds
    with make_job_folder(job, subjects, images, pixels) as folder:
        with (events or Events()).task("measure", total=rounds + 1, kind="timing") as task:
            result = _run_job(folder, device, allowed, task)
        if raw is not None:
            with write_whole(Path(raw)) as temporary:
                shutil.copyfile(folder / "result.json", temporary)
    return _compute_figures(job, result["subjects"], against, make_environment(result["machine"]))


def _compute_figures(
    job: Job, series: dict[str, dict[str, Any]], against: str | None, machine: Environment
) -> dict[str, Measurement]:
    """Turn raw series into figures.

    Raises:
        Unstable: The rounds of every file scatter so much that not even the order of magnitude is known.
    """
    latencies = {name: _summarize_latency(job, one) for name, one in series.items()}
    middles = {name: statistics.quantiles(one.rounds, n=4, method="inclusive") for name, one in latencies.items()}
    if all(high > USELESS_FACTOR * low for low, _, high in middles.values()):
        shown = ", ".join(f"{name} {low:.3g} to {high:.3g} ms" for name, (low, _, high) in middles.items())
        raise Unstable(f"measure: the rounds scatter too much for any figure ({shown}); stop other work on the machine")
    figures = {}
    for name, latency in latencies.items():
        other = latencies[against] if against not in (None, name) else None
        compared = None if other is None else compute_ratio(str(against), other, latency)
        throughput = 1000 * (job.batch_size or 1) / latency.mean
        figures[name] = Measurement(latency, compared, throughput, _format_effective(series[name]["effective"]), machine)
    return figures


def _summarize_latency(job: Job, one: dict[str, Any]) -> Latency:
    """Return the figures of one file's raw series."""
    calls = [duration / 1e6 for durations in one["rounds_ns"] for duration in durations]
    rounds = tuple(statistics.median(durations) / 1e6 for durations in one["rounds_ns"])
    reasons = [] if one["settled"] else ["it was still getting faster when warm-up had to end"]
    reasons += filter(None, [explain_instability(rounds)])
    return Latency(
        p50=statistics.median(rounds),
        p90=find_percentile(calls, 90),
        p99=find_percentile(calls, 99),
        mean=statistics.fmean(calls),
        stdev=statistics.stdev(calls),
        ci95=compute_median_interval(rounds),
        samples=len(calls),
        percentiles_missing=_explain_missing(len(calls)),
        rounds=rounds,
        first_call=one["first_call_ns"] / 1e6,
        load=one["load_ns"] / 1e6,
        threads=job.threads,
        batch_size=job.batch_size,
        stable=not reasons,
        instability="; ".join(reasons) or None,
    )


def _explain_missing(calls: int) -> str | None:
    """Return why percentiles of so many calls are missing, without their number, so that several files may share the text."""
    needed = {percent: count_calls_needed(percent) for percent in TAILS}
    missing = [f"p{percent} needs at least {least} calls" for percent, least in needed.items() if calls < least]
    return f"{' and '.join(missing)}; measure longer" if missing else None


def compute_ratio(against: str, other: Latency, own: Latency) -> Ratio:
    """Return how many times faster `own` is than `other`, called `against`, from the rounds of one `measure`."""
    ratios = compute_paired_ratios(other.rounds, own.rounds)
    ci95 = compute_median_interval(ratios)
    verdict = judge_ratio(ci95, correlated=is_correlated(ratios))
    return Ratio(against=against, speedup=statistics.median(ratios), ci95=ci95, verdict=verdict)


def _run_job(folder: Path, device: Device | None, timeout_seconds: float, task: Task) -> Any:
    """Run a job folder on a device; return its `result.json`."""
    reached = 0

    def progress(done: int, _total: int, doing: str) -> None:
        nonlocal reached
        task.advance(done - reached, note=doing)
        reached = done

    (device or Local()).run(folder, timeout_seconds=timeout_seconds, progress=progress)
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def _format_effective(effective: dict[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in effective.items()}
