"""Packages for the Python that runs jobs: installed by its own pip, or wheels that were sent and are unpacked."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from .files import check_name, remove, write_record
from .store import STORE

PREPARED = Path("prepared.json")
OFFLINE = ("Failed to establish a new connection", "NewConnectionError", "Temporary failure in name resolution", "timed out",
           "Network is unreachable", "ConnectTimeoutError", "No matching distribution found")  # fmt: skip
SECONDS = 3600
"""How long an installation may take."""


class OfflineError(OSError):
    """The board reaches no index."""


def install(request: dict[str, Any]) -> Path:
    """Make an environment of its own with the board's pip; return its Python.

    Raises:
        OfflineError: The board reaches no index.
        OSError: The environment cannot be made.
    """
    place = Path("venv-" + check_name(request["name"]))
    remove(place)
    python = place.resolve() / "bin" / "python"
    try:
        run([request.get("python") or sys.executable, "-m", "venv", str(place)])
        run([str(python), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--retries", "1",
             "--timeout", "20", "--only-binary=:all:", *request["lines"]])  # fmt: skip
    except BaseException:
        remove(place)
        raise
    return python


def run(command: list[str]) -> None:
    """Run a command to its end.

    Raises:
        OfflineError: The board reaches no index.
        OSError: It failed.
    """
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SECONDS, check=False
    )
    said = done.stdout.decode("utf-8", "replace")
    if done.returncode != 0:
        last = (said.strip().splitlines() or ["it said nothing"])[-1]
        if any(sign in said for sign in OFFLINE):
            raise OfflineError(last)
        raise OSError(f"{command[0]} ended with status {done.returncode}: {last}")


def unpack_wheels(request: dict[str, Any]) -> Path:
    """Unpack the wheels of a request, which the store holds, into a folder; return it.

    Raises:
        ValueError: A wheel would write outside of it.
    """
    place = Path("site-" + check_name(request["name"]))
    part = Path("." + place.name + ".part")
    remove(part)
    try:
        for name, (sha, _) in request["files"].items():
            with zipfile.ZipFile(str(STORE / check_name(sha))) as wheel:
                for member in wheel.namelist():
                    if member.startswith("/") or ".." in member.split("/"):
                        raise ValueError(f"{name} holds {member!r}")
                wheel.extractall(str(part))
        remove(place)
        part.replace(place)
    finally:
        remove(part)
    return place


def adopt(request: dict[str, Any], *, python: Path | None = None, site: Path | None = None) -> None:
    """Note what runs jobs from now on, and remove what did before."""
    name, base = request["name"], request.get("python")
    chosen = base if python is None else str(python)
    write_record(PREPARED, {"name": name, "base": base, "python": chosen, "site": site and str(site)})
    kept = {"venv-" + name, "site-" + name}
    for place in [*Path().glob("venv-*"), *Path().glob("site-*")]:
        if place.name not in kept:
            shutil.rmtree(str(place))
