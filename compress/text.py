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


def name_teacher(index: int, count: int, *, separator: str = "") -> str:
    """Return what a teacher is called in stages, loss terms and reports: `teacher`, or of several `teacher0`, `teacher1`.

    Args:
        index: Which one it is, from 0 on.
        count: How many there are.
        separator: Stands before the number; a dot makes the name of a recipe's field.
    """
    return "teacher" if count == 1 else f"teacher{separator}{index}"
