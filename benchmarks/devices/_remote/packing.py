"""What of a job travels to a board: each file once by its content, and images as small as they can be without a loss.

Normalised images come from pixels of one byte, so each channel holds at most 256 different floats. Those travel as a table and
one byte for each pixel, a quarter of the length; the board puts the floats back, and their checksum proves it.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.devices._remote.transport import Conversation
from compress.system.files import hash_file

PACKED = ".packed"
"""End of the name of a packed file in the tar, as the agent knows it."""
SMALLEST_PACKED_BYTES = 1 << 16
VALUES = 256


class Blob(NamedTuple):
    """A file by its content."""

    sha256: str
    size_bytes: int


def list_files(job: Path) -> dict[str, Blob]:
    """Return checksum and length of each file of a job, by its place in the job's folder."""
    found = sorted(path for path in job.rglob("*") if path.is_file())
    return {path.relative_to(job).as_posix(): Blob(hash_file(path), path.stat().st_size) for path in found}


def write_files(job: Path, files: Mapping[str, Blob], missing: Iterable[str], talk: Conversation) -> None:
    """Write the missing files of a job as a tar whose members are named by their checksums."""
    places = {blob.sha256: job / name for name, blob in files.items()}
    with tarfile.open(fileobj=cast("IO[bytes]", _Stream(talk)), mode="w|", format=tarfile.USTAR_FORMAT) as archive:
        for sha in missing:
            packed = _pack(places[sha])
            if packed is None:
                member = tarfile.TarInfo(sha)
                member.size = places[sha].stat().st_size
                with places[sha].open("rb") as file:
                    archive.addfile(member, file)
            else:
                member = tarfile.TarInfo(sha + PACKED)
                member.size = len(packed)
                archive.addfile(member, io.BytesIO(packed))


def send_files(folder: Path, files: Mapping[str, Blob], missing: Iterable[str], talk: Conversation) -> None:
    """Send the missing files of a folder, and say that there are no more."""
    write_files(folder, files, missing, talk)
    talk.close()


class _Stream:
    """What a tar is written to."""

    def __init__(self, talk: Conversation) -> None:
        self._talk = talk

    def write(self, content: bytes) -> int:
        """Send a part of it."""
        self._talk.write(content)
        return len(content)


def _pack(path: Path) -> bytes | None:
    """Return the packed content of a file of images, None where it is none or would lose something."""
    if path.suffix != ".npy" or path.stat().st_size < SMALLEST_PACKED_BYTES:
        return None
    images = np.load(path, mmap_mode="r", allow_pickle=False)
    if images.dtype != np.dtype("<f4") or images.ndim != 4 or not images.flags.c_contiguous:
        return None
    values = images.view(np.uint32)  # bit by bit, so that no two zeros or NaNs are taken for each other
    tables = [_collect_values(plane) for plane in _split_channels(values)]
    if any(table is None for table in tables):
        return None
    with path.open("rb") as file:
        head = file.read(path.stat().st_size - images.nbytes)
    about = {"head": head.hex(), "planes": images.shape[1], "length": images.shape[2] * images.shape[3]}
    filled = [np.resize(table, VALUES) for table in tables if table is not None]
    numbers = np.empty(images.shape, np.uint8)
    for channel, table in enumerate(each for each in tables if each is not None):
        numbers[:, channel] = np.searchsorted(table, values[:, channel])
    return b"".join([json.dumps(about).encode("ascii"), b"\n", *(table.tobytes() for table in filled), numbers.tobytes()])


def _split_channels(values: NDArray[np.uint32]) -> Iterator[NDArray[np.uint32]]:
    """Yield each channel [N, H, W] of images [N, C, H, W]."""
    return (values[:, channel] for channel in range(values.shape[1]))


def _collect_values(plane: NDArray[np.uint32]) -> NDArray[np.uint32] | None:
    """Return the different values of a channel [N, H, W] in order, None where there are more than a byte can number."""
    found = np.empty(0, np.uint32)
    for image in plane:
        places = np.minimum(np.searchsorted(found, image), max(len(found) - 1, 0))
        if not len(found) or (found[places] != image).any():
            found = np.union1d(found, image)
        if len(found) > VALUES:
            return None
    return found
