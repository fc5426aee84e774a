"""Numbers as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.text import (
    format_bytes,
    format_count,
    format_duration,
    format_interval,
    format_number,
    format_percent,
    format_signed,
)


@given(st.floats(0, 1e6, exclude_min=True), st.integers(1, 4))
def test_below_zero_has_a_minus_sign(value: float, digits: int) -> None:
    """A number below 0 reads as its opposite with a minus sign, never with the hyphen; 0 has no sign."""
    assert format_number(-value, digits) == f"−{format_number(value, digits)}"
    assert format_signed(-value, digits) == format_signed(value, digits).replace("+", "−")
    assert format_interval((-value, value), digits) == f"−{format_interval((value, value), digits)}"
    assert format_number(-0.0, digits) == "0"


def test_numbers_are_not_polished() -> None:
    """100.0 % is said of all and not of nearly all; a missing number is a dash; small numbers keep three digits."""
    assert format_percent(100.0) == "100.0 %"
    assert format_percent(99.99) == "99.99 %"
    assert format_percent(99.999) == "99.99 %"
    assert format_percent(None) == format_bytes(None) == format_count(None) == format_number(None) == "–"
    assert [format_number(value) for value in (0.1318, 12.34, 123.4, 0, 3.1e-6)] == [
        "0.132",
        "12.3",
        "123",
        "0",
        "3.10e-06",
    ]
    assert [format_bytes(value) for value in (512, 2048, 3 << 20)] == ["512 B", "2.00 KiB", "3.00 MiB"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.04, "0.040 s"), (3.25, "3.2 s"), (89, "89 s"), (90, "1.5 min"), (5000, "83 min"), (9000, "2.5 h")]
)
def test_a_time_has_the_unit_that_people_use(seconds: float, words: str) -> None:
    """Seconds below a minute and a half, minutes below an hour and a half."""
    assert format_duration(seconds) == words
