"""Format counts, sizes, intervals and durations as people read them; a missing value is a dash, never 0."""

from __future__ import annotations

import math
import re

MISSING = "–"

_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that command a terminal or turn the direction of text, and halves of characters, which no encoding has."""


def escape_commands(text: str) -> str:
    """Return text that a terminal shows and does not obey, for names come from strangers; lines stay lines."""
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def escape_commands_in_json(text: str) -> str:
    """Return JSON whose texts hold no such characters, but the same values."""
    return _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def shorten(text: str, longest: int = 500) -> str:
    """Return text with no more than so many characters, and a mark where some were left out."""
    return text if len(text) <= longest else f"{text[:longest]}…"


def quantify(number: float, noun: str, plural: str | None = None) -> str:
    """Return `1 epoch`, `3 epochs`, `0.5 points`.

    Args:
        number: How many; whole numbers are written without a fraction.
        noun: One of them.
        plural: Several of them; default: the noun with an s.
    """
    written = str(number) if isinstance(number, int) else f"{number:g}"
    return f"{written} {noun if number == 1 else plural or f'{noun}s'}"


def name_teacher(index: int, count: int, *, separator: str = "") -> str:
    """Return what a teacher is called in stages, loss terms and reports: `teacher`, or of several `teacher0`, `teacher1`.

    Args:
        index: Which one it is, from 0 on.
        count: How many there are.
        separator: Stands before the number; a dot makes the name of a recipe's field.
    """
    return "teacher" if count == 1 else f"teacher{separator}{index}"


def format_number(value: float | None, digits: int = 3) -> str:
    """Return a number with that many significant digits, without an exponent from 0.001 to a million."""
    if value is None:
        return MISSING
    if value < 0:
        return f"−{format_number(-value, digits)}"
    if value == 0 or not math.isfinite(value):
        return f"{abs(value):g}"  # of −0.0 too
    if not 1e-3 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def format_count(value: float | None) -> str:
    """Return a large number as 78.0 k, 1.93 M or 25.6 G."""
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value is not None and value >= factor:
            return format_number(value / factor) + unit
    return MISSING if value is None else f"{value:g}"


def format_bytes(value: int | None) -> str:
    """Return bytes as KiB, MiB or GiB."""
    for factor, unit in ((1 << 30, " GiB"), (1 << 20, " MiB"), (1 << 10, " KiB")):
        if value is not None and value >= factor:
            return format_number(value / factor) + unit
    return MISSING if value is None else f"{value} B"


def format_percent(value: float | None) -> str:
    """Return a share with one decimal; 100.0 % is said only of all."""
    if value is None:
        return MISSING
    return f"{value:.1f} %" if value == 100 or value < 99.95 else f"{math.floor(value * 100) / 100:.2f} %"


def format_interval(bounds: tuple[float, float] | None, digits: int | None = None) -> str:
    """Return an interval; with `digits` decimals, or else three significant digits."""
    if bounds is None:
        return MISSING
    return "–".join(_use_minus_sign(f"{bound:.{digits}f}") if digits is not None else format_number(bound) for bound in bounds)


def format_duration(seconds: float) -> str:
    """Return a time in the unit that people would use."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{format_number(seconds / length, 2)} {unit}"
    return f"{format_number(seconds, 2)} s"


def format_signed(value: float, digits: int = 1) -> str:
    """Return a difference with its sign."""
    return _use_minus_sign(f"{value:+.{digits}f}")


def _use_minus_sign(number: str) -> str:
    """Return the text of a number, one without an exponent, with a minus sign instead of the hyphen."""
    return number.replace("-", "−")
