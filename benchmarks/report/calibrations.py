"""Calibration of every network and file: how far scores are from how often they are right, before and after scaling."""

from __future__ import annotations

from typing import NamedTuple

from compress.records import Calibration, Report
from compress.text import format_number


class CalibrationTable(NamedTuple):
    """Calibration on the test split."""

    lines: tuple[CalibrationLine, ...]
    samples: int
    """Test images."""
    bins: int


class CalibrationLine(NamedTuple):
    """One network or file."""

    name: str
    method: str
    nll: str
    ece: str
    """In percent."""
    temperature: str
    scaled_nll: str
    scaled_ece: str


def describe_calibrations(report: Report) -> CalibrationTable | None:
    """Return the table of a report; `None` where nothing is known, as in older reports."""
    found = [(row.name, row.method, row.calibration) for row in report.variants if row.calibration]
    if not found:
        return None
    first = found[0][2]
    return CalibrationTable(tuple(_describe(*each) for each in found), first.samples, first.bins)


def _describe(name: str, method: str, found: Calibration) -> CalibrationLine:
    return CalibrationLine(
        name, method, format_number(found.nll), f"{found.ece_percent:.1f}", format_number(found.temperature),
        format_number(found.scaled_nll), f"{found.scaled_ece_percent:.1f}",
    )  # fmt: skip
