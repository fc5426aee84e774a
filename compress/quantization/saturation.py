"""Tell processors that saturate when they multiply int8, and so need a spare bit in the weights, from those that do not."""

from __future__ import annotations

import platform

X86 = frozenset({"x86_64", "amd64", "i386", "i686"})
VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""Flags of processors that add int8 products in 32 bits; those with AMX have VNNI."""


def explain_no_spare_bit(instructions: str, machine: str = "") -> str:
    """Return the reason why weights need no spare bit on a processor; empty where they need one, or where that is unknown.

    On x86 without VNNI, two products of 8 bits each are added in 16 bits, which overflow when both weights are large. ARM adds
    in 32 bits.

    Args:
        instructions: Flags of the processor, with commas, as `benchmarks.environment` reads them.
        machine: Its architecture, as Python spells it; default: this one.
    """
    machine = machine or platform.machine()
    if machine.lower() not in X86:
        return f"{machine} adds int8 products in 32 bits, so nothing saturates"
    flags = find_vnni_flags(instructions)
    return f"this processor has {flags[0]}, so int8 products do not saturate" if flags else ""


def find_vnni_flags(instructions: str) -> list[str]:
    """Return the flags in `instructions` (with commas between them) that mean that int8 products are added in 32 bits."""
    return sorted(VNNI & {flag.strip() for flag in instructions.split(",")})
