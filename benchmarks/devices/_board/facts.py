"""What the board is, and which Python runs jobs there with which modules."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from .files import read_json, read_text


def read_facts() -> dict[str, Any]:
    """Return what the board is."""
    libc = platform.libc_ver()
    names = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else None
    return {
        "machine": platform.machine(), "system": platform.system(), "kernel": platform.release(), "host": platform.node(),
        "libc": names or ("musl" if list(Path("/lib").glob("ld-musl-*")) else " ".join(libc).strip()),
        "python": list(sys.version_info[:3]), "bits": 64 if sys.maxsize > 2**32 else 32, "cores": os.cpu_count(),
        "distribution": read_distribution(), "model": read_text("/proc/device-tree/model").strip("\0\n"), "cpu": read_cpu(),
        "memory_bytes": read_memory("MemTotal"), "folder": str(Path.cwd()),
    }  # fmt: skip


def read_distribution() -> str:
    """Return how the system calls itself."""
    lines = [line.partition("=") for line in read_text("/etc/os-release").splitlines()]
    return {key: value.strip('"') for key, _, value in lines}.get("PRETTY_NAME", "")


def read_cpu() -> str:
    """Return the processor's name, empty where it has none."""
    lines = [line.partition(":") for line in read_text("/proc/cpuinfo").splitlines()]
    found = {key.strip(): value.strip() for key, _, value in lines}
    return found.get("model name") or found.get("Hardware") or found.get("Model") or ""


def read_memory(field: str) -> int | None:
    """Return a line of /proc/meminfo in bytes, None where there is none."""
    for line in read_text("/proc/meminfo").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


def read_place(python: str | None) -> dict[str, Any]:
    """Return the Python that runs jobs and the folder of its packages: what is asked for, what was prepared, or ours."""
    prepared = read_prepared(python)
    site = prepared.get("site")
    chosen = prepared.get("python") or (str(Path(python).expanduser()) if python else sys.executable)
    return {"python": chosen, "site": site and str(Path(site).resolve())}


def read_prepared(python: str | None) -> dict[str, Any]:
    """Return what was prepared for a Python, None being ours; empty where nothing was."""
    prepared: dict[str, Any] = read_json(Path("prepared.json")) or {}
    return prepared if prepared.get("base") == python else {}


def make_environment(place: dict[str, Any], further: dict[str, Any]) -> dict[str, str]:
    """Return the environment of the runner."""
    found = {**further, **os.environ, "PYTHONDONTWRITEBYTECODE": "1", **further.get("set", {})}
    found.pop("set", None)
    if place["site"]:
        found["PYTHONPATH"] = place["site"]
    return {key: str(value) for key, value in found.items()}


PROBE = """
import importlib.util, json, sys
try:
    from importlib.metadata import PackageNotFoundError, version
except ImportError:  # Python 3.7
    version = None
def find_version(name):
    try:
        return version(name.replace("_", "-")) if version else ""
    except PackageNotFoundError:
        return ""
found = {name: importlib.util.find_spec(name) is not None for name in sys.argv[1:]}
versions = {name: find_version(name) for name, there in found.items() if there}
print(json.dumps([list(sys.version_info[:3]), sys.maxsize > 2**32, found, versions]))
"""


def probe(place: dict[str, Any], modules: list[str]) -> dict[str, Any]:
    """Return version and modules of the Python that runs jobs, with the modules' versions, or why it cannot be run."""
    try:
        done = subprocess.run(
            [place["python"], "-c", PROBE, *modules], stdin=subprocess.DEVNULL, capture_output=True, check=False,
            env=make_environment(place, {}), cwd="/", timeout=60,
        )  # fmt: skip
        version, wide, found, versions = json.loads(done.stdout.decode("ascii"))
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return {"python": place["python"], "failed": str(error)}
    bits = 64 if wide else 32
    return {"python": place["python"], "version": version, "bits": bits, "modules": found, "versions": versions}
