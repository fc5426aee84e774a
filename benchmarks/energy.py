"""Energy of an inference, measured where the machine has a sensor, above idle and in all; never estimated.

from benchmarks.energy import measure_energy
found = measure_energy([student, teacher], images)
found["student"].above_idle_mj, found["student"].unavailable
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.devices import Device, is_emulated
from benchmarks.inputs import AnyInputs
from benchmarks.job import Job, Subject, make_job_folder
from benchmarks.protocol import run_job
from compress.errors import CompressError, Unreachable
from compress.events import Events
from compress.records import Energy
from compress.statistics.series import compute_median_interval
from compress.text import escape_commands

BLOCKS = 6
"""The lowest and highest of six hold the median in 97 of 100 measurements."""
BLOCK_SECONDS = 5.0
FEWEST_SAMPLES = 50
"""Samples of power that a block needs."""
LARGEST_DRIFT = 0.1
"""If the power of the idle machine differs by more than this share from block to block, what lies above it is not known."""


def measure_energy(
    subjects: Sequence[Subject],
    images: AnyInputs,
    *,
    threads: int = 1,
    batch_size: int = 1,
    blocks: int = BLOCKS,
    block_seconds: float = BLOCK_SECONDS,
    meter: str = "",
    device: Device | None = None,
    events: Events | None = None,
) -> dict[str, Energy]:
    """Return the energy of each file by its name, or why it is not available.

    Args:
        subjects: The files; their names differ.
        images: Preprocessed, [N, C, H, W], or pixels with their constants; for all files, or for each by its name.
        threads: Threads of each runtime.
        batch_size: Images in a call.
        blocks: How often each file is measured, in turn with the others and with an idle machine; at least 6.
        block_seconds: How long each time.
        meter: A program on the device that prints a line `seconds watts` for each sample of a power meter, the seconds as of
            `date +%s.%N` there; default: a sensor of the device.
        device: Where; default: here.
        events: Where progress is shown.

    Raises:
        CompressError: A file does not fit its runtime, the images or the options.
        RuntimeCrashed: A runtime crashed the process.
        Unreachable: A file, a runtime or the device is not there, or it took too long.
    """
    if blocks < BLOCKS or block_seconds <= 0:
        raise CompressError(f"energy: {blocks} blocks of {block_seconds:g} s; give at least {BLOCKS}, and a time above 0")
    if device is not None and is_emulated(device):
        return {subject.name: Energy(unavailable="the device is emulated") for subject in subjects}
    job = Job("energy", threads=threads, batch_size=batch_size, rounds=blocks, seconds=block_seconds, meter=meter)
    total = blocks * len(subjects)
    with (
        make_job_folder(job, subjects, images, None) as folder,
        (events or Events()).task("energy", total=total, kind="timing") as task,
    ):
        result = run_job(folder, device, 60 * (1 + len(subjects)) + 3 * block_seconds * (total + blocks), task)
    return compute_energies(result, [subject.name for subject in subjects])


def compute_energies(result: Mapping[str, Any], names: Sequence[str]) -> dict[str, Energy]:
    """Return the energy of each file of a raw result.

    Raises:
        Unreachable: The result is not what the runner writes.
    """
    try:
        if "unavailable" in result:
            reason = escape_commands(str(result["unavailable"]))[:300]
            return {name: Energy(unavailable=reason) for name in names}
        sensor = {key: escape_commands(str(result["sensor"][key]))[:100] for key in ("name", "covers")}
        return {name: _compute(result["idle"], result["blocks"][name], sensor) for name in names}
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise Unreachable(f"the device: its result is not what the runner writes ({error!r:.200}); measure again") from error


def _compute(idle: Sequence[Mapping[str, Any]], blocks: Sequence[Mapping[str, Any]], sensor: Mapping[str, str]) -> Energy:
    """Return the energy of one file, or why its blocks do not tell it."""
    idle_watts = [each["joules"] / each["seconds"] for each in idle]
    if not all(math.isfinite(value) and value >= 0 for value in idle_watts) or len(blocks) != len(idle):
        raise ValueError("idle power")
    samples = [each["samples"] for each in (*idle, *blocks) if each["samples"] is not None]
    own = [each["samples"] for each in blocks if each["samples"] is not None]
    middle = statistics.median(idle_watts)
    drift = (max(idle_watts) - min(idle_watts)) / middle if middle else 0.0
    if own and min(own) < FEWEST_SAMPLES:
        return Energy(unavailable=f"{sensor['name']} gave {min(own)} samples in a block, and {FEWEST_SAMPLES} are needed")
    if drift > LARGEST_DRIFT:
        reason = (
            f"the idle machine's power drifted by {100 * drift:.0f} % by {sensor['name']}; stop other work, and let it cool"
        )
        return Energy(unavailable=reason)
    if not any(each["joules"] > 0 for each in blocks):
        return Energy(unavailable=f"{sensor['name']} counted nothing")
    total = [1000 * each["joules"] / each["calls"] for each in blocks]
    above = [
        1000 * (each["joules"] - watts * each["seconds"]) / each["calls"]
        for each, watts in zip(blocks, idle_watts, strict=True)
    ]  # fmt: skip
    return Energy(
        above_idle_mj=statistics.median(above), above_idle_ci95=compute_median_interval(above),
        total_mj=statistics.median(total), total_ci95=compute_median_interval(total), idle_watts=middle,
        sensor=sensor["name"], covers=sensor["covers"], blocks=len(blocks), samples=sum(samples) if samples else None,
    )  # fmt: skip
