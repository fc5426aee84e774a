"""The store of files by content, and jobs made of them."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

from .files import CHUNK_BYTES, check_name, hash_file, remove, write_record

STORE = Path("store")
PACKED = ".packed"
"""End of the name of a file in a tar whose values were numbered, so that it is a quarter as long."""


def is_stored(sha: str, size: int) -> bool:
    """Return whether the store holds a file of that length."""
    path = STORE / check_name(sha)
    return path.is_file() and path.stat().st_size == size


def receive(expected: dict[str, int]) -> None:
    """Put the files of a tar on stdin into the store, each once it is whole and is what its name says.

    Raises:
        ValueError: A file was not asked for, or is another one.
    """
    STORE.mkdir(exist_ok=True)
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
        for member in archive:
            packed = member.name.endswith(PACKED)
            sha = member.name[: -len(PACKED)] if packed else member.name
            content = archive.extractfile(member)
            if sha not in expected or content is None or member.size > expected[sha]:
                raise ValueError(f"{member.name!r} was not asked for")
            part = STORE / ("." + sha + ".part")
            try:
                with part.open("wb") as file:
                    shutil.copyfileobj(content, file, CHUNK_BYTES)
                if packed:
                    unpack(part, expected[sha])
                if hash_file(part) != sha:
                    raise ValueError(f"{sha} was damaged on the way")
                part.replace(STORE / sha)
            finally:
                remove(part)


def unpack(path: Path, size: int) -> None:
    """Replace numbered values by the values: of each plane of pixels four bytes by its table of 256 floats.

    The file is one line of JSON (head: what stands before the values, planes: how many tables, length: pixels of a plane), then
    the tables, then the numbers, plane by plane; planes use the tables in turn.
    """
    whole = path.with_name(path.name + ".whole")
    try:
        with path.open("rb") as numbers, whole.open("wb") as values:
            about = json.loads(numbers.readline().decode("ascii"))
            values.write(bytes.fromhex(about["head"]))
            tables = [numbers.read(1024) for _ in range(about["planes"])]
            lanes = [[table[byte::4] for byte in range(4)] for table in tables]
            turn = 0
            while True:
                plane = numbers.read(about["length"])
                if not plane or values.tell() > size:
                    break
                spread = bytearray(4 * len(plane))
                for byte, lane in enumerate(lanes[turn % len(lanes)]):
                    spread[byte::4] = plane.translate(lane)
                values.write(spread)
                turn += 1
        whole.replace(path)
    finally:
        remove(whole)


def make_job(job: Path, files: dict[str, tuple[str, int]], request: dict[str, Any]) -> None:
    """Make a job's folder of files in the store, with room for how it ends."""
    job.mkdir(parents=True)
    try:
        for name, (sha, _) in files.items():
            place = job.joinpath(*[check_name(part) for part in name.split("/")])
            place.parent.mkdir(parents=True, exist_ok=True)
            os.utime(str(STORE / sha))
            try:
                os.link(str(STORE / sha), str(place))
            except OSError:  # a file system without links, such as an SD card's
                shutil.copyfile(str(STORE / sha), str(place))
        write_record(job / "request.json", {key: request[key] for key in ("host", "digest")})
        write_record(job / "status.json", {})
        with (job / "status.json").open("rb") as file:
            os.fsync(file.fileno())
    except BaseException:
        shutil.rmtree(str(job))
        raise


def trim_store(limit: int, wanted: set[str]) -> None:
    """Remove what was not used for longest, until the store is within its limit; what is wanted stays."""
    kept = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in STORE.glob("*"))
    total = sum(size for _, size, _ in kept)
    for _, size, path in kept:
        if total > limit and path.name not in wanted:
            remove(path)
            total -= size
