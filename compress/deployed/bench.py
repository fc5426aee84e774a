"""Measure files against each other in interleaved rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compress import plugins
from compress.deployed.files import choose_inputs, find_bundle_around, find_subjects
from compress.deployed.foreign import (
    READABLE,
    Shapes,
    add_feeds,
    choose_common_batch,
    parse_shapes,
    read_fixed_batch,
)
from compress.errors import CompressError, Unstable
from compress.records import Energy, Environment, Latency, Layer, NativeTiming, Ratio, Record, Sustained
from compress.system.files import hash_file

if TYPE_CHECKING:
    from benchmarks.devices import Device
    from benchmarks.protocol import Inputs, Subject
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
    sha256: str = ""
    """Of the file itself, so that it is known again; empty in older records."""
    machine: Environment | None = None
    """Where it was timed."""
    device: str = "local"
    """What the place is called, with its limits."""


def measure_files(
    paths: Sequence[str | Path],
    *,
    against: str | None = None,
    device: str | Device = "local",
    threads: int = 1,
    batch_size: int | None = None,
    rounds: int = 15,
    seconds: float = 12.0,
    launches: int = 3,
    calls_per_second: float | None = None,
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
        launches: Processes that share the rounds.
        calls_per_second: The pace at which calls begin; default: without a pause.
        shape: What a file in no bundle leaves open: `channels,height,width` of the images, or `INPUT=SIZES` for one input;
            one or several.
        events: Where progress is reported.

    Raises:
        CompressError: A file is not what it is said to be, leaves a shape open that is not given, keeps weights elsewhere than
            beside it.
        Unreachable: A file, runtime or device is not there.
        Detached: The job was started and left alone, as the device was told to.
    """
    from benchmarks import protocol
    from benchmarks.devices import open_device

    shapes = parse_shapes([shape] if isinstance(shape, str) else shape or ())
    subjects, inputs = _prepare_subjects([Path(path) for path in paths], shapes, batch_size)
    names = [subject.name for subject in subjects]
    if against is not None and against not in names:
        raise CompressError(f"--against {against}: is not measured; {plugins.suggest_name(against, names)}")
    where = open_device(device) if isinstance(device, str) else device
    measured = protocol.measure(
        subjects,
        inputs,
        against=against or names[0],
        threads=threads,
        batch_size=choose_common_batch({subject.name: subject.batch_size for subject in subjects}, batch_size),
        rounds=rounds,
        seconds=seconds,
        launches=launches,
        calls_per_second=calls_per_second,
        device=where,
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
            sha256=hash_file(subject.path),
            machine=measured[subject.name].machine,
            device=where.name,
        )
        for subject in subjects
    }


def sustain_file(
    path: str | Path,
    *,
    minutes: float,
    device: str | Device = "local",
    threads: int = 1,
    batch_size: int | None = None,
    shape: str | Sequence[str] | None = None,
    events: Events,
) -> Sustained:
    """Call one file without a pause for some minutes.

    Args:
        path: The file.
        minutes: How long.
        device: Where.
        threads: Threads of the runtime.
        batch_size: Images per call; default: what the file fixes, or one.
        shape: What a file in no bundle leaves open, as for `measure_files`.
        events: Where progress is reported.

    Raises:
        CompressError: The path stands for several files, or as for `measure_files`.
        Unreachable: A file, runtime or device is not there.
    """
    from benchmarks.devices import open_device
    from benchmarks.sustained import sustain

    shapes = parse_shapes([shape] if isinstance(shape, str) else shape or ())
    subjects, inputs = _prepare_subjects([Path(path)], shapes, batch_size)
    if len(subjects) != 1:
        raise CompressError(f"{path}: holds {len(subjects)} files, and one is called for minutes; name it")
    size = choose_common_batch({subjects[0].name: subjects[0].batch_size}, batch_size)
    return sustain(
        subjects[0], inputs, minutes=minutes, threads=threads, batch_size=size,
        device=open_device(device) if isinstance(device, str) else device,
        events=events,
    )  # fmt: skip


def time_with_tool(
    paths: Sequence[str | Path], program: str, *, rounds: int, seconds: float, threads: int = 1,
    device: str | Device = "local", events: Events,
) -> dict[str, NativeTiming]:  # fmt: skip
    """Time files with their runtime's own program, which gives latency and nothing else.

    Args:
        paths: Files, bundles or runs; files of other runtimes than the program's are left out.
        program: The program, as the machine where it runs calls it.
        rounds: In each, every file is timed by a process of its own.
        seconds: For all files together.
        threads: Threads of the runtime.
        device: Where: local, or a board over ssh or adb.
        events: Where progress is reported.

    Raises:
        CompressError: No such program is known for the runtime, or it printed no latency.
        Unreachable: A file, the program or the device is not there.
    """
    from benchmarks import native
    from benchmarks.devices import open_device

    subjects, inputs = _prepare_subjects([Path(path) for path in paths], parse_shapes(()), None)
    runtime = native.find_runtime(program) or subjects[0].runtime
    chosen = [each for each in subjects if each.runtime == runtime]
    if not chosen:
        raise CompressError(f"{program}: runs files of {runtime}, and there is none; give one")
    if len(chosen) < len(subjects):
        left = ", ".join(each.name for each in subjects if each not in chosen)
        events.warn(f"{program}: runs files of {runtime}; left out: {left}")
    files = [
        native.NativeFile(
            each.name, each.path, each.runtime,
            [Path(part) for part in plugins.load("runtimes", each.runtime).parts(str(each.path))],
            inputs[each.name].find_shape(each, each.batch_size or 1) if each.name in inputs else (),
        )
        for each in chosen
    ]  # fmt: skip
    where = open_device(device) if isinstance(device, str) else device
    return native.time_files(
        files, program, threads=threads, rounds=rounds, seconds=seconds, device=where, events=events
    )  # fmt: skip


