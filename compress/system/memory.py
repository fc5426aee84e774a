"""Choose where decoded images are held: in memory, or in a file of the run's cache that is read row by row.

Imports no torch, so that `compress check` can say what a run will choose.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import psutil

from compress.errors import CompressError
from compress.text import format_bytes

Place = Literal["memory", "disk"]
Wanted = Literal["auto", "memory", "disk"]

MEMORY_SHARE = 0.25
"""Of the memory that is available, what decoded images may take: as tensors, and with the border that crops are taken from,
they lie in memory up to four times."""


class Storage(NamedTuple):
    """What was chosen, and by which figures."""

    place: Place
    needed_bytes: int
    """Of all images, decoded."""
    available_bytes: int
    """Of memory."""

    def __str__(self) -> str:
        size = format_bytes(self.needed_bytes)
        if self.place == "memory":
            return f"{size} in memory"
        return f"{size} decoded once to disk, read row by row ({format_bytes(self.available_bytes)} of memory is free)"


def choose_place(wanted: Wanted, *, images: int, height: int, width: int, depth: int, can_stream: bool) -> Storage:
    """Choose whether decoded images are held in memory or on disk.

    Args:
        wanted: What the recipe says.
        images: How many there are, in all splits.
        height: Of an image, in pixels.
        width: Of an image, in pixels.
        depth: Of an image, in bytes for a pixel.
        can_stream: Whether the source can give its pictures one by one, and there is a place on disk.

    Raises:
        CompressError: They do not fit where the recipe wants them.
    """
    needed, available = images * height * width * depth, measure_available_bytes()
    if wanted == "disk" and not can_stream:
        raise CompressError("data.storage: disk, but this source gives its images only all at once; use memory or auto")
    if can_stream and (wanted == "disk" or (wanted == "auto" and needed > MEMORY_SHARE * available)):
        return Storage("disk", needed, available)
    require_memory(images, height, width, depth, can_stream=can_stream)
    return Storage("memory", needed, available)


def require_memory(images: int, height: int, width: int, depth: int, *, can_stream: bool) -> None:
    """Raise if images do not fit into memory.

    Raises:
        CompressError: The message says how much they need and what to do.
    """
    needed, available = images * height * width * depth, measure_available_bytes()
    if needed > available:
        raise CompressError(
            f"data.image_size: {images} images of {height} × {width} need {format_bytes(needed)} of memory, and "
            f"{format_bytes(available)} is free; {'set data.storage: disk, ' if can_stream else ''}"
            "choose a smaller size, or use fewer images"
        )


def measure_available_bytes(control: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how much memory is free for this process, in a container no more than what is left of the container's.

    Args:
        control: Where Linux shows the limits of the control group.
    """
    free = int(psutil.virtual_memory().available)
    try:
        limit, used, statistics = ((control / name).read_text() for name in ("memory.max", "memory.current", "memory.stat"))
    except OSError:  # no such limits here
        return free
    if limit.strip() == "max":
        return free
    cached = next((int(line.split()[1]) for line in statistics.splitlines() if line.startswith("inactive_file ")), 0)
    return max(0, min(free, int(limit) - int(used) + cached))
