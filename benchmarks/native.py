"""Latency of files by a runtime's own program, which the user names: on boards where Python or our runner cannot be.

LiteRT's `benchmark_model`, OpenVINO's `benchmark_app` and ONNX Runtime's `onnxruntime_perf_test` are known, by what they print.
Each process times one file, in rounds that take the files in turn and in another order each time. What such a tool tells is
latency alone: no answer comes back, so nothing is judged and there is no accuracy.
Source: tensorflow/lite/tools/benchmark, openvino/tools/benchmark_tool, onnxruntime/test/perftest, and what users of them print.
"""

from __future__ import annotations

import random
import re
import shlex
import statistics
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from benchmarks.devices import Device
from benchmarks.devices._remote import Remote
from benchmarks.devices._remote.transport import clip, converse, end, read_said
from benchmarks.devices.local import Local
from compress.errors import CompressError, Unreachable
from compress.events import Events
from compress.records import NativeTiming, Ratio
from compress.statistics.series import compute_median_interval, compute_paired_ratios, judge_ratio

FEWEST_ROUNDS = 6
"""The range of six rounds holds their median in 97 of 100 measurements."""
MOST_PRINTED = 1 << 20
"""Letters that a tool may print."""
FIRST_WORDS = 'd=/data/local/tmp; [ -d "$d" ] || d="${TMPDIR:-/tmp}"; f="$d/edge-compress-tool"; mkdir -p "$f" && cd "$f"'
"""On a board: a folder of ours, on a phone in the only place where adb's shell may run programs."""


class Tool(NamedTuple):
    """A program of a runtime, as far as it is known."""

    name: str
    statistic: str
    """What it tells of a round: `median` or `mean`."""
    make_arguments: Callable[[str, int, int], list[str]]
    """Of the file, the threads and the seconds."""
    make_shape: Callable[[tuple[int, ...]], list[str]]
    """Of the shape of the input, for a file that leaves it open."""
    pattern: re.Pattern[str]
    """What it prints of it, with the number and, where it varies, the unit."""
    scale: float
    """Of a number without a unit, milliseconds."""


class NativeFile(NamedTuple):
    """A file for a program that knows nothing of ours."""

    name: str
    path: Path
    runtime: str
    parts: Sequence[Path]
    """All files that belong to it."""
    shape: tuple[int, ...] = ()
    """Of its input, with the batch; empty where it is not known."""


TOOLS = {
    "litert": Tool(
        "benchmark_model", "mean",
        lambda file, threads, seconds: [
            f"--graph={file}", f"--num_threads={threads}", f"--min_secs={seconds}", "--num_runs=50", "--warmup_runs=5",
        ],
        lambda _shape: [],  # it takes 1 for what is open
        re.compile(r"Inference \(avg\): ([0-9.e+]+)|no stats: ([0-9.e+]+)"), 1e-3,
    ),
    "openvino": Tool(
        "benchmark_app", "median",
        lambda file, threads, seconds: [
            "-m", file, "-d", "CPU", "-hint", "none", "-nstreams", "1", "-nthreads", str(threads), "-api", "sync", "-t",
            str(seconds), "-infer_precision", "f32", "-pin", "NO",
        ],
        lambda shape: ["-shape", f"[{','.join(map(str, shape))}]"],
        re.compile(r"Median:\s+([0-9.]+) (us|ms)"), 1.0,
    ),
    "onnxruntime": Tool(
        "onnxruntime_perf_test", "median",
        lambda file, threads, seconds: [
            "-m", "duration", "-t", str(seconds), "-x", str(threads), "-y", "1", "-I", "-s", file,
        ],
        lambda _shape: [],  # with -I it takes 1 for what is open
        re.compile(r"P50 Latency(?: is|:) ([0-9.e+-]+) ?s"), 1e3,
    ),
}  # fmt: skip
"""By the runtime whose files they run."""
UNITS = {"us": 1e-3, "ms": 1.0}