def measure_energies(
    paths: Sequence[str | Path],
    *,
    device: str | Device = "local",
    threads: int = 1,
    batch_size: int | None = None,
    shape: str | Sequence[str] | None = None,
    meter: str = "",
    events: Events,
) -> dict[str, Energy]:
    """Return the energy of a call of some files, by their names, or why it is not available.

    Args:
        paths: Files, bundles or runs.
        device: Where.
        threads: Threads of the runtime.
        batch_size: Images per call; default: what the files fix, or one.
        shape: What a file in no bundle leaves open, as for `measure_files`.
        meter: A program there that prints the lines of a power meter, as for `benchmarks.energy.measure_energy`.
        events: Where progress is reported.

    Raises:
        CompressError: As for `measure_files`.
        Unreachable: A file, runtime or device is not there.
    """
    from benchmarks.devices import open_device
    from benchmarks.energy import measure_energy

    shapes = parse_shapes([shape] if isinstance(shape, str) else shape or ())
    subjects, inputs = _prepare_subjects([Path(path) for path in paths], shapes, batch_size)
    size = choose_common_batch({subject.name: subject.batch_size for subject in subjects}, batch_size)
    return measure_energy(
        subjects, inputs, threads=threads, batch_size=size, meter=meter, events=events,
        device=open_device(device) if isinstance(device, str) else device,
    )  # fmt: skip


def profile_files(
    paths: Sequence[str | Path],
    *,
    device: str | Device = "local",
    threads: int = 1,
    batch_size: int | None = None,
    shape: str | Sequence[str] | None = None,
    events: Events,
) -> dict[str, tuple[Layer, ...]]:
    """Return the layers of some files with their times, the slowest first, by the names of the files.

    Args:
        paths: Files, bundles or runs.
        device: Where.
        threads: Threads of the runtime.
        batch_size: Images per call; default: what the files fix, or one.
        shape: What a file in no bundle leaves open, as for `measure_files`.
        events: Where progress is reported.

    Raises:
        CompressError: As for `measure_files`, or a runtime does not tell the time of single layers.
        Unreachable: A file, runtime or device is not there.
    """
    from benchmarks.devices import open_device
    from benchmarks.layers import profile

    shapes = parse_shapes([shape] if isinstance(shape, str) else shape or ())
    subjects, inputs = _prepare_subjects([Path(path) for path in paths], shapes, batch_size)
    size = choose_common_batch({subject.name: subject.batch_size for subject in subjects}, batch_size)
    where = open_device(device) if isinstance(device, str) else device
    return {
        subject.name: profile(subject, inputs, threads=threads, batch_size=size, device=where, events=events)
        for subject in subjects
    }


def _prepare_subjects(
    paths: Sequence[Path], shapes: Shapes, batch_size: int | None
) -> tuple[list[Subject], dict[str, Inputs]]:  # fmt: skip
    """Return what is measured, files of other tools with what they are fed, and the pictures for each of the others.

    Raises:
        CompressError: As `measure_files`.
        Unreachable: A file is not there.
    """
    from benchmarks.protocol import Inputs

    subjects = find_subjects(paths)
    lone = {path for path in paths if path.is_file() and path.suffix in READABLE and find_bundle_around(path) is None}
    fixed = [read_fixed_batch(each.path) if each.path in lone else each.batch_size for each in subjects]
    size = batch_size or next((each for each in fixed if each is not None), None)
    prepared = [add_feeds(each, shapes, size) if each.path in lone else each for each in subjects]
    shown = {folder: choose_inputs(file, shapes.image) for folder, file in _list_bundles(prepared).items()}
    inputs = {
        each.name: Inputs(*shown[find_bundle_around(each.path)]) for each in prepared if not each.feeds
    }  # fmt: skip
    return prepared, inputs


def _list_bundles(subjects: Sequence[Subject]) -> dict[Path | None, Path]:
    """Return one file for each bundle of which some are fed pictures, by the bundle's folder."""
    return {find_bundle_around(each.path): each.path for each in subjects if not each.feeds}


def refuse_unstable(measured: Mapping[str, FileTiming]) -> None:
    """Raise if a measurement never settled.

    Raises:
        Unstable: The message names each file.
    """
    shaky = [f"{name}: {timing.latency_ms.instability}" for name, timing in measured.items() if not timing.latency_ms.stable]
    if shaky:
        raise Unstable(f"{'; '.join(shaky)}; stop what else runs there, or give more --seconds")
