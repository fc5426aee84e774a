"""Whether a board has what a job needs, before anything is sent, and why a job there did not end well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.devices._remote.agent import require
from benchmarks.devices._remote.packing import Blob
from benchmarks.devices._remote.transport import clip
from benchmarks.devices._runner_output import RunnerOutput
from compress import plugins
from compress.errors import Unreachable
from compress.text import format_bytes

RUNNER_PYTHON = (3, 9)
ROOM_BYTES = 8 << 20
"""Room for results and log beside what is sent."""
LITTLE_BYTES = 1 << 20
"""A disk with less free is full."""


def refuse_unfit(
    answer: dict[str, Any], facts: dict[str, Any], files: Mapping[str, Blob], *, folder: str, address: str
) -> None:  # fmt: skip
    """Refuse a board that lacks something, before anything is sent.

    Raises:
        Unreachable: The message says what it lacks.
    """
    runner = require(answer, "runner", dict)
    if "failed" in runner:
        raise Unreachable(
            f"{clip(runner.get('python'))} cannot be run there ({clip(runner['failed'])}); name another with the option "
            f"python, or: compress device prepare {address}"
        )
    version = tuple(require(runner, "version", list)[:2])
    if not all(isinstance(part, int) for part in version) or version < RUNNER_PYTHON:
        raise Unreachable(
            f"has Python {'.'.join(map(str, version))}, and jobs need {'.'.join(map(str, RUNNER_PYTHON))}; name a newer "
            "one with the option python"
        )
    missing = [name for name, there in require(runner, "modules", dict).items() if there is not True]
    if missing:
        raise Unreachable(explain_missing(missing[0], address))
    sizes = {blob.sha256: blob.size_bytes for blob in files.values()}
    needed = sum(sizes.get(str(sha), 0) for sha in require(answer, "missing", list)) + ROOM_BYTES
    if needed > require(answer, "free_bytes", int):
        raise Unreachable(
            f"{format_bytes(needed)} are needed in {folder} and {format_bytes(answer['free_bytes'])} are free; free "
            f"space: compress device clean {address}"
        )
    heaviest, memory = (
        max(measure_models(facts, files), default=("", 0), key=lambda each: each[1]),
        answer.get("memory_bytes"),
    )
    if isinstance(memory, int) and heaviest[1] > memory:
        raise Unreachable(
            f"{heaviest[0]}: has {format_bytes(heaviest[1])}, and {format_bytes(memory)} of memory are free there; take a "
            "smaller file"
        )


def refuse_failed(output: RunnerOutput, end: dict[str, Any], seconds: float, address: str) -> None:
    """Raise what ended a job that did not end well.

    Raises:
        CompressError: The runner reported what is wrong with the job.
        Unreachable: It died or vanished.
    """
    if "vanished" in end:
        how = "the board restarted in the middle" if end["vanished"] == "rebooted" else "somebody killed the job's keeper there"
        raise Unreachable(f"{output.subject}: {how}; start it again")
    if "failed" in end:
        raise Unreachable(f"the runner could not be started ({clip(end['failed'])}); compress device prepare {address}")
    code, free = require(end, "code", int), end.get("free_bytes")
    if code == 0:
        return
    if not -64 <= code <= 255:
        raise Unreachable(f"{output.subject}: ended with status {code}, which no process does; look at the board by hand")
    if output.is_full() or (isinstance(free, int) and free < LITTLE_BYTES):
        raise Unreachable(f"{output.subject}: the disk there became full; free space: compress device clean {address}")
    if output.error is not None and "missing" in output.error:
        raise Unreachable(explain_missing(str(output.error["missing"]), address))
    if output.error is not None:
        output.error["error"] = clip(output.error["error"], 2000)
    raise output.make_error(code, seconds if end.get("late") is True else None)


def explain_missing(module: str, address: str) -> str:
    """Return what to do where a package is not there."""
    return f"has no package {clip(module, 60)!r}, which the job needs: compress device prepare {address}"


def list_modules(facts: dict[str, Any]) -> list[str]:
    """Return what a job imports, by the names under which that is done."""
    runtimes = {subject["runtime"] for subject in facts["subjects"]} & set(plugins.list_names("runtimes"))
    return ["numpy", *sorted(plugins.load("runtimes", name).package.replace("-", "_") for name in runtimes)]


def measure_models(facts: dict[str, Any], files: Mapping[str, Blob]) -> list[tuple[str, int]]:
    """Return the name of each subject and how much its files hold."""
    folders = {subject["name"]: subject["file"].rpartition("/")[0] + "/" for subject in facts["subjects"]}
    return [
        (name, sum(blob.size_bytes for place, blob in files.items() if place.startswith(folder)))
        for name, folder in folders.items()
    ]
