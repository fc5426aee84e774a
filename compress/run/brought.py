"""Timings brought by hand in the report of a run: what the bundle's `bench.py` wrote on boards that nobody can log in to.

The files are kept in a folder of the run, so that a repetition of the run takes them in again where its bundle is the same.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks.brought import read_brought
from compress.errors import CompressError
from compress.records import DeviceResults, Report
from compress.run.context import Run
from compress.run.placement import BUNDLE
from compress.system.files import writable, write_whole
from exporters.bundle.bundle import check_bundle

FOLDER = "brought"


def add_brought(report: Report, folder: Path, files: Sequence[Path]) -> Report:
    """Return a report with what `bench.py` wrote of the files of the run's bundle, in place of the same machine's earlier.

    Args:
        report: The run's report.
        folder: The run's folder.
        files: What `bench.py` wrote.

    Raises:
        CompressError: A file is not what `bench.py` writes, or is of other files; nothing is changed.
        Unreachable: A file cannot be read or kept.
    """
    manifest = check_bundle(folder / BUNDLE)
    found = [read_brought(path, manifest) for path in files]
    report = _merge(report, found)
    for path, each in zip(files, found, strict=True):
        target = folder / FOLDER / f"{each.name}.json"
        if path.resolve() == target.resolve():
            continue
        with writable(target):
            target.parent.mkdir(exist_ok=True)
            with write_whole(target) as temporary:
                shutil.copyfile(path, temporary)
    return report


def keep_brought(run: Run, report: Report) -> Report:
    """Return the report of a repeated run with what was brought before; what is of other files is left out with a warning."""
    files = sorted((run.folder / FOLDER).glob("*.json"))
    if not files:
        return report
    if not (run.folder / BUNDLE).is_dir():
        run.events.warn(f"{run.folder / FOLDER}: there is no bundle any more, so what was brought is left out of the report")
        return report
    manifest, found = check_bundle(run.folder / BUNDLE), []
    for path in files:
        try:
            found.append(read_brought(path, manifest))
        except CompressError as error:
            run.events.warn(f"{error}; it is left out of the report")
    return _merge(report, found)


def _merge(report: Report, found: Sequence[DeviceResults]) -> Report:
    """Return the report with further devices.

    Raises:
        CompressError: A device that the run itself measured has the name of one.
    """
    names = {each.name for each in found}
    for each in report.devices:
        if each.name in names and each.status != "brought":
            raise CompressError(f"{each.name}: is a device of the run itself; run bench.py there with another --name")
    if len(names) < len(found) or "local" in names:
        raise CompressError(f"{', '.join(each.name for each in found)}: give each machine its own name; see bench.py --name")
    return report.model_copy(update={"devices": (*(each for each in report.devices if each.name not in names), *found)})
