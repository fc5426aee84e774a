"""Findings of decoding pictures: those that cannot be read, and how much of more than eight bits is used.

Both are told of the whole set at once: a message for each picture would cost a run each.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from compress.errors import CompressError, Unreachable
from compress.preprocess import FULL_WHITE, Levels, Picture
from compress.records import Preprocess
from compress.text import quantify

SHOWN = 10
"""Unreadable pictures that a message names."""
GRAY_NOISE = 4
"""Difference of channels that JPEG leaves in a gray picture."""
HALF_RANGE = (FULL_WHITE + 1) // 2
SKIP = "data.skip_unreadable: true leaves out what cannot be read"


class Findings:
    """What is known of the pictures of a data set so far."""

    def __init__(self) -> None:
        self.looked_at = 0
        self.unreadable: list[CompressError] = []
        self.left_out: dict[str, list[int]] = {}
        """Rows of each split whose pictures cannot be read."""
        self.sizes: list[tuple[int, int]] = []
        """Width and height of each picture that can be read."""
        self.coloured = 0
        """Pictures of three channels that are not alike."""
        self._levels: dict[str, tuple[int, Levels]] = {}

    def add_unreadable(self, split: str, row: int, problem: CompressError) -> None:
        """Count a picture that cannot be read."""
        self.looked_at += 1
        self.unreadable.append(problem)
        self.left_out.setdefault(split, []).append(row)

    def add_picture(self, split: str, picture: Picture) -> None:
        """Count a picture that was decoded."""
        self.looked_at += 1
        self.sizes.append(picture.size)
        self.coloured += bool(np.ptp(picture.pixels, axis=-1).max() > GRAY_NOISE)
        if picture.levels is not None:
            count, known = self._levels.get(split, (0, picture.levels))
            self._levels[split] = count + 1, known.join(picture.levels)

    def refuse_unreadable(self) -> None:
        """Refuse pictures that cannot be read.

        Raises:
            CompressError: There are some; the message names the first of them, and how many there are.
            Unreachable: All of them are files that cannot be opened.
        """
        if not self.unreadable:
            return
        kind = Unreachable if all(isinstance(problem, Unreachable) for problem in self.unreadable) else CompressError
        if len(self.unreadable) == 1:
            raise kind(f"{self.unreadable[0]} ({SKIP})")
        lines = [f"  {problem}" for problem in self.unreadable[:SHOWN]]
        more = [f"  and {len(self.unreadable) - SHOWN} more"] if len(self.unreadable) > SHOWN else []
        first = f"{len(self.unreadable)} of {self.looked_at} pictures cannot be read:"
        raise kind("\n".join([first, *lines, *more, f"mend or remove them; {SKIP}"]))

    def refuse_narrow_range(self, preprocess: Preprocess) -> None:
        """Refuse pictures of 16 bits of which a split uses less than half, unless the recipe says which value is white.

        Raises:
            CompressError: There are such pictures; the message says which values they use, and what to set. Or none of their
                values lies between what the recipe calls black and white.
        """
        for split, (count, levels) in self._levels.items():
            if preprocess.white_level is not None:
                _refuse_one_colour(split, levels, preprocess.black_level, preprocess.white_level)
            elif _is_narrow(levels):
                left = (levels.most >> 8) - (levels.least >> 8) + 1
                raise CompressError(
                    f"data: {split} split: {quantify(count, 'picture')} of more than 8 bits hold values {levels.least} to "
                    f"{levels.most} only, of the 0 to {FULL_WHITE} of 16 bits, so {left} of 256 levels would be left; "
                    f"{_advise(levels)}, or data.white_level: {FULL_WHITE} if they are meant to be so"
                )

    def describe_clipping(self, preprocess: Preprocess) -> Iterator[str]:
        """Yield where values lie beyond what the recipe calls black and white, and so become that."""
        for split, (_, levels) in self._levels.items():
            black, white = preprocess.black_level, preprocess.white_level
            if white is not None and levels.most > white:
                yield f"{split} split: values above data.white_level {white}, up to {levels.most}, become white"
            if white is not None and levels.least < black:
                yield f"{split} split: values below data.black_level {black}, down to {levels.least}, become black"

    def propose_levels(self) -> dict[str, int]:
        """Return the fields of the recipe that the values of more than eight bits ask for; none where they use their range."""
        known = [levels for _, levels in self._levels.values()]
        if not known:
            return {}
        whole = Levels(min(levels.least for levels in known), max(levels.most for levels in known))
        return _propose_levels(whole) if _is_narrow(whole) or whole.most > FULL_WHITE else {}

    def describe_levels(self) -> Iterator[str]:
        """Yield which values of more than eight bits occur."""
        for split, (count, levels) in self._levels.items():
            yield f"{count} pictures of the {split} split have more than 8 bits, with values {levels.least} to {levels.most}."


def _refuse_one_colour(split: str, levels: Levels, black: int, white: int) -> None:
    """Refuse levels that make every value of more than 8 bits of a split white, or every one black."""
    if levels.least < white and levels.most > black:
        return
    colour = "white" if levels.least >= white else "black"
    field = f"data.{colour}_level: {white if colour == 'white' else black}"
    raise CompressError(
        f"data: {split} split: pictures of more than 8 bits hold values {levels.least} to {levels.most}, and {field} makes all "
        f"of them {colour}; {_advise(levels)}"
    )


def _is_narrow(levels: Levels) -> bool:
    return levels.most - levels.least < HALF_RANGE


def _propose_levels(levels: Levels) -> dict[str, int]:
    """Return the white of as many bits as the values need, or of data with an offset both ends."""
    if levels.least > (levels.most - levels.least) // 2:
        return {"black_level": levels.least, "white_level": levels.most}
    return {"white_level": (1 << max(levels.most.bit_length(), 8)) - 1}


def _advise(levels: Levels) -> str:
    fields = _propose_levels(levels)
    bits = "" if len(fields) > 1 else f" ({fields['white_level'].bit_length()} bits)"
    return f"set {' and '.join(f'data.{name}: {value}' for name, value in fields.items())}{bits}"
