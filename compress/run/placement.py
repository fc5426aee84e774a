"""Place a new bundle in a run's folder without losing an earlier one.

A bundle is what somebody may have handed on already, so a run that writes another one keeps it: the new one is `bundle`,
earlier ones are `bundle-1`, `bundle-2` and so on, each with the report that describes it. To refuse instead would cost whoever
runs a recipe again the hour that it took; an older version is one folder away. A bundle that is the same byte for byte is left
as it is. Where a run exports nothing, `bundle` stays, and its report is kept beside it.
"""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from compress import records
from compress.errors import CompressError
from compress.records import Manifest, Report
from compress.system.files import writable
from compress.system.leftovers import remove
from exporters.bundle.bundle import MANIFEST
from exporters.bundle.checksums import list_files

BUNDLE = "bundle"
REPORT_FILES = ("report.json", "report.md", "report.html")


def place_bundle(fresh: Path, target: Path) -> list[str]:
    """Give a new bundle its place, keep the one that is there under a number, and return what was done.

    Args:
        fresh: The new bundle; it is moved, or removed where the old one is the same.
        target: Its place.

    Raises:
        Unreachable: The folder cannot be written.
    """
    with writable(target):
        if target.is_dir() and _are_equal(fresh, target):
            remove(fresh)
            return []
        said = set_aside(target)
        fresh.replace(target)
        return [*said, *([f"{target}: is this run's bundle"] if said else [])]


def set_aside(target: Path) -> list[str]:
    """Keep the bundle that is at a place under the next number, with the report that describes it, and return that it was done.

    Raises:
        Unreachable: The folder cannot be written.
    """
    if not target.is_dir():
        return []
    with writable(target):
        number = _find_free_number(target)
        kept = target.with_name(f"{target.name}-{number}")
        about = describe_bundle(target)
        report = _keep_report(target, f"report-{number}") if target.name == BUNDLE else ""
        target.replace(kept)
    known = f"{about}{f'; its report is {report}' if report else ''}"
    return [f"{kept}: is the bundle of an earlier run, kept until you remove it ({known})"]


def leave_bundle(target: Path) -> list[str]:
    """Leave a bundle where it is, as nothing was exported, keep its report, and return that it is of an earlier run.

    Raises:
        Unreachable: The folder cannot be written.
    """
    if not target.is_dir():
        return []
    with writable(target):
        report = _keep_report(target, f"report-{BUNDLE}")
    about = describe_bundle(target)
    known = f"{about}; its report is {report}" if report else about
    return [f"{target}: is the bundle of an earlier run, left as it is, since this run exports nothing ({known})"]


def describe_bundle(folder: Path) -> str:
    """Return what tells one bundle from another: method, weights, files, and when it was written."""
    try:
        manifest = records.read(folder / MANIFEST, Manifest)
    except CompressError:
        return "its manifest cannot be read"
    written = datetime.fromtimestamp((folder / MANIFEST).stat().st_mtime, UTC)
    made = {"method": "unknown method", "seed": "unknown", "weights": "unknown"} | manifest.provenance
    files = ", ".join(file.path for file in manifest.files)
    network = f"{made['method']}, seed {made['seed']}, weights {made['weights'][:8]}"
    return f"{network}; {files}; written {written:%Y-%m-%d %H:%M} UTC"


def _are_equal(one: Path, other: Path) -> bool:
    """Return whether two folders hold the same files, byte for byte."""
    try:
        names = list_files(one), list_files(other)
    except CompressError:  # links, or what is no file: not as it was written
        return False
    if set(names[0]) != set(names[1]):
        return False
    _, differing, unreadable = filecmp.cmpfiles(one, other, names[0], shallow=False)
    return not differing and not unreadable


def _find_free_number(target: Path) -> int:
    """Return the first number under which neither a bundle nor a report is kept."""
    return next(
        number
        for number in count(1)
        if not target.with_name(f"{target.name}-{number}").exists() and not (target.parent / f"report-{number}.json").exists()
    )


def _keep_report(target: Path, name: str) -> str:
    """Keep the report that describes a bundle under a name, and return its page; empty where there is none."""
    folder, parted = target.parent, target.parent / f"report-{BUNDLE}.json"
    if parted.exists():  # an earlier run exported nothing: its report lies beside the bundle already
        return _copy_report(folder, f"report-{BUNDLE}", name, move=True)
    return _copy_report(folder, "report", name, move=False) if _describes_files(folder / "report.json") else ""


def _describes_files(path: Path) -> bool:
    """Return whether a report is of a run that exported; one that cannot be read may be."""
    if not path.is_file():
        return False
    try:
        report = records.read(path, Report)
    except CompressError:
        return True
    formats = {each.name: each.format for each in report.variants}
    return any(gate.status == "passed" and formats.get(name) != "torch" for name, gate in report.gates.items())


def _copy_report(folder: Path, source: str, name: str, *, move: bool) -> str:
    pairs = [(folder / each.replace("report", source, 1), folder / each.replace("report", name, 1)) for each in REPORT_FILES]
    found: Sequence[tuple[Path, Path]] = [(old, new) for old, new in pairs if old.is_file() and old != new]
    for old, new in found:
        if move:
            old.replace(new)
        else:
            shutil.copy2(old, new)
    return pairs[-1][1].name