def find_runtime(program: str) -> str | None:
    """Return the runtime of a program by its name; none where it is called otherwise."""
    return next((runtime for runtime, tool in TOOLS.items() if tool.name in Path(program).name), None)


def read_figure(tool: Tool, printed: str) -> float:
    """Return the milliseconds of a call that a tool printed.

    Raises:
        CompressError: It printed none.
    """
    found = list(tool.pattern.finditer(printed))
    if not found:
        tail = clip(" / ".join(printed.strip().splitlines()[-3:]))
        raise CompressError(f"{tool.name}: printed no {tool.statistic} latency ({tail}); is it the program of that name?")
    number, unit = next(filter(None, found[-1].groups())), found[-1].groups()[-1]
    return float(number) * UNITS.get(unit or "", tool.scale)


def time_files(
    files: Sequence[NativeFile], program: str, *, threads: int = 1, rounds: int = FEWEST_ROUNDS,
    seconds: float = 12.0, device: Device | None = None, seed: int = 0, events: Events | None = None,
) -> dict[str, NativeTiming]:  # fmt: skip
    """Return the latency of files by a runtime's own program.

    Args:
        files: All of one runtime.
        program: The tool, as the machine where it runs calls it.
        threads: Threads of the runtime.
        rounds: In each, every file is timed by a process of its own.
        seconds: For all files together.
        device: Where: this machine, or a board over ssh or adb, which then needs no Python.
        seed: Of the order within the rounds.
        events: Where progress is shown.

    Raises:
        CompressError: No tool is known for the runtime, or it printed no latency.
        Unreachable: The tool or the board is not there, or the tool failed.
    """
    runtimes = {file.runtime for file in files}
    if len(runtimes) != 1 or not runtimes <= TOOLS.keys():
        known = ", ".join(f"{tool.name} ({runtime})" for runtime, tool in TOOLS.items())
        raise CompressError(f"{program}: files of {', '.join(sorted(runtimes))}; give those of one runtime, of: {known}")
    if rounds < FEWEST_ROUNDS:
        raise CompressError(f"{program}: {rounds} rounds give no interval; use at least {FEWEST_ROUNDS}")
    tool, each = TOOLS[runtimes.pop()], max(1, round(seconds / rounds / len(files)))
    series: dict[str, list[float]] = {file.name: [] for file in files}
    shuffler = random.Random(seed)  # noqa: S311 (an order, no secret)
    with (
        open_place(device) as place,
        (events or Events()).task(tool.name, total=rounds * len(files), kind="timing") as task,
    ):
        for file in files:
            place.bring(file.path, file.parts)
        for _ in range(rounds):
            for file in shuffler.sample(files, len(files)):
                shape = tool.make_shape(file.shape) if file.shape else []
                words = [program, *tool.make_arguments(place.find(file.path), threads, each), *shape]
                series[file.name].append(read_figure(tool, place.run(words, 60.0 + 5 * each)))
                task.advance(1, note=file.name)
    return _summarize(tool, series, threads, "local" if device is None else device.name)


def _summarize(tool: Tool, series: dict[str, list[float]], threads: int, device: str) -> dict[str, NativeTiming]:
    first, *_ = series
    found = {}
    for name, values in series.items():
        ratios = compute_paired_ratios(series[first], values)
        ci95 = compute_median_interval(ratios)
        verdict = judge_ratio(ci95)
        ratio = Ratio(against=first, speedup=statistics.median(ratios), ci95=ci95, verdict=verdict)
        found[name] = NativeTiming(
            tool=tool.name, statistic=tool.statistic, device=device, p50=statistics.median(values), threads=threads,
            ci95=compute_median_interval(values), rounds=tuple(values), ratio=None if name == first else ratio,
        )  # fmt: skip
    return found


