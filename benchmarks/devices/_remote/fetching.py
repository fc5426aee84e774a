"""Fetch the results of a job, and refuse those that the keeper did not write or that changed since."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.devices._remote.agent import Agent, require
from benchmarks.devices._remote.packing import Blob
from benchmarks.devices._remote.transport import Conversation, Lost, clip
from compress.errors import Unreachable

RESULT = re.compile(r"[a-z][a-z0-9_-]{0,40}\.(json|npy)")
"""Names that a runner gives its results."""
RESULT_BYTES = 2 << 30
"""The most that results may hold."""


def read_promise(known: str, end: dict[str, Any], files: Mapping[str, Blob]) -> dict[str, Blob]:
    """Return the results that the keeper named, if a runner may have written them.

    Args:
        known: The job.
        end: How it ended, as the keeper wrote it.
        files: Of the job, which no result may replace.

    Raises:
        Unreachable: No runner writes such results.
    """
    found: dict[str, Blob] = {}
    for name, about in require({"results": {}, **end}, "results", dict).items():
        fits = isinstance(about, list) and len(about) == 2 and isinstance(about[0], str) and type(about[1]) is int
        if not fits or not RESULT.fullmatch(name) or name in files or not 0 <= about[1] <= RESULT_BYTES:
            raise Unreachable(_refuse_results(known, f"{clip(name, 60)}, which no runner writes"))
        found[name] = Blob(*about)
    return found


def take_results(agent: Agent, known: str, promised: Mapping[str, Blob], job: Path) -> None:
    """Fetch results into the job's folder, each whole and with its checksum or not at all, and have the job removed there.

    Raises:
        Lost: The connection broke before they were whole.
        Unreachable: They are others than the keeper named.
    """
    with agent.talk("take", {"job": known}) as (talk, answer):
        if require(answer, "results", dict).keys() != promised.keys():
            raise Unreachable(_refuse_results(known, "others than the keeper named"))
        if require(answer, "damaged", list):
            raise Unreachable(_refuse_results(known, "results of another length than when its runner ended"))
        parts = [_receive(talk, job / name, blob, known) for name, blob in promised.items()]
        for part, name in zip(parts, promised, strict=True):
            part.replace(job / name)
        talk.write(b"arrived\n")


def _receive(talk: Conversation, path: Path, blob: Blob, known: str) -> Path:
    """Write one result under a hidden name, if it is whole and has its checksum; return that.

    Raises:
        Lost: The connection broke before it was whole.
        Unreachable: It has another checksum.
    """
    found, length, part = hashlib.sha256(), 0, path.with_name(f".{path.name}")
    with part.open("wb") as file:
        for content in talk.read_bytes(blob.size_bytes):
            found.update(content)
            length += len(content)
            file.write(content)
    if length < blob.size_bytes:
        part.unlink()
        raise Lost(f"was cut off in {path.name}")
    if found.hexdigest() != blob.sha256:
        part.unlink()
        raise Unreachable(_refuse_results(known, f"{path.name} with another checksum than when its runner ended"))
    return part


def _refuse_results(known: str, what: str) -> str:
    return f"the job {known} gives {what}: it was tampered with, or the disk there is damaged; the job was left there, unused"
