"""The tables of a recipe say what its reports say, and whether its networks had converged."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.studies.run_table import make_run_tables, measure_rise
from compress.records import Report, read

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"


def test_a_curve_that_rises_to_its_end_has_not_converged() -> None:
    """Thirty epochs of which each adds a point rise, in their last six, by three, and scatter by less."""
    rise = measure_rise([float(epoch) for epoch in range(30)])
    assert (rise.points, rise.is_over) == (3.0, False)
    assert rise.scatter == pytest.approx(3.5**0.5)


def test_a_curve_that_is_level_at_its_end_has_converged() -> None:
    """What a curve did before its last fifth does not count, and noise about a level is no rise."""
    rise = measure_rise([*range(24), 50.1, 49.9, 50.0, 49.9, 50.1, 50.0])
    assert rise.points == pytest.approx(0)
    assert rise.is_over


def test_the_tables_hold_each_network_and_each_file() -> None:
    """Networks stand with their mean over seeds, files with the gate's verdict, and where both come from."""
    report = read(RESULTS / "photographs" / "report.json", Report)
    text = "\n".join(make_run_tables(report, report, seeds_name="photographs", files_name="photographs", recipe="photographs"))
    for scores in report.scores:
        assert f"| {scores.network} | {scores.method} |" in text
    for row in report.variants:
        assert (f"| {row.name} |" in text) == (row.format != "torch")
    assert "`benchmarks/results/photographs/report.md`" in text
    assert text.count("benchmarks/results") == 1
