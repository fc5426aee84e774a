"""Read what a runner writes to stderr, line by line; the same for every device."""

from __future__ import annotations

import errno
import json
import re
import signal
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from benchmarks.devices._device import Progress
from compress.errors import CompressError, RuntimeCrashed, Unreachable, Unwritable
from compress.plugins import explain_missing_package

_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, *([signal.SIGBUS] if hasattr(signal, "SIGBUS") else []))
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OLDER = {
    r"Unsupported model IR version: (\d+), max supported IR version: (\d+)": "IR version {}, and the runtime reads up to {}",
    r"Opset (\d+) is under development.* till opset (\d+)": "ONNX opset {}, and the runtime reads up to {}",
    r"from unsupported opset: (opset\d+)": "OpenVINO's {}, which the runtime does not know",
}
"""Words by which ONNX Runtime and OpenVINO say that they are older than a file, and what it needs."""
_UNKNOWN = (
    r"(?P<domain>[\w.-]*):(?P<operator>\w+)\(-?\d+\) is not a registered function/op",
    r"No Op registered for (?P<operator>\w+) with domain_version of \d+",
    r'In Node, \("[^"]*", (?P<operator>\w+), "(?P<domain>[^"]*)".*No opset import for domain',
    r"Cannot create (?P<operator>\w+) layer .*from unsupported opset: (?P<domain>(?!opset\d)\S+)",
)
"""Words by which they say that they know no such operator, and which it is."""
_OF_RUNTIME = (
    r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ",
    r"^Load model from .*? failed: ?",
    r"\S*/onnxruntime_src/\S+:\d+ .*?\) (?=[A-Z\w])",
    r"^This is an invalid model\. ",
    r"^(Exception from|Check '[^']*' failed at) \S+:\d+: ?",
)
"""What they put around the words that matter: codes, copies in temporary folders, places in their source."""


@dataclass
class RunnerOutput:
    """Progress, the last error, and the last lines that are no document of the runner's."""

    subject: str = "the runner"
    """What was running last."""
    error: dict[str, Any] | None = None
    """The runner's own account of what was raised."""
    ended: int | None = None
    """Status of the job, where the runner goes on to the next."""
    other_lines: deque[str] = field(default_factory=lambda: deque(maxlen=5))
    """From runtimes and the interpreter."""

    def read_line(self, line: str, progress: Progress) -> None:
        """Take in one line; those that are not the runner's come from a runtime."""
        try:
            document = json.loads(line)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            document = {}
        if type(document.get("ended")) is int:
            self.ended = document["ended"]
        elif isinstance(document.get("error"), str) and isinstance(document.get("type"), str):
            self.error = document
        elif type(document.get("done")) is type(document.get("total")) is int and isinstance(document.get("doing"), str):
            self.subject = document["doing"] or self.subject
            progress(document["done"], document["total"], document["doing"])
        elif line.strip():
            self.other_lines.append(line.strip())

    def make_error(self, status: int, late_after_seconds: float | None) -> CompressError:
        """Return the exception for a runner that ended with a non-zero status.

        Args:
            status: As `subprocess` gives it: negative for a signal.
            late_after_seconds: How long it was allowed to run, if that is why it was stopped.
        """
        if late_after_seconds is not None:
            return Unreachable(f"{self.subject}: not done after {late_after_seconds:g} s, so it was stopped; allow more time")
        if status < 0 or self.error is None:
            kind = RuntimeCrashed if -status in _CRASHES else Unreachable
            return kind(f"{self.subject}: {self._explain_death(status)}")
        return self._explain_told(self.error.get("subject") or "the job", self.error)

    def _explain_told(self, where: str, told: dict[str, Any]) -> CompressError:
        """Return the exception for what the runner itself told."""
        if "missing" in told:
            return Unreachable(explain_missing_package(where, ModuleNotFoundError(name=str(told["missing"]))))
        if told["type"] == "MemoryError":
            return Unreachable(f"{where}: memory ran out; free some, or lower batch_size")
        text = " ".join(told["error"].split())
        if older := explain_older(text):
            return Unreachable(f"{where}: {older}")
        if unknown := explain_unknown_operator(text):
            return CompressError(f"{where}: {unknown}")
        if self.is_full():
            return Unwritable(f"{where}: the temporary folder is full ({text}); free space, or set TMPDIR to another folder")
        return CompressError(f"{where}: {take_out_reason(text)}")

    def is_full(self) -> bool:
        """Return whether the runner ended because its disk was full."""
        return self.error is not None and any(f"[Errno {number}]" in self.error["error"] for number in _FULL)

    def _explain_death(self, status: int) -> str:
        if status == -signal.SIGKILL:
            return "the runner was killed, most likely because memory ran out; free some, or lower batch_size"
        if status == -signal.SIGILL:
            return "this processor lacks instructions that the runtime was built with (SIGILL); take a build of it for this one"
        if -status in _CRASHES:
            return f"the runtime crashed the process ({signal.Signals(-status).name}); try the file on another version of it"
        if status < 0:
            return f"the runner was stopped from outside ({signal.Signals(-status).name}); repeat to continue"
        return f"the runner ended with status {status}: {' / '.join(self.other_lines) or 'it wrote nothing'}"


def explain_older(text: str) -> str:
    """Return what a file needs and a runtime cannot read yet, and what to do; empty where its words say nothing of that."""
    for pattern, needs in _OLDER.items():
        if found := re.search(pattern, text):
            remedy = "export it for an older opset, or give it a newer runtime, for which a board may need a newer Python"
            return f"needs {needs.format(*found.groups())}; {remedy}"
    return ""


def explain_unknown_operator(text: str) -> str:
    """Return which operator of a file a runtime does not know, and what to do; empty where its words say nothing of that."""
    for pattern in _UNKNOWN:
        if found := re.search(pattern, text):
            domain = found.groupdict().get("domain")
            whose = f" of {domain!r}, whose operators come with a library or a runtime of their own" if domain else ""
            return (
                f"holds the operator {found['operator']!r}{whose}, which this runtime does not know; export it with standard "
                "operators alone, or without the part that needs it"
            )
    return ""


def take_out_reason(text: str) -> str:
    """Return the words of a runtime without codes, folders and places in its source around them."""
    for pattern in _OF_RUNTIME:
        text = re.sub(pattern, "", text)
    return text
