"""`fidelity.json` and `report.md`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.studies.fidelity.records import GOAL, Fidelity, Row
from compress.records import save
from compress.system.files import write_whole

RESULT, REPORT = "fidelity.json", "report.md"

DIFFERENCES = """\
Each figure is from a process of its own; in every round the two of a pair run one after the other, in alternating order. One
thread, one image in a call, float32 arithmetic, no pinning, the same file and shape for all. What differs:

* `benchmark_app -hint none -nstreams 1 -nthreads 1 -api sync -infer_precision f32 -pin NO -ip f32` takes OpenVINO's own clock
  around the request in C++ and feeds one random image, which stays where it is. Ours is a call from Python, about 5 µs more
  whoever makes it, which is above 3 % for a network of less than 170 µs, and it copies one of 16 images into the request and
  the logits out of it.
* A bare loop times `session.run` or `infer()` from Python, with one image that stays where it is; results are dropped.
"""


def write(result: Fidelity, folder: Path) -> None:
    """Write both files into a folder.

    Raises:
        Unreachable: It cannot be written.
    """
    save(folder / RESULT, result)
    with write_whole(folder / REPORT) as temporary:
        temporary.write_text(render(result), encoding="utf-8")


def render(result: Fidelity) -> str:
    """Return the report in Markdown."""
    machine = result.environment
    packages = ", ".join(f"{name} {machine.packages[name]}" for name in ("openvino", "onnxruntime") if name in machine.packages)
    facts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in machine.facts.items())
    lines = [
        "# Fidelity: our latencies over those of others",
        "",
        f"Goal: the median of the ratios is {GOAL[0]} to {GOAL[1]}. *met*: its whole 95 % interval is; *missed*: none of it.",
        "",
        "| network | precision | runtime | against | ours (µs) | other (µs) | added (µs) | ratio | 95 % | range | verdict |",
        "|---|---|---|---|--:|--:|--:|--:|--:|--:|---|",
        *map(_line, result.rows),
        "",
        *_count(result.rows),
        "",
        DIFFERENCES,
        f"Command: `{result.command}`; {result.seconds:g} s of timing in each process.",
        f"Machine: {machine.cpu}, {machine.platform}, Python {machine.python}, {packages}; {facts}.",
    ]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    ours, other = (1000 * sorted(times)[len(times) // 2] for times in (row.ours_ms, row.other_ms))
    (low, high), least, most = row.ci95, min(row.ratios), max(row.ratios)
    figures = f"{ours:.1f} | {other:.1f} | {row.added_microseconds:+.1f} | {row.ratio:.3f} | {low:.3f}–{high:.3f}"
    place = f"{row.network} | {row.precision} | {row.runtime} | {row.against}"
    return f"| {place} | {figures} | {least:.3f}–{most:.3f} | {row.verdict} |"


def _count(rows: tuple[Row, ...]) -> Iterator[str]:
    verdicts = [row.verdict for row in rows]
    told = ", ".join(f"{verdicts.count(each)} {each}" for each in ("met", "missed", "undecided"))
    yield f"{told}, after {len(rows[0].ratios)} rounds."
