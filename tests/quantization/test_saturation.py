"""Processors that saturate when they multiply int8."""

from __future__ import annotations

import pytest

from compress.quantization.saturation import explain_no_spare_bit


@pytest.mark.parametrize(
    ("instructions", "machine", "reason"),
    [
        ("avx2, avx512f", "x86_64", ""), ("unavailable", "AMD64", ""), ("avx2, avx_vnni", "x86_64", "avx_vnni"),
        ("avx2, avx512f, avx512_vnni", "x86_64", "avx512_vnni"), ("asimddp, i8mm", "aarch64", "aarch64"),
        ("unavailable", "arm64", "arm64"),
    ],
)  # fmt: skip
def test_which_processors_saturate(instructions: str, machine: str, reason: str) -> None:
    """x86 without VNNI needs the spare bit, and so may one whose flags are hidden; ARM never does."""
    found = explain_no_spare_bit(instructions, machine)
    assert reason in found
    assert bool(found) == bool(reason)
