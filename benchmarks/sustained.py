"""A file called without a pause for minutes: what heat and a lower clock make of its latency.

from benchmarks.sustained import sustain
found = sustain(student, images, minutes=5)
found.first, found.last
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.devices import Device
from benchmarks.environment import make_environment
from benchmarks.inputs import Images, Inputs
from benchmarks.job import Job, Subject, make_job_folder
from benchmarks.protocol import run_job
from benchmarks.timer import DISTURBED_SHARE
from compress.errors import CompressError, Unreachable
from compress.events import Events
from compress.records import Sustained, Window

LONGEST_MINUTES = 24 * 60
SHARE_OF_ENDS = 6
"""The first and the last figure are those of this part of the windows at either end, of a minute at most."""


def sustain(
    subject: Subject,
    images: Images | Inputs | Mapping[str, Images | Inputs],
    *,
    minutes: float,
    threads: int = 1,
    batch_size: int = 1,
    device: Device | None = None,
    events: Events | None = None,
) -> Sustained:
    """Call a file without a pause, and tell the median of each ten seconds.

    Args:
        subject: The file.
        images: Preprocessed, [N, C, H, W], or pixels with their constants.
        minutes: How long.
        threads: Threads of the runtime.
        batch_size: Images in a call.
        device: Where; default: here.
        events: Where progress is shown.

    Raises:
        CompressError: A file does not fit its runtime, the images or the options.
        RuntimeCrashed: A runtime crashed the process.
        Unreachable: The file, the runtime or the device is not there, or it took too long.
    """
    if not 0 < minutes <= LONGEST_MINUTES:
        raise CompressError(f"sustained: {minutes:g} minutes; give more than 0 and at most {LONGEST_MINUTES}")
    job = Job("sustain", threads=threads, batch_size=batch_size, seconds=60 * minutes)
    with (
        make_job_folder(job, [subject], images, None) as folder,
        (events or Events()).task(f"sustain {subject.name}", total=int(job.seconds), kind="timing") as task,
    ):
        result = run_job(folder, device, 60 + 2 * job.seconds, task)
    try:
        windows = [_make_window(each) for each in result["windows"]]
        return _summarize(job, result, windows)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise Unreachable(f"the device: its result is not what the runner writes ({error!r:.200}); measure again") from error


def _make_window(raw: Mapping[str, Any]) -> Window:
    calls = raw["calls_ns"]
    return Window(
        begin_s=raw["begin_s"],
        calls=len(calls),
        p50=statistics.median(calls) / 1e6,
        waited_percent=None if raw["waited"] is None else 100 * raw["waited"],
        clock_mhz=None if raw["clock_khz"] is None else raw["clock_khz"] / 1000,
        celsius=None if raw["temperature_millicelsius"] is None else raw["temperature_millicelsius"] / 1000,
        throttling=tuple(map(str, raw["throttling"])),
    )


def _summarize(job: Job, result: Mapping[str, Any], windows: Sequence[Window]) -> Sustained:
    ends = max(1, min(len(windows) // SHARE_OF_ENDS, round(60 * len(windows) / job.seconds)))
    throttled = next((window.begin_s for window in windows if window.throttling), None)
    waited = [window.waited_percent for window in windows if window.waited_percent is not None]
    return Sustained(
        minutes=job.seconds / 60,
        threads=job.threads,
        batch_size=job.batch_size or 1,
        first=statistics.median(window.p50 for window in windows[:ends]),
        last=statistics.median(window.p50 for window in windows[-ends:]),
        throttled_from_s=throttled,
        disturbed_windows=sum(share > 100 * DISTURBED_SHARE for share in waited) if waited else None,
        windows=tuple(windows),
        machine=make_environment(result.get("machine") or {}),
    )
