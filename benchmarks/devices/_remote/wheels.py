"""Which packages a board gets: from what it is to pinned lines and the tags under which their wheels are found; pure.

The versions are those that exist as wheels, asked of the index on 2026-11-30 (`pip download --platform`). A board with a Python
that this machine could run too gets this machine's versions; older ones get the last that were made for them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compress.errors import Unreachable

OLDEST_GLIBC, OLDEST_PYTHON, OWN_PYTHON = (2, 17), (3, 9), (3, 11)
"""Of the oldest wheels, of runners, and from which on this machine's versions have wheels."""
MACHINES = ("x86_64", "aarch64")
LAST: dict[str, dict[tuple[int, ...], str]] = {
    "numpy": {(3, 9): "2.0.2", (3, 10): "2.2.6"},
    "onnxruntime": {(3, 9): "1.19.2", (3, 10): "1.23.2"},
    "openvino": {(3, 9): "2025.3.0"},
    "ai-edge-litert": {(3, 9): "2.1.0"},
}
"""The last versions with wheels for a Python."""
NEEDS_GLIBC = {("openvino", "aarch64"): (2, 35)}
RUNTIMES = ("onnxruntime", "openvino", "ai-edge-litert")
APT = {
    "arm": "there are no wheels for 32-bit Arm, but Debian 13 and Raspberry Pi OS 13 have both packages: "
    "sudo apt install python3-numpy python3-onnxruntime",
    "musl": "there is no runtime for musl (Alpine); use a system with glibc, such as Debian",
}


@dataclass(frozen=True)
class Packages:
    """What a board gets."""

    lines: tuple[str, ...]
    """Requirements, each with its version."""
    tags: tuple[str, ...]
    """Platforms for `pip download --platform`, the newest first."""
    python: str
    """Version of its Python, `3.11`."""
    without: Mapping[str, str]
    """Runtimes that it cannot get, each with the reason."""

    @property
    def name(self) -> str:
        """Return what names this set, on any board of the kind."""
        return hashlib.sha256("\n".join([*self.lines, *self.tags[:1], self.python]).encode()).hexdigest()[:12]


def choose_packages(facts: Mapping[str, Any], version: tuple[int, ...], own: Mapping[str, str]) -> Packages:
    """Return the packages for a board.

    Args:
        facts: As its agent tells them: machine, libc, bits.
        version: Of the Python that runs jobs there.
        own: Versions of the packages on this machine; a runtime that is not among them is not wanted.

    Raises:
        Unreachable: There are none for it; the message names what there is.
    """
    machine, libc = str(facts.get("machine", "")).lower(), str(facts.get("libc", ""))
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    glibc = re.match(r"glibc (\d+)\.(\d+)", libc)
    python = version[:2]
    if facts.get("bits") == 32 or machine.startswith(("armv6", "armv7", "armv8l")):
        raise Unreachable(APT["arm"])
    if glibc is None:
        raise Unreachable(
            APT["musl"] if "musl" in libc else f"has the C library {libc or 'unavailable'}, for which no runtime is made"
        )
    if machine not in MACHINES:
        raise Unreachable(f"is a {machine}, and runtimes are made for {' and '.join(MACHINES)}")
    if python < OLDEST_PYTHON:
        raise Unreachable(
            f"has Python {_write(python)}, and jobs need {_write(OLDEST_PYTHON)}; name a newer one with the option python"
        )
    found = (int(glibc[1]), int(glibc[2]))
    without = {
        name: f"needs glibc {_write(needed)}, and the board has {_write(found)}"
        for (name, kind), needed in NEEDS_GLIBC.items()
        if kind == machine and found < needed
    }
    wanted = ["numpy", *(name for name in RUNTIMES if name in own and name not in without)]
    lines = tuple(f"{name}=={LAST[name].get(python, own[name])}" for name in wanted)
    tags = [f"manylinux_{found[0]}_{minor}_{machine}" for minor in range(found[1], OLDEST_GLIBC[1] - 1, -1)]
    return Packages(lines, (*tags, f"manylinux2014_{machine}"), _write(python), without)


def make_download_options(packages: Packages) -> list[str]:
    """Return the options of `pip download` under which it takes the board's wheels instead of this machine's."""
    abi = packages.python.replace(".", "")
    return [
        "--only-binary=:all:", *(word for tag in packages.tags for word in ("--platform", tag)), "--python-version",
        packages.python, "--implementation", "cp", *(word for each in (f"cp{abi}", "abi3", "none") for word in ("--abi", each)),
    ]  # fmt: skip


def _write(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
