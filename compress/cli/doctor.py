"""Examine this machine: what works, what does not, and what to do about it (`compress doctor`).

A runtime is not believed to work because it can be imported: each one runs a tiny inference in a process of its own, so that
one that crashes (an unknown instruction, a clash of libraries) is a line in a table and not the end of the program.
"""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from compress import plugins
from compress.errors import Unreachable
from compress.plugins import DISTRIBUTION
from compress.records import Record
from compress.system.processors import count_processors
from compress.text import format_bytes, quantify

PROBE_SECONDS = 120
LOAD = "load_average_1_5_15_min"
"""Of the facts of the machine."""
BUSY_SHARE = 0.5
"""A load beyond this share of the processors leaves none of them alone with a measurement and the system."""
PROBE = "import sys; from compress import plugins; print(plugins.load('runtimes', sys.argv[1]).probe())"
"""What a process does to try a runtime."""
NEEDED_BYTES, COMFORTABLE_BYTES = 200 << 20, 2 << 30
"""A small run leaves about 50 MB; runs on larger networks and their states take gigabytes."""


class Finding(Record):
    """One thing that was looked at."""

    what: str
    status: Literal["ok", "warning", "failed", "absent"]
    found: str
    remedy: str = ""


def examine(runs: Path) -> list[Finding]:
    """Look at everything that a run needs.

    Args:
        runs: Folder that runs are written to.
    """
    return [
        _check_python(),
        *_check_packages(),
        *_check_extras(),
        *map(_check_runtime, plugins.list_names("runtimes")),
        *_describe_machine(),
        *_check_disk(runs),
    ]


def refuse_broken(findings: Sequence[Finding]) -> None:
    """Raise if something that is needed does not work.

    Raises:
        Unreachable: The message names each.
    """
    broken = [f"{finding.what}: {finding.found}; {finding.remedy}" for finding in findings if finding.status == "failed"]
    if broken:
        raise Unreachable("\n".join(broken))


def _check_python() -> Finding:
    found = f"{platform.python_version()} at {sys.executable}"
    return Finding(what="python", status="ok", found=found)


def _check_packages() -> Iterator[Finding]:
    """Yield every required package whose version is not what was tried, and one line for all others."""
    good = []
    for requirement in _list_requirements():
        finding = _check_package(requirement)
        if finding.status == "ok":
            good.append(finding.found)
        else:
            yield finding
    yield Finding(what="packages", status="ok", found=", ".join(good))


def _check_extras() -> Iterator[Finding]:
    for extra in importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []:
        wanted = [_check_package(requirement) for requirement in plugins.list_extra(extra) if requirement.name != DISTRIBUTION]
        missing = [finding.what for finding in wanted if finding.status != "ok"]
        remedy = f"if you need it: pip install '{DISTRIBUTION}[{extra}]'" if missing else ""
        found = f"lacks {', '.join(missing)}" if missing else ", ".join(finding.found for finding in wanted)
        yield Finding(what=f"extra {extra}", status="absent" if missing else "ok", found=found, remedy=remedy)


def _list_requirements() -> Iterator[Requirement]:
    """Yield what this distribution requires without any extra."""
    for requirement in map(Requirement, importlib.metadata.requires(DISTRIBUTION) or []):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement


def _check_package(requirement: Requirement) -> Finding:
    name, wanted = requirement.name, f"{requirement.name}{requirement.specifier}"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(what=name, status="failed", found="is not installed", remedy=f"pip install '{wanted}'")
    if not requirement.specifier.contains(version, prereleases=True):
        found = f"{version} is not {requirement.specifier}"
        return Finding(what=name, status="failed", found=found, remedy=f"pip install '{wanted}'")
    return Finding(what=name, status="ok", found=f"{name} {version}")


def _check_runtime(name: str) -> Finding:
    """Let a runtime do one inference in its own process, if it is there."""
    return try_runtime(name, plugins.load("runtimes", name).package, PROBE)


