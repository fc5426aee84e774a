"""The cells of a detector: one answer for each cell of each of its maps, row by row, the map with the smallest stride first."""

from __future__ import annotations

from typing import NamedTuple

from compress.errors import CompressError

STRIDES = (2, 4, 8, 16, 32, 64)
MOST_LEVELS = 3


class Level(NamedTuple):
    """One map of answers."""

    stride: int
    """Pixels for each cell."""
    height: int
    width: int

    @property
    def cells(self) -> int:
        """How many cells it has."""
        return self.height * self.width


def find_levels(cells: int, size: tuple[int, int]) -> tuple[Level, ...]:
    """Return the maps that so many cells are of, by the size of the image: one to three strides, each twice the last.

    Args:
        cells: Of all maps together.
        size: Height and width of the image.

    Raises:
        CompressError: No such maps have so many cells.
    """
    for first in range(len(STRIDES)):
        for last in range(first + 1, min(first + MOST_LEVELS, len(STRIDES)) + 1):
            levels = tuple(Level(stride, -(-size[0] // stride), -(-size[1] // stride)) for stride in STRIDES[first:last])
            if sum(level.cells for level in levels) == cells:
                return levels
    raise CompressError(
        f"a detector gives answers for {cells} cells of images of {size[0]} × {size[1]} pixels, which are no maps of one to "
        f"{MOST_LEVELS} strides of {STRIDES[0]} to {STRIDES[-1]} pixels, each twice the last; use another image_size or network"
    )
