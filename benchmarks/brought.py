"""Timings that somebody carries here by hand: what `bench.py` of a bundle wrote on a board that nobody can log in to.

The file comes from a stranger. Its size, depth and texts are bounded, its checksums must be those of the bundle's files, and
its series must be what a runner writes; figures are computed here, by the same functions as everywhere. What cannot be checked
is whether the series was measured at all, so reports say that it was brought by hand.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.conditions import describe_conditions
from benchmarks.devices import find_wrong_series
from benchmarks.environment import make_environment
from benchmarks.figures import compute_latencies, compute_ratio
from benchmarks.job import Job
from compress.errors import CompressError, Unreachable
from compress.records import BundleFile, DeviceResults, Environment, Latency, Manifest, Ratio, Variant
from compress.text import escape_commands

KIND, VERSION = "edge-compress bench", 1
MAX_BYTES, MAX_DEPTH, MAX_TEXT, MAX_KEYS = 256 << 20, 12, 2000, 5000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
BROUGHT = (
    "brought by hand: what bench.py wrote there, with speed-ups over its first file; neither gate nor accuracy was taken there "
    "by this tool"
)


class Brought(NamedTuple):
    """What one file of a bundle did on the machine of a stranger."""

    latency: Latency
    ratio: Ratio | None
    effective: dict[str, str]
    throughput_per_s: float


def read_brought(path: Path, manifest: Manifest) -> DeviceResults:
    """Return what a file that `bench.py` wrote says of the files of a bundle.

    Args:
        path: The JSON file.
        manifest: Of the run's bundle, checked.

    Raises:
        CompressError: It is no such file, was made with other files, or holds what no runner writes.
        Unreachable: It cannot be read.
    """
    document = _read(path)
    files = _match_files(path, document, manifest)
    job, result = _read_job(path, document), document["result"]
    if wrong := find_wrong_series(result, set(files)):
        raise CompressError(f"{path}: holds a result in which {wrong}, which bench.py does not write; run it again there")
    names = {name: entry.measured.name for name, entry in files.items() if entry.measured is not None}
    timed, environment = _compute(path, job, result, names)
    rows = tuple(_make_row(document["name"], entry, timed[name]) for name, entry in files.items())
    return DeviceResults(name=document["name"], status="brought", rows=rows, environment=environment, notes=(BROUGHT,))


def _read(path: Path) -> dict[str, Any]:
    """Return the document, bounded and without a text that commands a terminal.

    Raises:
        CompressError: It is no document of `bench.py`.
        Unreachable: It cannot be read.
    """
    where = escape_commands(str(path))
    try:
        if not path.is_file():
            raise Unreachable(f"{where}: is not there, or is no file; give what bench.py wrote")
        if path.stat().st_size > MAX_BYTES:
            raise CompressError(f"{where}: is larger than {MAX_BYTES >> 20} MiB, and bench.py writes less; give its JSON")
        document: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise Unreachable(f"{where}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise CompressError(f"{where}: is no JSON ({type(error).__name__}); give what bench.py wrote") from error
    known = isinstance(document, dict) and document.get("kind") == KIND and isinstance(document.get("result"), dict)
    if not known or document.get("version") != VERSION:
        raise CompressError(f"{where}: is not what bench.py of this version writes; give its JSON, of a bundle of this version")
    if wrong := _find_wrong_value(document, MAX_DEPTH):
        raise CompressError(f"{where}: holds {wrong}, which bench.py does not write; run it again there")
    if not isinstance(document.get("name"), str) or not NAME.fullmatch(document["name"]):
        raise CompressError(f"{where}: `name` is no plain name; run bench.py there again with --name")
    return dict(document)


def _find_wrong_value(value: object, depth: int) -> str:
    """Return what is wrong with a value anywhere in a document, or nothing."""
    if isinstance(value, str):
        is_plain = len(value) <= MAX_TEXT and escape_commands(value) == value
        return "" if is_plain else "a text that commands terminals, or is too long"
    if isinstance(value, float) and not math.isfinite(value):
        return "a number that is none"
    if not isinstance(value, dict | list):
        return ""
    if depth == 0 or (isinstance(value, dict) and len(value) > MAX_KEYS):
        return "too deep or too wide a nest"
    if isinstance(value, list) and all(type(each) is int for each in value):
        return ""  # the calls of a round
    parts = [*value, *value.values()] if isinstance(value, dict) else value
    return next(filter(None, (_find_wrong_value(each, depth - 1) for each in parts)), "")


def _match_files(path: Path, document: Mapping[str, Any], manifest: Manifest) -> dict[str, BundleFile]:
    """Return the entries of the bundle that were timed, by their paths.

    Raises:
        CompressError: Some are not in the bundle, or are not the same byte for byte.
    """
    known, found = {file.path: file for file in manifest.files}, document.get("files")
    if not isinstance(found, dict) or not found:
        raise CompressError(f"{path}: names no files; give what bench.py wrote")
    for name, parts in found.items():
        if name not in known:
            raise CompressError(f"{path}: timed {name!r}, and the bundle has {', '.join(known)}; give the JSON of this run")
        if parts != dict(known[name].parts):
            raise CompressError(f"{path}: timed another {name} than this run's, by its checksums; carry the bundle there anew")
        if known[name].measured is None:
            raise CompressError(f"{path}: {name} has no row in the report; give the JSON of a run's bundle")
    return {name: known[name] for name in found}


def _read_job(path: Path, document: Mapping[str, Any]) -> Job:
    """Return the settings of a measurement.

    Raises:
        CompressError: They are not such as `bench.py` takes.
    """
    found = document.get("job")
    try:
        settings = {key: found[key] for key in ("threads", "batch_size", "seed", "rounds", "launches")}  # type: ignore[index]
        seconds, pace = float(found["seconds"]), found["calls_per_second"]  # type: ignore[index]
    except (KeyError, TypeError, ValueError) as error:
        raise CompressError(f"{path}: `job` lacks {error}; give what bench.py wrote") from error
    whole = all(type(value) is int and 0 <= value < 1 << 20 for value in settings.values())
    if not whole or min(settings[key] for key in ("threads", "batch_size", "rounds", "launches")) < 1:
        raise CompressError(f"{path}: `job` is not such as bench.py takes; give what it wrote")
    if not (pace is None or (isinstance(pace, int | float) and 0 < pace <= 1000)):
        raise CompressError(f"{path}: `job.calls_per_second` is no pace; give what bench.py wrote")
    return Job("measure", seconds=seconds, calls_per_second=pace, **settings)


def _compute(path: Path, job: Job, result: dict[str, Any], names: Mapping[str, str]) -> tuple[dict[str, Brought], Environment]:
    """Return the figures of each file, by its path, and of the machine; `names` are those of its rows.

    Raises:
        CompressError: The result is not what a runner writes.
    """
    try:
        latencies = compute_latencies(job, result)
        conditions = describe_conditions(result["launches"], list(result["subjects"].values()))
        environment = make_environment(result.get("machine") or {}, conditions)
    except (Unreachable, KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise CompressError(
            f"{path}: its result is not what bench.py writes ({str(error)[:200]}); run it again there"
        ) from error
    first, *_ = latencies
    return {
        name: Brought(
            latency=latency,
            ratio=None if name == first else compute_ratio(names[first], latencies[first], latency),
            effective={key: str(value) for key, value in result["subjects"][name]["effective"].items()},
            throughput_per_s=1000 * (job.batch_size or 1) / latency.mean,
        )
        for name, latency in latencies.items()
    }, environment


def _make_row(device: str, entry: BundleFile, found: Brought) -> Variant:
    """Return the row of a file: what it is, as the run knows it, and what was brought."""
    assert entry.measured is not None, entry.path  # noqa: S101 (refused before)
    row = entry.measured
    return Variant(
        name=row.name, network=row.network, method=row.method, format=row.format, runtime=row.runtime, precision=row.precision,
        device=device, size_bytes=row.size_bytes, parameters=row.parameters, macs=row.macs, latency_ms=found.latency,
        ratio=found.ratio, throughput_per_s=found.throughput_per_s, effective=found.effective, status="skipped",
        reason=BROUGHT,
    )  # fmt: skip
