"""`compress verify`, `bench` and `predict`: what works with finished files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compress.cli.arguments import FOLDER, PATH, FiniteRange, PercentType, RunFolder, make_command, quote, threads_option
from compress.cli.terminal import Terminal

if TYPE_CHECKING:
    from compress.deployed.latency_gate import Measure


@make_command("verify")
@click.argument("bundle", type=RunFolder())
@click.option("--file", help="Only this file of the bundle.")
@click.option(
    "--device", default="local", show_default=True, help="Where to run them, e.g. qemu:aarch64 (compress list devices)."
)
@click.option("--locate", is_flag=True, help="Find the first layer in which each file parts from a good file of its network.")
@click.option("--against", type=FOLDER, metavar="RUN", help="With --locate: the run whose student the good file is made of.")
@threads_option
def verify(
    terminal: Terminal, *, bundle: Path, file: str | None, device: str, locate: bool, against: Path | None, threads: int
) -> None:  # fmt: skip
    """Gate the files of a bundle again, on their own runtimes.

    Images, the torch network's outputs and the gate are those that the bundle carries; what its gate allows beyond the
    defaults is said.
    """
    from compress.cli import tables
    from compress.deployed.verify import find_unfamiliar_programs, refuse_failures, verify_bundle

    events = terminal.events()
    if against is not None and not locate:
        raise click.UsageError("--against says where to look for a good file; give it with --locate")
    if locate and device != "local":
        raise click.UsageError("--locate looks into files on this machine; give it without --device")
    if locate:
        from compress.deployed.locate import locate_divergence

        found = locate_divergence(bundle, file=file, against=against, events=events)
        terminal.write_result(found, *tables.draw_layers(found))
        terminal.hint(f"{quote('verify', bundle)} judges the files; compress export RUN writes them anew")
        return
    gates = verify_bundle(bundle, file=file, device=device, threads=threads, events=events)
    terminal.write_result(gates, tables.draw_gates(gates), *tables.list_gate_notes(gates))
    for program in find_unfamiliar_programs(bundle):
        events.say(f"{program}: is not what this version writes; another version's, or changed: read it before you run it")
    if any(gate.status == "failed" for gate in gates.values()):
        terminal.hint(f"{quote('verify', bundle, '--locate')} names the layer in which a file parts from a good one")
    refuse_failures(gates)
    terminal.hint(quote("bench", bundle))


@make_command("bench")
@click.argument("paths", type=PATH, nargs=-1, metavar="FILE_OR_RUN...")
@click.option("--against", help="File that the others are compared with; default: the first.")
@click.option("--device", default="local", show_default=True, help="Where to measure: local, ssh://user@host and so on.")
@click.option("--detach", is_flag=True, help="Start it on the board and leave it alone; --attach fetches it.")
@click.option("--attach", metavar="JOB", help="Fetch a job that was detached or lost; it knows its files and options.")
@click.option("--no-wait", is_flag=True, help="Refuse a board that works for somebody else, instead of waiting.")
@threads_option
@click.option("--batch-size", type=click.IntRange(min=1), help="Images per call; default: what the files fix, or 1.")
@click.option("--rounds", type=click.IntRange(min=5), default=15, show_default=True, help="Interleaved rounds.")
@click.option(
    "--seconds",
    type=FiniteRange(min=0, min_open=True),
    default=12.0,
    show_default=True,
    help="Time for all files together.",
)
@click.option("--cpus", metavar="big|little|0-3", help="The cores that may be used, here or on a board; default: all.")
@click.option(
    "--cpu-quota",
    type=FiniteRange(min=0, min_open=True),
    metavar="CORES",
    help="With the device local: cores' worth of time in all, e.g. 0.5.",
)
@click.option(
    "--launches",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Processes that share the rounds; a latency needs 3 to be called stable.",
)
@click.option(
    "--pace",
    type=FiniteRange(min=0, min_open=True),
    metavar="CALLS_PER_SECOND",
    help="Begin calls at this pace, as a camera gives pictures; default: without a pause.",
)
@click.option(
    "--sustained",
    type=FiniteRange(min=0, min_open=True),
    metavar="MINUTES",
    help="Call one file without a pause, and show what heat does to it.",
)
@click.option("--energy", is_flag=True, help="Measure the energy of a call instead, where the machine has a sensor.")
@click.option(
    "--meter", metavar="PROGRAM", help="With --energy: a program there that prints lines `seconds watts` of a power meter."
)
@click.option(
    "--tool",
    metavar="PROGRAM",
    help="Time with the runtime's own program, as the device calls it: benchmark_model, benchmark_app, onnxruntime_perf_test.",
)
@click.option("--profile", "profiled", is_flag=True, help="Show the time of each layer instead, as the runtime tells it.")
@click.option(
    "--baseline",
    type=PATH,
    help="Fail if a file is slower than here: old files, their bundle or run, or what `bench --json` wrote of them.",
)
@click.option("--max-slower", type=PercentType(), help="With --baseline: how much slower is allowed; default: 5%.")
@click.option("--junit", type=PATH, metavar="FILE", help="With --baseline: write the verdicts as JUnit's XML.")
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="[INPUT=]SIZES",
    help="What a file that is in no bundle leaves open: 3,224,224, or images=3,640,640 for one input; repeatable.",
)
def bench(
    terminal: Terminal, *, paths: Sequence[Path], against: str | None, device: str, threads: int, batch_size: int | None,
    rounds: int, seconds: float, launches: int, pace: float | None, sustained: float | None, profiled: bool,
    baseline: Path | None, max_slower: float | None, junit: Path | None, cpus: str | None, cpu_quota: float | None,
    shapes: Sequence[str], detach: bool, attach: str | None, no_wait: bool, energy: bool,
    meter: str | None, tool: str | None,
) -> None:  # fmt: skip
    """Measure files, bundles or runs against each other or a baseline.

    A file of another tool is timed on noise of the type and shape that it takes, with any number of inputs and outputs.

    With --baseline it ends with 0 where every file is shown to be within the limit, 3 where one is shown to be slower, and 4
    where noise lets neither be said.
    """
    from benchmarks.devices import Detached
    from compress.cli import tables
    from compress.deployed.bench import measure_files, refuse_unstable
    from compress.deployed.remote import attach_job, choose_device

    if not paths and attach is None:
        raise click.UsageError("Missing argument 'FILE_OR_RUN...'.")
    if attach is not None and (paths or detach):
        raise click.UsageError("--attach knows its files; give it alone")
    modes = {
        "--against": against, "--baseline": baseline, "--profile": profiled or None, "--sustained": sustained,
        "--energy": energy or None, "--tool": tool,
    }  # fmt: skip
    given = [name for name, value in modes.items() if value is not None]
    if len(given) > 1 or (given != ["--against"] and given and (detach or attach)):
        raise click.UsageError(f"{' and '.join(given)}: give one of them, and without --detach and --attach")
    if baseline is None and (max_slower is not None or junit is not None):
        raise click.UsageError("--max-slower and --junit are about a baseline; give it with --baseline")
    if meter is not None and not energy:
        raise click.UsageError("--meter tells power; give it with --energy")
    limits = {name: value for name, value in (("cpus", cpus), ("cpu_quota", cpu_quota)) if value is not None}
    load: dict[str, Any] = {"threads": threads, "batch_size": batch_size, "shape": list(shapes)}
    timing: dict[str, Any] = {"rounds": rounds, "seconds": seconds, "launches": launches, "calls_per_second": pace}
    settings: dict[str, Any] = {
        "paths": [str(path if device == "local" else path.absolute()) for path in paths], "against": against, **load, **timing
    }  # fmt: skip
    events = terminal.events()
    if attach is None:
        chosen = choose_device(device, limits=limits, detach=detach, wait=not no_wait, memo=settings, events=events)
    else:
        chosen, settings = attach_job(attach, events=events)
    if profiled:
        _show_layers(terminal, paths, {"device": chosen, "events": events, **load})
        return
    there: dict[str, Any] = {"device": chosen, "events": events}
    carry_out: dict[str, Callable[[], None]] = {
        "--tool": lambda: _show_native(
            terminal, paths, str(tool), {**there, "threads": threads, "seconds": seconds, "rounds": rounds}
        ),
        "--energy": lambda: _show_energies(terminal, paths, there | load | {"meter": meter or ""}),
        "--profile": lambda: _show_layers(terminal, paths, there | load),
        "--sustained": lambda: _show_windows(terminal, paths, float(sustained or 0), there | load),
        "--baseline": lambda: _judge_latency(
            terminal, paths, Path(baseline or ""), max_slower=max_slower, junit=junit,
            measure=partial(measure_files, **there, **load, **timing),
        ),
    }  # fmt: skip
    if given and given != ["--against"]:
        carry_out[given[0]]()
        return
    try:
        measured = measure_files(**settings, device=chosen, events=events)
    except Detached as started:
        terminal.write_result({"job": started.job, "device": started.device}, str(started))
        terminal.hint(quote("bench", "--attach", started.job))
        return
    terminal.write_result(measured, tables.draw_timings(measured))
    refuse_unstable(measured)
    terminal.hint("more --seconds narrows the intervals; compress compare RUN... shows accuracy beside latency")


def _show_layers(terminal: Terminal, paths: Sequence[Path], settings: dict[str, Any]) -> None:
    """Carry out `bench --profile`."""
    from compress.cli import tables
    from compress.deployed.bench import profile_files

    layers = profile_files(paths, **settings)
    terminal.write_result(layers, *(shown for name, each in layers.items() for shown in tables.draw_profile(name, each)))


def _show_native(terminal: Terminal, paths: Sequence[Path], tool: str, settings: dict[str, Any]) -> None:
    """Carry out `bench --tool`."""
    from compress.cli import tables
    from compress.deployed.bench import time_with_tool

    found = time_with_tool(paths, tool, **settings)
    terminal.write_result(found, tables.draw_native(found), "latency alone: such a program gives no answers to judge")


def _show_energies(terminal: Terminal, paths: Sequence[Path], settings: dict[str, Any]) -> None:
    """Carry out `bench --energy`."""
    from compress.cli import tables
    from compress.deployed.bench import measure_energies

    found = measure_energies(paths, **settings)
    terminal.write_result(found, tables.draw_energies(found), *tables.describe_sensors(found))


def _show_windows(terminal: Terminal, paths: Sequence[Path], minutes: float, settings: dict[str, Any]) -> None:
    """Carry out `bench --sustained`."""
    from compress.cli import tables
    from compress.deployed.bench import sustain_file

    if len(paths) != 1:
        raise click.UsageError("--sustained calls one file without a pause; give one FILE")
    found = sustain_file(paths[0], minutes=minutes, **settings)
    terminal.write_result(found, tables.draw_windows(found), tables.describe_sustained(found))


def _judge_latency(
    terminal: Terminal, paths: Sequence[Path], baseline: Path, *, max_slower: float | None, junit: Path | None, measure: Measure
) -> None:
    """Carry out `bench --baseline`."""
    from compress.cli import tables
    from compress.deployed.junit import write_junit
    from compress.deployed.latency_gate import check_latency, refuse_slower

    found = check_latency(paths, baseline, max_slower=0.05 if max_slower is None else max_slower, measure=measure)
    if junit is not None:
        write_junit(junit, found)
    terminal.write_result(found, tables.draw_timings(found.timings), tables.draw_latency_verdicts(found))
    refuse_slower(found)


@make_command("predict")
@click.argument("bundle", type=RunFolder())
@click.argument("images", type=PATH, nargs=-1, required=True, metavar="IMAGE_OR_FOLDER...")
@click.option("--file", help="File of the bundle; default: the first.")
@click.option("--top", type=click.IntRange(min=1), default=3, show_default=True, help="Classes to show.")
@click.option(
    "--out",
    type=PATH,
    help="Folder for the map of each picture of a segmentation, or the picture with the boxes of a detection.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Write a line of CSV for each picture as it is classified.")
@click.option("--json-lines", "as_lines", is_flag=True, help="Write a line of JSON for each picture as it is classified.")
@threads_option
def predict(
    terminal: Terminal, *, bundle: Path, images: Sequence[Path], file: str | None, top: int, out: Path | None, as_csv: bool,
    as_lines: bool, threads: int,
) -> None:  # fmt: skip
    """Say what is in your pictures, with the deployed file.

    A folder stands for all pictures in it and below. Of a segmentation the share of each class in a picture is shown, of a
    detection every object with its score and its box: left, top, right and bottom in pixels of the picture.
    """
    from compress.cli import tables
    from compress.deployed.predict import iterate_predictions, refuse_unread

    if as_csv + as_lines + terminal.as_json > 1:
        raise click.UsageError("--csv, --json-lines and --json say the same in other forms; give one of them")
    predictions = iterate_predictions(bundle, images, file=file, top=top, threads=threads, events=terminal.events(), out=out)
    if as_csv:
        done = list(terminal.write_csv(tables.list_prediction_columns(top), predictions, tables.list_prediction_cells))
    elif as_lines:
        done = list(terminal.write_json_lines(predictions))
    else:
        done = list(predictions)
        terminal.write_result(done, tables.draw_predictions(done))
    refuse_unread(done)
    terminal.hint(quote("bench", bundle))
