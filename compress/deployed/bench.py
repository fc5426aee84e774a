"""Measure files against each other in interleaved rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compress import plugins
from compress.deployed.files import Pictures, choose_inputs, find_bundle_around, find_subjects
from compress.deployed.foreign import (
    READABLE,
    Shapes,
    add_feeds,
    choose_common_batch,
    parse_shapes,
    read_fixed_batch,
    refuse_other_images,
)
from compress.errors import CompressError, Unstable
from compress.records import Latency, Ratio, Record

if TYPE_CHECKING:
    from benchmarks.devices import Device
    from benchmarks.protocol import Subject
    from compress.events import Events


class FileTiming(Record):
    """Figures of one measured file."""

    path: str
    runtime: str
    latency_ms: Latency
    ratio: Ratio | None = None
    throughput_per_s: float
    effective: dict[str, str]
    """What really ran, as the runtime reports it."""


def measure_files(
    paths: Sequence[str | Path],
    *,
    against: str | None = None,
    device: str | Device = "local",
    threads: int = 1,
    batch_size: int | None = None,
    rounds: int = 15,
    seconds: float = 12.0,
    shape: str | Sequence[str] | None = None,
    events: Events,
) -> dict[str, FileTiming]:
    """Measure files against each other in interleaved rounds.

    Args:
        paths: Files, bundles or runs; a bundle or run stands for all its files.
        against: Name of the file that the others are compared with; default the first.
        device: Where to measure: a name, an address, or the device itself.
        threads: Threads of the runtime.
        batch_size: Images per call; default: what the files fix, or one.
        rounds: Interleaved rounds.
        seconds: Time for all files together.
        shape: What a file in no bundle leaves open: `channels,height,width` of the images, or `INPUT=SIZES` for one input;
            one or several.
        events: Where progress is reported.

    Raises:
        CompressError: A file is not what it is said to be, leaves a shape open that is not given, keeps weights elsewhere than
            beside it, or the files take images of different shapes.
        Unreachable: A file, runtime or device is not there.
        Detached: The job was started and left alone, as the device was told to.
    """
    from benchmarks import protocol
    from benchmarks.devices import open_device

    shapes = parse_shapes([shape] if isinstance(shape, str) else shape or ())
    subjects, shown = _prepare_subjects([Path(path) for path in paths], shapes, batch_size)
    names = [subject.name for subject in subjects]
    if against is not None and against not in names:
        raise CompressError(f"--against {against}: is not measured; {plugins.suggest_name(against, names)}")
    measured = protocol.measure(
        subjects,
        shown.images,
        pixels=shown.pixels,
        against=against or names[0],
        threads=threads,
        batch_size=choose_common_batch({subject.name: subject.batch_size for subject in subjects}, batch_size),
        rounds=rounds,
        seconds=seconds,
        device=open_device(device) if isinstance(device, str) else device,
        events=events,
    )
    return {
        subject.name: FileTiming(
            path=str(subject.path),
            runtime=subject.runtime,
            latency_ms=measured[subject.name].latency,
            ratio=measured[subject.name].ratio,
            throughput_per_s=measured[subject.name].throughput_per_s,
            effective=measured[subject.name].effective,
        )
        for subject in subjects
    }


def _prepare_subjects(paths: Sequence[Path], shapes: Shapes, batch_size: int | None) -> tuple[list[Subject], Pictures]:
    """Return what is measured, files of other tools with what they are fed, and the pictures for all others.

    Raises:
        CompressError: As `measure_files`.
        Unreachable: A file is not there.
    """
    import numpy as np

    subjects = find_subjects(paths)
    lone = {path for path in paths if path.is_file() and path.suffix in READABLE and find_bundle_around(path) is None}
    others = [path for path in paths if path not in lone]
    shown = choose_inputs(others, shapes.image) if others else None
    fixed = [read_fixed_batch(each.path) if each.path in lone else each.batch_size for each in subjects]
    size = batch_size or next((each for each in fixed if each is not None), None)
    prepared = [add_feeds(each, shapes, size) if each.path in lone else each for each in subjects]
    fed = {each.name: _read_image_shape(each) for each in prepared if each.feeds}
    if shown is not None:
        fed[str(others[0])] = shown.images.shape[1:]
    refuse_other_images(fed)
    return prepared, shown or Pictures(np.zeros((1, 1, 1, 1), np.float32), None)  # nothing takes it


def _read_image_shape(subject: Subject) -> tuple[int, ...]:
    """Return the shape of one image of a file of another tool: of its first input of four dimensions, or else its first."""
    shapes = [values.shape[2:] for _, values in subject.feeds]
    return next((shape for shape in shapes if len(shape) == 3), shapes[0])


def refuse_unstable(measured: Mapping[str, FileTiming]) -> None:
    """Raise if a measurement never settled.

    Raises:
        Unstable: The message names each file.
    """
    shaky = [name for name, timing in measured.items() if not timing.latency_ms.stable]
    if shaky:
        raise Unstable(f"{', '.join(shaky)}: the rounds disagree; stop what else runs on this machine, or give more --seconds")
