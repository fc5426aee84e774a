"""What a board says of itself, as people read it; none of it is believed to be more than a short text."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from benchmarks.devices._remote.transport import clip
from compress.text import format_bytes

UNAVAILABLE = "unavailable"
MODULES = ("numpy", "onnxruntime", "openvino", "ai_edge_litert", "tflite_runtime", "executorch", "torch")
"""Packages of runtimes, and what they all need, by the names under which they are imported."""


def describe_board(answer: Mapping[str, Any], address: str) -> dict[str, str]:
    """Return what a board answered when it was opened, by what people call it.

    Args:
        answer: Of the agent.
        address: What the user typed.
    """
    facts, runner = _find(answer, "facts"), _find(answer, "runner")
    found = {name for name, there in _find(runner, "modules").items() if there is True}
    versions = _find(runner, "versions")
    return {
        "address": address,
        "model": _format(facts.get("model") or facts.get("host")),
        "processor": f"{_format(facts.get('cpu') or facts.get('machine'))}, {_format(facts.get('cores'))} cores, "
        f"{_format(facts.get('machine'))}",
        "system": f"{_format(facts.get('distribution') or facts.get('system'))}, kernel {_format(facts.get('kernel'))}, "
        f"{_format(facts.get('libc'))}",
        "memory": f"{_format_size(facts.get('memory_bytes'))}, {_format_size(answer.get('memory_bytes'))} free",
        "disk": f"{_format_size(answer.get('free_bytes'))} free in {_format(facts.get('folder'))}",
        "python of jobs": _describe_python(runner),
        "packages": ", ".join(f"{name} {_format(versions.get(name))}" for name in MODULES if name in found) or "none",
        "missing": ", ".join(name for name in MODULES if name not in found) or "none",
        "works for": describe_busy(answer["busy"]).removeprefix("works for ") if answer.get("busy") else "nobody",
    }


def describe_busy(busy: Any) -> str:
    """Return who works on a board."""
    known = busy if isinstance(busy, dict) else {}
    return f"works for {clip(known.get('host', 'somebody'), 80)} since {format_time(known.get('since'))}"


def format_time(seconds: object) -> str:
    """Return a time that a board named."""
    if not isinstance(seconds, int | float) or not 0 < seconds < 1e11:
        return "an unknown time"
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _find(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def _format(value: object) -> str:
    return clip(value, 80) if isinstance(value, str | int) and value else UNAVAILABLE


def _format_size(value: object) -> str:
    return format_bytes(value) if isinstance(value, int) and 0 <= value < 1 << 60 else UNAVAILABLE


def _describe_python(runner: Mapping[str, Any]) -> str:
    if "failed" in runner:
        return f"{_format(runner.get('python'))} cannot be run ({clip(runner['failed'], 80)})"
    version = runner.get("version")
    shown = ".".join(clip(part, 8) for part in version[:3]) if isinstance(version, list) else UNAVAILABLE
    return f"{shown}, {_format(runner.get('bits'))} bits, {_format(runner.get('python'))}"
