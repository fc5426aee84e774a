"""Time the model files of this bundle on the machine where it lies; needs numpy and a runtime, nothing else.

    python bench.py [--file FILE]... [--out FILE] [--name NAME] [--threads N] [--batch-size N] [--rounds N] [--seconds S]
                    [--launches N] [--pace N]

For boards that nobody can log in to: carry the bundle there, run this, carry the JSON back, and where the run is:

    compress report RUN --add FILE

It is the protocol of `compress bench`, carried out by the same programs, which stand at the end of this file byte for byte:
all files in turn, in interleaved rounds that several processes share; rounds in which other work took the core are repeated.
What is printed is the median over rounds; intervals and what makes them doubtful come with `compress report`. Files that have
not the checksums of the manifest are refused. Nothing is installed or sent, and the temporary folder is removed. It runs on
Python 3.9. Exit codes: 0 good, 2 something is refused or unreadable, 5 a runtime is missing or died.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

try:
    import numpy as np
except ModuleNotFoundError as missing:
    sys.stderr.write(f"bench.py needs numpy, and {missing.name!r} is not there: pip install numpy\n")
    raise SystemExit(5) from missing

KIND, VERSION = "edge-compress bench", 1
MAX_MANIFEST_BYTES, MAX_SAMPLES_BYTES, MAX_PART_BYTES = 16 << 20, 1 << 30, 4 << 30
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
COMMANDS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What would command a terminal or turn the direction of text, and halves of characters."""
QUIET = {"ORT_DISABLE_TELEMETRY": "1"}
POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PROGRAMS: dict[str, str] = {}  # filled in where a bundle is written
CLASSES: dict[str, tuple[str, str]] = {}  # filled in where a bundle is written
"""By runtime: the class that runs a file, and the package that it needs."""


class Refused(Exception):
    """A refusal, in words for the user, with the exit code."""

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(message)
        self.status = status


