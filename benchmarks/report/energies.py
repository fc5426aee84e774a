"""The energy of a call on each device where it was asked for: measured by a sensor that is named, or why it was not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from compress.records import Energy, Report, Variant
from compress.text import MISSING, format_interval, format_number

APART = "Energies by sensors that cover different things do not compare, nor do those of different devices."


class EnergyLine(NamedTuple):
    """The energy of a call of one file, as text."""

    file: str
    above_idle: str
    total: str
    idle: str
    """Power of the idle machine."""
    unavailable: str
    """Why there is none; empty where it was measured."""


class EnergyTable(NamedTuple):
    """All files on one device."""

    device: str
    sensors: tuple[str, ...]
    """What was measured with, and what that covers."""
    lines: tuple[EnergyLine, ...]


def describe_energies(report: Report) -> list[EnergyTable]:
    """Return a table for each device on which energy was asked for, this machine first."""
    places = {device: [each for each in report.variants if each.device == device] for device in _list_own(report)}
    places |= {each.name: [*each.rows] for each in report.devices}
    tables = (_make_table(device, rows) for device, rows in places.items())
    return [table for table in tables if table.lines]


def _list_own(report: Report) -> dict[str, None]:
    return dict.fromkeys(variant.device for variant in report.variants)


def _make_table(device: str, rows: Sequence[Variant]) -> EnergyTable:
    found = [(row, row.energy) for row in rows if row.energy is not None]
    sensors = dict.fromkeys(
        f"Measured by {energy.sensor}, which covers {energy.covers}; medians of {energy.blocks} blocks"
        for _, energy in found
        if energy.sensor
    )
    return EnergyTable(device, tuple(sensors), tuple(_make_line(row, energy) for row, energy in found))


def _make_line(row: Variant, energy: Energy) -> EnergyLine:
    return EnergyLine(
        file=f"{row.network} {row.runtime} {row.precision}",
        above_idle=_format(energy.above_idle_mj, energy.above_idle_ci95),
        total=_format(energy.total_mj, energy.total_ci95),
        idle=MISSING if energy.idle_watts is None else format_number(energy.idle_watts),
        unavailable=energy.unavailable,
    )


def _format(value: float | None, bounds: tuple[float, float] | None) -> str:
    return MISSING if value is None else f"{format_number(value)} ({format_interval(bounds)})"
