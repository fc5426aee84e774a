"""`compress doctor`: what works on this machine, and what to do about what does not.

A runtime is not believed to work because it can be imported: each one runs a tiny inference in a process of its own, so that
one that crashes (an unknown instruction, a clash of libraries) is a line in a table and not the end of the program.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from compress.errors import Unreachable
from compress.records import Record

DISTRIBUTION = "edge-compress"
PROBE_SECONDS = 120
NEEDED_BYTES, COMFORTABLE_BYTES = 200 << 20, 2 << 30
"""A small run leaves about 50 MB; runs on larger networks and their states take gigabytes."""

PROBES: Mapping[str, str] = {
    "torch": """
import torch
answer = torch.nn.functional.conv2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3))
print(torch.__version__, "CUDA" if torch.cuda.is_available() else "CPU")
""",
    "onnxruntime": """
import numpy, onnxruntime
from onnx import TensorProto, helper
value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", [value("x")], [value("y")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
answer = session.run(None, {"x": numpy.array([-9, 9], numpy.float32)})[0]
assert answer.tolist() == [0, 9], answer
print(onnxruntime.__version__, *onnxruntime.get_available_providers())
""",
    "openvino": """
import numpy, openvino
from openvino import opset13
x = opset13.parameter([2], numpy.float32)
core = openvino.Core()
compiled = core.compile_model(openvino.Model([opset13.relu(x)], [x], "probe"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
answer = compiled(numpy.array([-9, 9], numpy.float32))[0]
assert answer.tolist() == [0, 9], answer
print(openvino.__version__.partition("-")[0], *core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
""",
}
"""One inference for each runtime; what it prints is shown."""


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
    return [_python(), *_packages(), *_extras(), *map(_runtime, PROBES), *_machine(), *_disk(runs)]


def refuse_broken(findings: Sequence[Finding]) -> None:
    """Raise if something that is needed does not work.

    Raises:
        Unreachable: The message names each.
    """
    broken = [f"{finding.what}: {finding.found}; {finding.remedy}" for finding in findings if finding.status == "failed"]
    if broken:
        raise Unreachable("\n".join(broken))


def _python() -> Finding:
    found = f"{platform.python_version()} at {sys.executable}"
    return Finding(what="python", status="ok", found=found)


def _packages() -> Iterator[Finding]:
    """Yield every required package whose version is not what was tried, and one line for all others."""
    good = []
    for name, bounds in _requirements(""):
        finding = _package(name, bounds)
        if finding.status == "ok":
            good.append(finding.found)
        else:
            yield finding
    yield Finding(what="packages", status="ok", found=", ".join(good))


def _extras() -> Iterator[Finding]:
    for extra in importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []:
        wanted = [_package(name, bounds) for name, bounds in _requirements(extra) if name != DISTRIBUTION]
        missing = [finding.what for finding in wanted if finding.status != "ok"]
        remedy = f"if you need it: pip install '{DISTRIBUTION}[{extra}]'" if missing else ""
        found = f"lacks {', '.join(missing)}" if missing else ", ".join(finding.found for finding in wanted)
        yield Finding(what=f"extra {extra}", status="absent" if missing else "ok", found=found, remedy=remedy)


def _requirements(extra: str) -> Iterator[tuple[str, str]]:
    """Yield name and version bounds of what this distribution requires, itself or in one extra."""
    for line in importlib.metadata.requires(DISTRIBUTION) or []:
        requirement, _, marker = line.partition(";")
        found = re.search(r"extra == ['\"]([^'\"]+)['\"]", marker)
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        if name and (found[1] if found else "") == extra:
            yield name[0], requirement[name.end() :].strip()


def _package(name: str, bounds: str) -> Finding:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(what=name, status="failed", found="is not installed", remedy=f"pip install '{name}{bounds}'")
    if not within(version, bounds):
        return Finding(what=name, status="failed", found=f"{version} is not {bounds}", remedy=f"pip install '{name}{bounds}'")
    return Finding(what=name, status="ok", found=f"{name} {version}")


def within(version: str, bounds: str) -> bool:
    """Return whether a version keeps to bounds such as `>=2.11,<3`, the only two kinds that this project uses."""
    for operator, bound in re.findall(r"(>=|<)\s*([0-9.]+)", bounds):
        if (_release(version) >= _release(bound)) != (operator == ">="):
            return False
    return True


def _release(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, `2.13.0+cpu` is (2, 13, 0, 0), so that 2 and 2.0 are equal."""
    numbers = [int(part) for part in re.split(r"[^0-9.]", version)[0].split(".") if part]
    return tuple([*numbers, 0, 0, 0, 0][:4])


def _runtime(name: str) -> Finding:
    """Let a runtime do one inference in its own process."""
    what, remedy = f"runtime {name}", f"pip install --force-reinstall {name}, in an environment of its own"
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBES[name]], capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return Finding(what=what, status="failed", found=f"no answer in {PROBE_SECONDS} s", remedy=remedy)
    if done.returncode == 0:
        return Finding(what=what, status="ok", found=done.stdout.strip())
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    found = f"killed by signal {-done.returncode}" if done.returncode < 0 else last
    return Finding(what=what, status="failed", found=found, remedy=remedy)


def _machine() -> Iterator[Finding]:
    from benchmarks.environment import environment
    from benchmarks.runner import UNAVAILABLE

    here = environment()
    cores = f"{here.cores_physical or '?'} cores, {here.cores_logical} threads, {here.memory_bytes / 2**30:.1f} GiB"
    yield Finding(what="processor", status="ok", found=f"{here.cpu}; {cores}")
    hidden = [name.replace("_", " ") for name, value in here.facts.items() if value == UNAVAILABLE]
    for name, value in here.facts.items():
        if value != UNAVAILABLE:
            yield Finding(what=name.replace("_", " "), status="ok", found=value)
    if hidden:
        yield Finding(what="unreadable", status="absent", found=f"{', '.join(hidden)}: reports will say so")


def _disk(runs: Path) -> Iterator[Finding]:
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
        found=f"{free / 2**30:.1f} GiB free",
        remedy="" if status == "ok" else "free space, or --runs on another disk",
    )
