"""Numbers with what they count, as people write them."""

from __future__ import annotations


def counted(number: float, noun: str, plural: str | None = None) -> str:
    """Return `1 epoch`, `3 epochs`, `0.5 points`.

    Args:
        number: How many; whole numbers are written without a fraction.
        noun: One of them.
        plural: Several of them; default: the noun with an s.
    """
    written = str(number) if isinstance(number, int) else f"{number:g}"
    return f"{written} {noun if number == 1 else plural or f'{noun}s'}"
