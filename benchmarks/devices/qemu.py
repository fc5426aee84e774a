"""Another architecture, emulated by QEMU on this machine: whether files give the right answers there, and never how fast.

The real Python, numpy and runtimes of that architecture run, made by `compress device prepare qemu:aarch64` without root
rights. Rows say `emulated`; times and memory would be the emulator's, so none are recorded.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.devices._device import Progress, Say
from benchmarks.devices._process import follow, start
from benchmarks.devices._sysroot import ARCHITECTURES, find_fault, find_sysroot, make_sysroot, measure_bytes, read_record
from compress.errors import CompressError, Unreachable
from compress.plugins import suggest_name
from compress.text import format_bytes

SCHEME = "qemu:"


class Qemu:
    """Runs jobs under QEMU.

    Args:
        at: Which architecture is emulated: qemu:aarch64 (64-bit Arm, as a Raspberry Pi 3 or newer) or qemu:armv7 (32-bit Arm).

    Raises:
        CompressError: There is no such architecture.
    """

    name = "qemu"
    emulated: ClassVar[bool] = True
    """So that it is never asked for times."""

    def __init__(self, *, at: str) -> None:
        architecture = at.removeprefix(SCHEME)
        if architecture not in ARCHITECTURES:
            near = suggest_name(f"{SCHEME}{architecture}", [f"{SCHEME}{each}" for each in ARCHITECTURES])
            raise CompressError(f"{at}: is no architecture that can be emulated; {near}")
        self.name = f"{SCHEME}{architecture}"
        self.sysroot = find_sysroot(architecture)

    @property
    def runtimes(self) -> tuple[str, ...]:
        """The runtimes that there are for it."""
        return self.sysroot.architecture.runtimes

    def prepare(self, say: Say) -> None:
        """Download and unpack what is needed into the user's cache, and prove it; what is there already is left as it is.

        Raises:
            Unreachable: Packages, a program or room for them are out of reach.
        """
        make_sysroot(self.sysroot, say)

    def describe(self) -> dict[str, str]:
        """Return what is emulated and with which versions."""
        record, kind = read_record(self.sysroot), self.sysroot.architecture
        return {
            "processor": f"{kind.cpu}, emulated by {kind.emulator}; times there say nothing",
            "folder": str(self.sysroot.folder),
            "state": find_fault(self.sysroot) or "prepared",
            "on disk": format_bytes(measure_bytes(self.sysroot.folder)),
        } | {f"runtime {name}": str(found) for name, found in record.get("works", {}).items()}

    def clean(self, *, everything: bool) -> list[str]:
        """Remove what was prepared, where everything is to go; jobs leave nothing behind. Return what was removed."""
        if not (everything and self.sysroot.folder.exists()):
            return []
        shutil.rmtree(self.sysroot.folder)
        return [str(self.sysroot.folder)]

    def run(self, job: Path, *, timeout_seconds: float, progress: Progress) -> None:
        """Run a job folder.

        Raises:
            CompressError: Times are asked for, or the runner reported what is wrong with the job.
            Unreachable: It is not prepared, has no such runtime, or the runner ran out of memory or time, or died.
        """
        facts = json.loads((job / "job.json").read_text(encoding="utf-8"))
        if facts["task"] != "evaluate":
            raise CompressError(
                f"{self.name}: is emulated, and how long that takes says nothing about any board; time files on this machine "
                f"or on a board, and prove them here: compress verify BUNDLE --device {self.name}"
            )
        self._require(facts["subjects"])
        arguments = (str(job / "runner.py"), str(job))
        process = start(
            self.sysroot.make_command(*arguments), threads=facts["threads"], environment=self.sysroot.make_environment()
        )
        with process:
            output, late = follow(process, timeout_seconds, progress)
        if process.returncode != 0:
            raise output.make_error(process.returncode, timeout_seconds if late else None)
        self._label(job / "result.json")

    def check_prepared(self) -> None:
        """Refuse to be used before it is prepared.

        Raises:
            Unreachable: It is not prepared; the message says how.
        """
        if fault := find_fault(self.sysroot):
            raise Unreachable(f"{self.name}: {fault}; compress device prepare {self.name}")

    def _require(self, subjects: list[dict[str, Any]]) -> None:
        """Refuse what cannot run before anything is started.

        Raises:
            Unreachable: It is not prepared, or a runtime does not exist there.
        """
        self.check_prepared()
        for subject in subjects:
            if subject["runtime"] not in self.runtimes:
                known = ", ".join(self.runtimes)
                raise Unreachable(
                    f"{subject['name']}: {self.name} has no {subject['runtime']}, only {known}; leave it out there"
                )

    def _label(self, path: Path) -> None:
        """Take from a result what would be the emulator's or this machine's: memory, load, clock."""
        result = json.loads(path.read_text(encoding="utf-8"))
        result |= {"peak_memory_bytes": None, "baseline_memory_bytes": None, "before": {}, "after": {}}
        if "machine" in result:
            kind = self.sysroot.architecture
            result["machine"] |= {
                "cpu": f"{kind.cpu}, emulated", "cores_physical": None, "memory_bytes": None,
                "facts": {"emulated": f"by {kind.emulator}; it shows whether answers are right, and no times"},
            }  # fmt: skip
        path.write_text(json.dumps(result), encoding="utf-8")