def try_runtime(name: str, package: str, program: str) -> Finding:
    """Return whether a runtime works; one that nobody must have is at worst a warning.

    Args:
        name: Of the runtime, which is also the extra that brings it, where there is one.
        package: The distribution that it needs.
        program: What runs one inference and prints a line, given the name.
    """
    what = f"runtime {name}"
    if package in {requirement.name for requirement in _list_requirements()}:
        works, found = _run_probe(program, name)
        remedy = "" if works else f"pip install --force-reinstall {package}, in an environment of its own"
        return Finding(what=what, status="ok" if works else "failed", found=found, remedy=remedy)
    extras = importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    wanted = f"'{DISTRIBUTION}[{name}]'" if name in extras else f"'{package}'"
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        remedy = f"if you need its format: pip install {wanted}"
        return Finding(what=what, status="absent", found=f"{package} is not installed", remedy=remedy)
    works, found = _run_probe(program, name)
    remedy = "" if works else f"if you need its format: pip install --force-reinstall {wanted}, in an environment of its own"
    return Finding(what=what, status="ok" if works else "warning", found=found, remedy=remedy)


def _run_probe(program: str, name: str) -> tuple[bool, str]:
    """Return whether a program did what it should in a process of its own, and the last line that it printed."""
    command = [sys.executable, "-c", program, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return False, f"no answer in {PROBE_SECONDS} s"
    if done.returncode < 0:
        return False, f"killed by signal {-done.returncode}"
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
    return done.returncode == 0, (lines or ["no message"])[-1]


def _describe_machine() -> Iterator[Finding]:
    from benchmarks.environment import read_environment
    from benchmarks.machine import UNAVAILABLE

    here = read_environment()
    cores = f"{here.cores_physical or '?'} cores, {here.cores_logical} threads, {format_bytes(here.memory_bytes)}"
    yield Finding(what="processor", status="ok", found=f"{here.cpu}; {cores}")
    hidden = [name.replace("_", " ") for name, value in here.facts.items() if value == UNAVAILABLE]
    for name, value in here.facts.items():
        if name == LOAD and value != UNAVAILABLE:
            yield check_load(value, count_processors())
        elif value != UNAVAILABLE:
            yield Finding(what=name.replace("_", " "), status="ok", found=value)
    if hidden:
        yield Finding(what="unreadable", status="absent", found=f"{', '.join(hidden)}: reports will say so")


def check_load(found: str, processors: int) -> Finding:
    """Return whether so much else runs that latencies measured now would be those of a busy machine.

    Args:
        found: Load averages of 1, 5 and 15 minutes, separated by commas.
        processors: That this process may use.
    """
    busy = float(found.partition(",")[0]) > BUSY_SHARE * processors
    text = f"{found} on {quantify(processors, 'processor')}"
    remedy = "stop what else runs before you measure, or latencies are unstable and too long" if busy else ""
    return Finding(what=LOAD.replace("_", " "), status="warning" if busy else "ok", found=text, remedy=remedy)


def _check_disk(runs: Path) -> Iterator[Finding]:
    existing = next(folder for folder in (runs.absolute(), *runs.absolute().parents) if folder.is_dir())
    try:
        with tempfile.TemporaryFile(dir=existing):
            yield Finding(what="runs folder", status="ok", found=f"{runs.absolute()} can be written")
    except OSError as error:
        yield Finding(
            what="runs folder", status="failed", found=f"{existing}: {error.strerror}", remedy="give another folder with --runs"
        )
    free = shutil.disk_usage(existing).free
    status: Literal["ok", "warning", "failed"] = (
        "failed" if free < NEEDED_BYTES else "warning" if free < COMFORTABLE_BYTES else "ok"
    )
    yield Finding(
        what="disk",
        status=status,
        found=f"{format_bytes(free)} free",
        remedy="" if status == "ok" else "free space, or --runs on another disk",
    )