def show(stream: Any, text: str) -> None:
    """Write a line so that names in it do not command the terminal, and as far as its encoding can show them."""
    plain = COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(plain.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def read_file(path: Path, limit: int, sha256: str | None = None) -> bytes:
    """Read a plain file, and compare its checksum where one is given.

    Raises:
        Refused: It is missing, larger than the limit, no plain file, or was changed.
    """
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > limit:
            raise Refused(f"{path}: is not there, no plain file, or too large; keep bench.py in its bundle, and get it again")
        content = path.read_bytes()
    except OSError as error:
        raise Refused(f"{path}: cannot be read ({error.strerror})") from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise Refused(f"{path}: has not the checksum of the manifest; it was changed or damaged: get it again")
    return content


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest.

    Raises:
        Refused: It is not there, was changed, or is of another version.
    """
    path = folder / "manifest.json"
    content = read_file(path, MAX_MANIFEST_BYTES)
    sums = read_file(folder / "SHA256SUMS", MAX_MANIFEST_BYTES).decode("utf-8", "replace").splitlines()
    if f"{hashlib.sha256(content).hexdigest()}  {path.name}" not in sums:
        raise Refused(f"{path}: has not the checksum that SHA256SUMS says; it was changed or damaged: get it again")
    try:
        manifest = json.loads(content.decode("utf-8"))
        if manifest["schema_version"] != 2 or not manifest["files"]:
            raise ValueError("a version that this program does not know")  # noqa: TRY301 (reported like the others)
        return dict(manifest)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise Refused(f"{path}: is not a manifest of this version ({repr(error)[:80]}); get the bundle again") from error


def choose_files(manifest: dict[str, Any], wanted: list[str], batch_size: int) -> list[dict[str, Any]]:
    """Choose the files that are asked for, or else all whose runtime is installed and that take such batches.

    Raises:
        Refused: There is none, or what is asked for cannot be run.
    """
    files = {str(entry["path"]): entry for entry in manifest["files"]}
    for name in wanted:
        if name not in files:
            raise Refused(f"--file {name}: the bundle has no such file; there are: {', '.join(files)}")
    reasons = {name: explain_left_out(files[name], batch_size) for name in wanted or files}
    usable = [files[name] for name, reason in reasons.items() if not reason]
    for name, reason in reasons.items():
        if reason and (wanted or not usable):
            raise Refused(f"{name}: {reason}", 5)
        if reason:
            show(sys.stderr, f"without {name}: {reason}")
    return usable


def explain_left_out(entry: dict[str, Any], batch_size: int) -> str:
    """Return why a file cannot be timed here, or nothing."""
    if entry["runtime"] not in CLASSES:
        return f"bench.py does not know the runtime {entry['runtime']!r}"
    package = CLASSES[entry["runtime"]][1]
    if importlib.util.find_spec(package) is None:
        return f"{package} is not installed: pip install {package.replace('_', '-')}"
    if entry.get("batch_size") not in (None, batch_size):
        return f"takes {entry['batch_size']} images in a call; time it with --batch-size {entry['batch_size']}"
    return ""


def make_job(folder: Path, job: Path, manifest: dict[str, Any], files: list[dict[str, Any]], settings: dict[str, Any]) -> None:
    """Write a job folder, as `runner.py` among the programs below says.

    Raises:
        Refused: A file of the bundle is missing or was changed, or the folder cannot be written.
    """
    try:
        for name, text in PROGRAMS.items():
            (job / name).parent.mkdir(exist_ok=True)
            (job / name).write_text(text, encoding="utf-8")
        (job / "inputs").mkdir()
        np.save(job / "inputs" / "0.npy", read_images(folder, manifest), allow_pickle=False)
        subjects = [copy_file(folder, job, number, entry, manifest) for number, entry in enumerate(files)]
        document = {"task": "measure", "calls": [], **settings, "subjects": subjects}
        (job / "job.json").write_text(json.dumps(document), encoding="utf-8")
    except OSError as error:
        raise Refused(f"{job}: cannot be written ({error.strerror}); free space, or set TMPDIR to another folder") from error


def read_images(folder: Path, manifest: dict[str, Any]) -> Any:
    """Read the sample images, uint8 [N, H, W, C].

    Raises:
        Refused: They were changed or cannot be read.
    """
    path = folder / "samples.npz"
    read_file(path, MAX_SAMPLES_BYTES, manifest["samples_sha256"])
    with np.load(path, allow_pickle=False) as stored:
        return np.array(stored["images"], np.uint8)


def copy_file(folder: Path, job: Path, number: int, entry: dict[str, Any], manifest: dict[str, Any]) -> dict[str, Any]:
    """Copy the parts of a model file, and return what the runner must know of it.

    Raises:
        Refused: A part is missing or was changed.
    """
    place, runtime, pre = job / "files" / str(number), entry["runtime"], manifest["preprocess"]
    place.mkdir(parents=True)
    for name, sha256 in entry["parts"].items():
        if not NAME.fullmatch(name):
            raise Refused(f"{name}: is not a plain file of the bundle; get the bundle again")
        (place / name).write_bytes(read_file(folder / name, MAX_PART_BYTES, sha256))
    subject = {"name": entry["path"], "runtime": runtime, "class": CLASSES[runtime][0], "images": "inputs/0.npy"}
    subject["file"] = f"files/{number}/{entry['path']}"
    if not entry.get("takes_pixels"):
        mean, std = np.array(pre["mean"], np.float64), np.array(pre["std"], np.float64)
        subject["scale"] = (1 / (255 * std)).astype(np.float32).tolist()
        subject["shift"] = (-mean / std).astype(np.float32).tolist()
    return subject


def run(job: Path, threads: int) -> dict[str, Any]:
    """Run the job and return its result.

    Raises:
        Refused: The runner ended badly.
    """
    environment = {**os.environ, **QUIET, **dict.fromkeys(POOLS, str(threads))}
    command = [sys.executable, str(job / "runner.py"), str(job)]
    error, last = "", ""
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        for line in process.stderr or ():
            try:
                said = json.loads(line)
            except ValueError:
                said = None
            if not isinstance(said, dict):
                last = line.strip() or last
            elif "error" in said:
                error = f"{said.get('subject') or 'the job'}: {said['error']}"
            elif sys.stderr.isatty():
                sys.stderr.write(f"\r{said.get('done')}/{said.get('total')}\x1b[K")
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    if process.returncode != 0:
        raise Refused(f"the runner ended with status {process.returncode}: {error or last or 'it said nothing'}", 5)
    return dict(json.loads((job / "result.json").read_text(encoding="utf-8")))


def describe(result: dict[str, Any]) -> list[str]:
    """Return a line for each file: the median over rounds of each round's median, and what its processes loaded."""
    lines = []
    for name, one in result["subjects"].items():
        rounds = [median(durations) / 1e6 for durations in one["rounds_ns"]]
        lines.append(
            f"{name}: {median(rounds):.3f} ms (rounds {min(rounds):.3f} to {max(rounds):.3f}, "
            f"{sum(map(len, one['rounds_ns']))} calls, {one['effective'].get('version', '')})"
        )
    return lines


def write(path: Path, document: dict[str, Any]) -> None:
    """Write the JSON whole or not at all.

    Raises:
        Refused: It cannot be written.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_text(json.dumps(document), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise Refused(f"{path}: cannot be written ({error.strerror}); give another with --out") from error


def bench(folder: Path, given: argparse.Namespace) -> None:
    """Time the files of a bundle, print what was found, and write it.

    Raises:
        Refused: Something is missing, was changed, or did not run.
    """
    manifest = read_manifest(folder)
    files = choose_files(manifest, given.file, given.batch_size)
    settings = {
        "threads": given.threads, "batch_size": given.batch_size, "seed": 0, "rounds": given.rounds, "seconds": given.seconds,
        "launches": given.launches, "calls_per_second": given.pace,
    }  # fmt: skip
    job = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        make_job(folder, job, manifest, files, settings)
        result = run(job, given.threads)
    finally:
        shutil.rmtree(job, ignore_errors=True)
    for line in describe(result):
        show(sys.stdout, line)
    parts = {entry["path"]: entry["parts"] for entry in files}
    document = {"kind": KIND, "version": VERSION, "name": given.name, "bundle": manifest["name"], "files": parts}
    write(given.out, {**document, "job": settings, "result": result})
    show(sys.stdout, f"written: {given.out}; where the run is: compress report RUN --add {given.out.name}")


def main() -> int:
    """Carry out the command line and return its exit code."""
    host = re.sub(r"[^A-Za-z0-9._-]+", "-", platform.node()).strip("-.")[:40] or "board"
    parser = argparse.ArgumentParser(prog="bench.py", description="Time the model files of this bundle on this machine.")
    parser.add_argument("--file", action="append", default=[], help="model file; default: all whose runtime is installed")
    parser.add_argument("--out", type=Path, help="where the JSON goes (default bench-NAME.json here)")
    parser.add_argument("--name", default=host, help=f"how reports call this machine (default {host})")
    parser.add_argument("--threads", type=int, default=1, help="threads of the runtime (default 1)")
    parser.add_argument("--batch-size", type=int, default=1, help="images in a call (default 1)")
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds (default 15)")
    parser.add_argument("--seconds", type=float, default=12.0, help="for all files together (default 12)")
    parser.add_argument("--launches", type=int, default=3, help="processes that share the rounds (default 3)")
    parser.add_argument("--pace", type=float, help="calls a second (default: one follows the other)")
    given = parser.parse_args()
    if not NAME.fullmatch(given.name) or len(given.name) > 40:
        parser.error("--name takes up to 40 letters, digits, dots, hyphens and underscores")
    if min(given.threads, given.batch_size) < 1 or given.rounds < 5 or not 1 <= given.launches <= given.rounds:
        parser.error("--threads and --batch-size are at least 1, --rounds at least 5, --launches from 1 to --rounds")
    if not 0 < given.seconds <= 3600 or not (given.pace is None or 0 < given.pace <= 1000):
        parser.error("--seconds is above 0 and up to 3600, --pace up to 1000")
    given.out = given.out or Path(f"bench-{given.name}.json")
    try:
        bench(Path(__file__).resolve().parent, given)
    except Refused as error:
        show(sys.stderr, str(error))
        return error.status
    return 0