class _Here:
    """This machine."""

    def bring(self, path: Path, parts: Sequence[Path]) -> None:
        """Leave the parts of a file where they are."""

    def find(self, path: Path) -> str:
        """Return where a file is."""
        return str(path.absolute())

    def run(self, words: Sequence[str], seconds: float) -> str:
        """Return what a program printed.

        Raises:
            Unreachable: It is not there, failed, or did not end.
        """
        try:
            done = subprocess.run(
                words, capture_output=True, text=True, errors="replace", timeout=seconds, check=False, stdin=subprocess.DEVNULL
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unreachable(f"{words[0]}: cannot be run ({error}); name the program that is there") from error
        return _take(words[0], done.returncode, done.stdout[-MOST_PRINTED:] + done.stderr[-MOST_PRINTED:])


class _There:
    """A board, over its transport alone: a shell, and nothing of ours."""

    def __init__(self, board: Remote) -> None:
        self._board = board

    def bring(self, path: Path, parts: Sequence[Path]) -> None:
        """Send the parts of a file into a folder of their own.

        Raises:
            Unreachable: They did not arrive whole.
        """
        for part in parts:
            content, name = part.read_bytes(), shlex.quote(f"{path.stem}/{part.name}")
            make = f"{FIRST_WORDS} && mkdir -p {shlex.quote(path.stem)}"
            script = f"{make} && cat >{name} && [ $(wc -c <{name}) -eq {len(content)} ]"
            status, said = self._ask(script, content, 600.0)
            if status != 0:
                raise Unreachable(f"{self._board.name}: {part.name} did not arrive whole ({clip(said)}); see its disk")

    def find(self, path: Path) -> str:
        """Return where a file is, from our folder there."""
        return f"{path.stem}/{path.name}"

    def run(self, words: Sequence[str], seconds: float) -> str:
        """Return what a program printed.

        Raises:
            Unreachable: It is not there, failed, or did not end.
        """
        script = f"{FIRST_WORDS} && {shlex.join(words)} 2>&1 </dev/null"
        status, said = self._ask(script, b"", seconds)
        return _take(f"{self._board.name}: {words[0]}", status, said)

    def _ask(self, script: str, content: bytes, seconds: float) -> tuple[int, str]:
        transport = self._board.transport
        with transport.hold(), converse(transport, script, seconds=seconds) as (conversation, said):
            conversation.write(content)
            conversation.close()
            printed = b"".join(conversation.read_bytes(MOST_PRINTED)).decode("utf-8", "replace")
            end(conversation.process, seconds=seconds)
            status, problem = conversation.process.returncode, read_said(said)
        explained = transport.explain(status, problem) if status and not printed else None
        if explained is not None:
            raise type(explained)(f"{self._board.name}: {explained}")
        return status, printed or problem

    def leave(self) -> None:
        """Remove what was sent."""
        self._ask(f'{FIRST_WORDS} && cd .. && rm -rf "$f"', b"", 60.0)


def open_place(device: Device | None) -> AbstractContextManager[_Here | _There]:
    """Give the place where a tool runs; what was sent there is removed afterwards.

    Raises:
        CompressError: The device is emulated, or cannot be told to run a program.
    """
    if device is None or isinstance(device, Local):
        return nullcontext(_Here())
    if not isinstance(device, Remote):
        raise CompressError(f"{device.name}: runs no programs of others; give local, ssh://user@host or adb://SERIAL")

    return _visit(_There(device))


@contextmanager
def _visit(place: _There) -> Iterator[_There]:
    """Give a board, and remove afterwards what was sent there."""
    try:
        yield place
    finally:
        place.leave()


def _take(name: str, status: int, printed: str) -> str:
    """Return what a program printed.

    Raises:
        Unreachable: It failed.
    """
    if status != 0:
        last = clip(printed.strip().splitlines()[-1]) if printed.strip() else "it said nothing"
        raise Unreachable(f"{name}: ended with status {status} ({last}); look at it by hand")
    return printed
